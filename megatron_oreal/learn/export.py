"""Hugging Face checkpoints from the running ranks, written while training goes on.

<run_dir>/hf-step-00010/   every checkpoint.hf_interval steps
<run_dir>/hf/              the policy at the end
Every pipeline stage writes its own files, from a copy in its first rank's host memory (32B at PP4: 16 GB each). A folder is written
aside and renamed when every stage has written; a killed run leaves those that were whole.
"""

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from torch import Tensor

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn.config import CheckpointConfig
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Models
from megatron_oreal.model import hf_weights
from megatron_oreal.model.hf_files import TensorSpec
from megatron_oreal.model.hf_writer import MAX_SHARD_BYTES, assign_shards, complete, write_shards

FINAL = "hf"


@dataclass(frozen=True)
class _Writing:
    """A folder that is being written."""

    final: Path
    aside: Path
    thread: "_Writer"
    deadline: float  # on time.monotonic()


class HFExports:
    """Those of a run: every hf_interval steps, of which the newest hf_keep_last are kept, and the final one.

    One folder at a time, in the background. All methods but `due` are collective over all ranks.
    """

    def __init__(self, run_dir: str | Path, config: CheckpointConfig, models: Models, ranks: Ranks):
        self._run_dir, self._config, self._models, self._ranks = Path(run_dir), config, models, ranks
        self._writing: _Writing | None = None
        if ranks.conducts:
            for left in self._run_dir.glob(f".{FINAL}*.partial"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)

    def due(self, step: int) -> bool:
        """Whether an export is wanted after this step."""
        return self._config.hf_interval > 0 and step % self._config.hf_interval == 0

    def begin(self, chunks: Sequence[GPTModel], step: int | None = None) -> dict[str, float]:
        """Copy the weights and write them in the background: as of this step, or the final ones. The export before is finished first.

        Returns the seconds that training waited.

        Raises:
            NotWritten: as finish(); or there is no room for a folder.
        """
        started = time.perf_counter()
        self.finish()
        final = self._run_dir / (FINAL if step is None else f"{FINAL}-step-{step:05d}")
        aside = final.parent / f".{final.name}.partial"
        self._conduct(final, partial(aside.mkdir, parents=True))
        tensors = self._copies(chunks)
        shards = assign_shards({n: TensorSpec(t.dtype, tuple(t.shape)) for n, t in tensors.items()}, MAX_SHARD_BYTES) if tensors else []
        files = torch.zeros(parallel_state.get_pipeline_model_parallel_world_size(), dtype=torch.int64)
        stage = parallel_state.get_pipeline_model_parallel_rank()
        files[stage] = len(shards)
        files = self._ranks.total(files)
        thread = _Writer(aside, shards, tensors, first=int(files[:stage].sum()), total=int(files.sum()))
        thread.start()
        self._writing = _Writing(final, aside, thread, time.monotonic() + self._config.timeout_s)
        return {"time/export": time.perf_counter() - started}

    def poll(self) -> None:
        """Put the folder in its place if every stage has written its part by now."""
        if self._writing:
            mine = torch.tensor([int(self._writing.thread.is_alive())])
            if int(self._ranks.total(mine)) == 0:
                self._put_in_place()

    def finish(self) -> None:
        """Wait for the export that is being written.

        Raises:
            NotWritten: it could not be written, or not within checkpoint.timeout_s.
        """
        if self._writing:
            self._writing.thread.join(max(self._writing.deadline - time.monotonic(), 0))
            self._put_in_place()

    def _copies(self, chunks: Sequence[GPTModel]) -> dict[str, Tensor]:
        """This stage's tensors on the rank that writes them, in memory of their own."""
        if not self._ranks.is_first_replica:
            return {}
        tensors = hf_weights.export(chunks, self._models.dims)  # collective over TP, so every TP rank takes part
        return {n: t.detach().to("cpu", copy=True) for n, t in tensors if self._ranks.is_sender}

    def _put_in_place(self) -> None:
        writing, self._writing = self._writing, None
        late = writing.thread.is_alive()
        failure = f"not within {self._config.timeout_s:.0f} s" if late else writing.thread.failure
        failures, writers = self._ranks.total(torch.tensor([int(failure is not None), int(late)])).tolist()
        try:
            if failures:
                raise NotWritten(_line(writing.final, failure))
            self._conduct(writing.final, partial(self._complete, writing))
        except NotWritten:
            if self._ranks.conducts and not writers:
                shutil.rmtree(writing.aside, ignore_errors=True)
            raise

    def _complete(self, writing: _Writing) -> None:
        complete(writing.aside, self._models.source.folder, self._models.hf, "ForCausalLM")
        old = writing.final.parent / f".{writing.final.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if writing.final.exists():
            writing.final.rename(old)
        writing.aside.rename(writing.final)
        shutil.rmtree(old, ignore_errors=True)
        # Those of later steps are from a stretch that a resumed run goes over again; and hf/ comes before all of them.
        steps = [path for path in sorted(self._run_dir.glob(f"{FINAL}-step-*")) if path.name <= writing.final.name]
        for unwanted in steps[: -self._config.hf_keep_last]:
            shutil.rmtree(unwanted)

    def _conduct(self, final: Path, act: Callable[[], None]) -> None:
        """Rank 0 does something on the disk.

        Raises:
            NotWritten: on every rank, where it could not.
        """
        failure = None
        if self._ranks.conducts:
            try:
                act()
            except (OSError, ValueError) as error:
                failure = f"{type(error).__name__}: {error}"
        if int(self._ranks.total(torch.tensor([int(failure is not None)]))):
            raise NotWritten(_line(final, failure))


def _line(final: Path, failure: str | None) -> str:
    return f"export: {final} could not be written ({failure or 'by another rank'})"


class _Writer(threading.Thread):
    """Writes a stage's files; `failure` says why it could not."""

    def __init__(self, folder: Path, shards: list[dict[str, TensorSpec]], tensors: dict[str, Tensor], first: int, total: int):
        super().__init__(name="export", daemon=True)
        self._arguments = (folder, shards, tensors.items(), first, total)
        self.failure: str | None = None

    def run(self) -> None:
        try:
            write_shards(*self._arguments)
        except Exception as error:  # whatever it is, the folder is not whole
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0]
        finally:
            self._arguments = ()
