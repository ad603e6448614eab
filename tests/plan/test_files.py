"""What real ranks write of a checkpoint, and what they read and copy of it, is what the plan says."""

import pytest
import torch

from megatron_oreal.config import TrainConfig
from megatron_oreal.learn import checkpoint
from megatron_oreal.learn.background_save import HostCopies
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.shape import read_shape
from megatron_oreal.plan.files import Files, largest_read, saved
from megatron_oreal.plan.memory import Formula, Workload
from megatron_oreal.run_state import RunState
from tests.settings import tiny_run


class Counting(HostCopies):
    """And what is handed to it, in bytes."""

    nbytes = 0

    def of(self, tensors):
        self.nbytes += sum(t.nbytes for t in tensors)
        return super().of(tensors)


def written_read_copied(run: TrainConfig, run_dir: str) -> tuple[int, int, int]:
    """Bytes of both models' files by this rank; of the largest tensor that it reads; of the policy's weights that it puts together."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    checkpoints = Checkpoints(run_dir, run.checkpoint, learner, ranks, RunState)
    checkpoints._host = {name: Counting() for name in checkpoints._models}
    checkpoints.save(RunState())
    checkpoints.finish()
    own = {p.untyped_storage().data_ptr() for chunk in learner.policy.gpt for p in chunk.parameters()}
    read, copied = [], []
    load_tensor, load_all = torch.load, checkpoint.dist_checkpointing.load

    def one(*args, **kwargs):
        read.append(load_tensor(*args, **kwargs))
        return read[-1]

    def all_of_a_model(wanted, folder):
        state = load_all(wanted, folder)
        if folder.endswith("policy"):
            tensors = [t for t in state["chunk0"].values() if torch.is_tensor(t)]
            copied.append(sum(t.nbytes for t in tensors if t.untyped_storage().data_ptr() not in own))
        return state

    torch.load, checkpoint.dist_checkpointing.load = one, all_of_a_model
    checkpoints.restore("auto")
    ranks.stop()
    largest = max(t.nbytes for t in read if torch.is_tensor(t))
    return sum(host.nbytes for host in checkpoints._host.values()), largest, copied[0]


@pytest.mark.parametrize("layout", [{"dp": 2}, {"tp": 2, "sequence_parallel": True}], ids=["dp2", "tp2"])
def test_ranks_write_and_read_what_is_planned(ranks, tiny_model, tmp_path, layout):
    run, hf = tiny_run(tiny_model(), layout), read_shape(tiny_model())
    formula = Formula(hf, Workload(run.parallel, "none", "float32", 2, 64, 1, "chunked"))
    models = [formula.stage(role, 0) for role in ("policy", "token_rm", "reference")]
    real = ranks(2, written_read_copied, run, str(tmp_path))
    planned = [sum(saved(m, run.parallel.tp, 2, rank) for m in models[:2]) for rank in (0, 1)]
    assert [written for written, _, _ in real] == pytest.approx(planned, rel=0.1)  # of a small model, norms and padding count
    files = Files.of(run, formula, models, gpus_per_host=8)
    assert files.saving == sum(planned) and files.loading == 2 * largest_read(formula)
    assert files.exporting == models[0].weights * run.parallel.tp
    for _, largest, copied in real:
        assert 0.4 * largest_read(formula) <= largest <= largest_read(formula)  # of two ranks, each may have a half
        assert copied == formula.put_together()
