"""Everything a run needs to go on as if it had never stopped: models, optimizers, schedules, and where the run stood.

<run_dir>/checkpoints/step-00010/
    policy/, token_rm/   Megatron distributed checkpoints: load in any TP, PP, CP, DP layout
    state.json           where the run stood: written last, so a folder that has it is whole
A checkpoint is written aside, in the background, and renamed when every rank has written; a killed save leaves the last good one.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedObject
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch.distributed.checkpoint import CheckpointException

from megatron_oreal.learn.background_save import BackgroundSave, HostCopies
from megatron_oreal.learn.config import CheckpointConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.monitor.saved import STATE, find_checkpoint, list_checkpoints


class Saved(Protocol):
    """What is saved beside the tensors: a dataclass that says where the run stood."""

    @property
    def step(self) -> int: ...

    @property
    def score(self) -> float | None:
        """Of these weights on the validation set; None where that is not known."""


State = TypeVar("State", bound=Saved)


@dataclass(frozen=True)
class _Saving:
    """A checkpoint that is being written."""

    step: int
    state: bytes  # JSON, as it was when the checkpoint began
    partial: Path
    writers: list[BackgroundSave]  # one a model
    deadline: float  # on time.monotonic()


class Checkpoints(Generic[State]):
    """Saves and restores a Learner. All methods but `due` are collective over all ranks."""

    def __init__(self, run_dir: str | Path, config: CheckpointConfig, learner: Learner, ranks: Ranks, kind: type[State]):
        """`kind`: of the state that is saved with the tensors; without arguments, that of a fresh run."""
        self._folder, self._config, self._ranks, self._kind = Path(run_dir) / "checkpoints", config, ranks, kind
        self._models = {"policy": learner.policy} | ({"token_rm": learner.token_rm} if learner.token_rm else {})
        self._host = {name: HostCopies() for name in self._models}
        self._saving: _Saving | None = None

    def due(self, step: int, best: bool = False) -> bool:
        """Whether a checkpoint is wanted after this step; `best`: it is the best so far."""
        return step % self._config.interval == 0 or (best and self._config.keep_best > 0)

    def save(self, state: State) -> dict[str, float]:
        """Begin a checkpoint (rank 0's state counts); the files are written while the next step samples.

        The one before is finished first. Before the weights change comes release(). Returns the seconds that training waited.
        """
        started = time.perf_counter()
        self.finish()
        state = self._ranks.share(state, self._kind)
        partial = self._folder / f".step-{state.step:05d}.partial"
        if self._ranks.conducts:
            shutil.rmtree(partial, ignore_errors=True)
            for name in self._models:
                (partial / name).mkdir(parents=True)
        self._ranks.barrier()
        writers = [BackgroundSave(self._sharded(model, False), partial / name, self._host[name]) for name, model in self._models.items()]
        self._saving = _Saving(state.step, msgspec.json.encode(state), partial, writers, time.monotonic() + self._config.timeout_s)
        return {"time/checkpoint": time.perf_counter() - started}

    def poll(self) -> None:
        """Put the checkpoint in its place if every rank has written its part by now."""
        if self._saving:
            mine = torch.tensor([sum(not writer.done for writer in self._saving.writers)])
            if int(self._ranks.total(mine)) == 0:
                self._put_in_place()

    def release(self) -> dict[str, float]:
        """The weights may change when this returns. Where they are written from host memory, which they live or rest in, files come first.

        Returns the seconds that it took. Raises NotWritten as finish().
        """
        started = time.perf_counter()
        if self._saving is None or not (self._ranks.platform.is_cpu or any(model.saved_from_host for model in self._models.values())):
            return {}
        self.finish()
        return {"time/checkpoint_wait": time.perf_counter() - started}

    def finish(self) -> None:
        """Wait for the checkpoint that is being written.

        Raises:
            NotWritten: it could not be written, or not within checkpoint.timeout_s.
        """
        if self._saving:
            for writer in self._saving.writers:
                writer.wait(self._saving.deadline - time.monotonic())
            self._put_in_place()

    def _put_in_place(self) -> None:
        saving, self._saving = self._saving, None
        for writer in saving.writers:
            writer.complete()
        self._ranks.barrier()
        if self._ranks.conducts:
            (saving.partial / STATE).write_bytes(saving.state)
            final, old = self._folder / f"step-{saving.step:05d}", self._folder / f".step-{saving.step:05d}.old"
            if final.exists():
                final.rename(old)
            saving.partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)
            for unwanted in self._beyond(list_checkpoints(self._folder)):
                shutil.rmtree(unwanted)
        self._ranks.barrier()

    def _beyond(self, checkpoints: list[Path]) -> list[Path]:
        """Those that are neither among the newest keep_last nor among the keep_best by their score on the validation set."""
        results = {path: msgspec.json.decode((path / STATE).read_bytes(), type=self._kind).score for path in checkpoints}
        evaluated = [path for path in checkpoints if results[path] is not None]
        best = sorted(evaluated, key=lambda path: (results[path], path.name), reverse=True)[: self._config.keep_best]
        return [path for path in checkpoints[: -self._config.keep_last] if path not in best]

    def restore(self, resume: str | None) -> State:
        """Load what `resume` names (see find_checkpoint) into the learner; a fresh state where that is nothing.

        Raises:
            ValueError: one line; the checkpoint cannot be read, and the one before it is named.
        """
        folder = Path(self._ranks.share(str(find_checkpoint(self._folder, resume) or "") if self._ranks.conducts else None, str))
        if folder == Path():
            return self._kind()
        try:
            state = msgspec.json.decode((folder / STATE).read_bytes(), type=self._kind)
            for name, model in self._models.items():
                self._load(model, folder / name)
        except (Exception, CheckpointException) as error:  # whatever a damaged file makes the reader raise, the user needs the same line
            before = [c for c in list_checkpoints(folder.parent) if c.name < folder.name]
            advice = f"; try resume={before[-1]}" if before else ""
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"resume: {folder} cannot be loaded ({type(error).__name__}: {reason}){advice}") from error
        if self._ranks.conducts:
            _set_aside(list_checkpoints(self._folder), after=folder)
        return state

    def _sharded(self, model: Trainable, loading: bool) -> dict:
        return model.sharded(loading) | {"rng": self._rng(_rng_state())}

    def _rng(self, state: dict | None) -> ShardedObject:
        """This rank's random generators, under a name that only the same layout asks for: others could not use them."""
        place = self._ranks.placement
        return ShardedObject(f"rng-{self._ranks.layout}", state, (place.world_size,), (place.rank,))

    def _load(self, model: Trainable, folder: Path) -> None:
        wanted = self._sharded(model, loading=True)
        if not any(key.startswith(wanted["rng"].key) for key in load_sharded_metadata(str(folder))):
            del wanted["rng"]
        state = dist_checkpointing.load(wanted, str(folder))
        for i, chunk in enumerate(model.gpt):
            chunk.load_state_dict(state[f"chunk{i}"])
        model.load_optimizer(state["optimizer"])
        if "rng" in state:
            torch.set_rng_state(state["rng"]["default"])
            get_cuda_rng_tracker().set_states(state["rng"]["model_parallel"])


def _set_aside(checkpoints: list[Path], after: Path) -> None:
    """The run goes on from an earlier one of its checkpoints: later ones are neither its newest nor its best any more."""
    for later in (c for c in checkpoints if c.parent.resolve() == after.parent.resolve() and c.name > after.name):
        aside = later.with_name(f"abandoned-{later.name}")
        shutil.rmtree(aside, ignore_errors=True)
        later.rename(aside)


def _rng_state() -> dict:
    return {"default": torch.get_rng_state(), "model_parallel": get_cuda_rng_tracker().get_states()}
