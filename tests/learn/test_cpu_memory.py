"""What a rank without a GPU need not hold twice: the reference's weights, and what a checkpoint is written from and read into."""

import pytest
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.cpu_mapping import MappedWeights
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.run_state import RunState
from tests.settings import tiny_run


def of_a_checkpoint(run) -> tuple[int, int, int]:
    """(parameters, tensors that a checkpoint saves, those of them that a load writes to as well), each from its own memory."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        checkpoints = Checkpoints(run.run_dir, run.checkpoint, learner, ranks, RunState)
        optimizer = learner.policy.optimizer.chained_optimizers[0].optimizer
        own = {p.data_ptr() for group in optimizer.param_groups for p in group["params"]}
        own |= {t.data_ptr() for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)}
        kinds = (ShardedTensor, ShardedTensorFactory)
        counts = []
        for loading in (False, True):
            state = checkpoints._sharded(learner.policy, loading)["optimizer"]["param_state"]
            tensors = [value for value in nested_values(state) if isinstance(value, kinds)]
            counts.append(sum(value.data.data_ptr() in own for value in tensors))
        return len(list(learner.policy.gpt[0].parameters())), *counts


@pytest.mark.parametrize("layout", [{}, {"tp": 2}], ids=["tp1", "tp2"])
def test_a_checkpoint_is_of_the_optimizers_own_memory(ranks, tiny_model, layout):
    for parameters, saved, loaded in ranks(layout.get("tp", 1), of_a_checkpoint, tiny_run(tiny_model(), layout)):
        assert saved == loaded == 3 * parameters  # weight and two moments


def test_mapped_weights_are_the_same_before_and_after_their_memory_was_given_back(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 3, bias=False, dtype=torch.bfloat16))
    before = [p.detach().clone() for p in model.parameters()]
    mapped = MappedWeights([model], tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())  # the file has no name
    for _ in range(2):
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        mapped.release()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match=rf"reference: its weights could not be written to {tmp_path}/file \(FileExistsError"):
        MappedWeights([torch.nn.Linear(2, 2)], tmp_path / "file")
