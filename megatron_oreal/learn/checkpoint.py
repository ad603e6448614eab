"""Everything a run needs to go on as if it had never stopped: models, optimizers, schedules, and where the run stood.

<run_dir>/checkpoints/step-00010/
    policy/, token_rm/   Megatron distributed checkpoints: load in any TP, PP, CP, DP layout
    state.json           RunState: written last, so a folder that has it is whole
A save is made in a folder aside and renamed when every rank has written; a killed save leaves the last good one untouched.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch
from megatron.core import dist_checkpointing, parallel_state
from torch.distributed.checkpoint import CheckpointException

from megatron_oreal.evaluate import Evaluation
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner

STATE = "state.json"


@dataclass(frozen=True)
class RunState:
    """Where a run stands after a step; everything but the tensors."""

    step: int = 0  # optimizer steps done
    version: int = 0  # policy version
    drawn: int = 0  # prompts drawn
    selector: str = ""  # state of selection's random generator, hexadecimal
    evaluations: dict[int, Evaluation] = field(default_factory=dict)  # step -> held-out result


class Checkpoints:
    """Saves and restores a Learner. Collective over all ranks."""

    def __init__(self, run_dir: str | Path, learner: Learner, ranks: Ranks, keep_last: int):
        self._folder, self._ranks, self._keep_last = Path(run_dir) / "checkpoints", ranks, keep_last
        self._models = {"policy": learner.policy} | ({"token_rm": learner.token_rm} if learner.token_rm else {})

    def save(self, state: RunState | None) -> None:
        """Write a checkpoint of this step (rank 0's state counts), then remove those beyond keep_last."""
        state = self._ranks.share(state, RunState)
        final, partial = self._folder / f"step-{state.step:05d}", self._folder / f".step-{state.step:05d}.partial"
        if self._ranks.conducts:
            shutil.rmtree(partial, ignore_errors=True)
            for name in self._models:
                (partial / name).mkdir(parents=True)
        self._ranks.barrier()
        for name, model in self._models.items():
            dist_checkpointing.save(_sharded(model, loading=False), str(partial / name))
        self._ranks.barrier()
        if self._ranks.conducts:
            (partial / STATE).write_bytes(msgspec.json.encode(state))
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in list_checkpoints(self._folder)[: -self._keep_last]:
                shutil.rmtree(old)
        self._ranks.barrier()

    def restore(self, resume: str | None) -> RunState:
        """Load what `resume` names (see find_checkpoint) into the learner; a fresh RunState where that is nothing.

        Raises:
            ValueError: one line; the checkpoint cannot be read, and the one before it is named.
        """
        folder = Path(self._ranks.share(str(find_checkpoint(self._folder, resume) or "") if self._ranks.conducts else None, str))
        if folder == Path():
            return RunState()
        try:
            for name, model in self._models.items():
                _load(model, str(folder / name))
            return msgspec.json.decode((folder / STATE).read_bytes(), type=RunState)
        except (Exception, CheckpointException) as error:  # whatever a damaged file makes the reader raise, the user needs the same line
            before = [c for c in list_checkpoints(folder.parent) if c.name < folder.name]
            advice = f"; try resume={before[-1]}" if before else ""
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ValueError(f"resume: {folder} cannot be loaded ({type(error).__name__}: {reason}){advice}") from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{STATE}"))


def find_checkpoint(folder: Path, resume: str | None) -> Path | None:
    """The checkpoint that `resume` names: None nothing, "auto" the newest in `folder` (or nothing), else a folder.

    Raises:
        ValueError: the folder named is no whole checkpoint.
    """
    if resume is None:
        return None
    if resume == "auto":
        return next(reversed(list_checkpoints(folder)), None)
    if not (Path(resume) / STATE).is_file():
        raise ValueError(f"resume: {resume} is no whole checkpoint ({STATE} is missing)")
    return Path(resume)


def _metadata() -> dict:
    """How the distributed optimizer's state is laid out: whole parameters, so that any layout can load it."""
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "distrib_optim_fully_reshardable_mem_efficient": False,
        "chained_optim_avoid_prefix": True,
        "singleton_local_shards": False,
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
    }


def _sharded(model: Trainable, loading: bool) -> dict:
    metadata = _metadata()
    state = {f"chunk{i}": chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(model.gpt)}
    state["optimizer"] = model.optimizer.sharded_state_dict(state, is_loading=loading, metadata=metadata)
    state["schedule"] = model.schedule.state_dict()
    return state


def _load(model: Trainable, folder: str) -> None:
    state = dist_checkpointing.load(_sharded(model, loading=True), folder)
    for i, chunk in enumerate(model.gpt):
        chunk.load_state_dict(state[f"chunk{i}"])
    with torch.no_grad():
        model.optimizer.load_state_dict(state["optimizer"])
    model.schedule.load_state_dict(state["schedule"])
