"""What a rank without a GPU need not hold twice: the reference's weights, and what a checkpoint is written from and read into."""

import resource

import megatron.core.distributed.param_and_grad_buffer as buffers
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


def exchanged(run) -> tuple[list[float], list[float], list[float]]:
    """What Megatron's data-parallel collectives leave of a rank's buffer: reduced and gathered in place, as it does; gathered elsewhere."""
    with Ranks(run.parallel, run.seed) as ranks:
        group, rank = torch.distributed.group.WORLD, torch.distributed.get_rank()
        reduced, gathered, elsewhere = ((rank + 1) * torch.tensor([1.0, 2.0, 3.0, 4.0]) for _ in range(3))
        buffers.dist_reduce_scatter_func(reduced.chunk(ranks.dp)[rank], reduced, group=group)
        buffers.dist_all_gather_func(gathered, gathered.chunk(ranks.dp)[rank], group=group)
        buffers.dist_all_gather_func(elsewhere, torch.ones(4 // ranks.dp), group=group)
        return reduced.chunk(ranks.dp)[rank].tolist(), gathered.tolist(), elsewhere.tolist()


def test_a_rank_alone_keeps_its_buffer_and_two_exchange_theirs(ranks, tiny_model):
    ones = [1.0] * 4
    assert ranks(1, exchanged, tiny_run(tiny_model(), {})) == [([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], ones)]
    gathered = [1.0, 2.0, 6.0, 8.0]
    assert ranks(2, exchanged, tiny_run(tiny_model(), {"dp": 2})) == [([3.0, 6.0], gathered, ones), ([9.0, 12.0], gathered, ones)]


def growth_by_a_large_buffer(run) -> int:
    """MiB that the process has held at its most, beyond a gradient buffer of 256 MiB that was there already."""
    with Ranks(run.parallel, run.seed):
        large = torch.ones(64 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for collective in (buffers.dist_reduce_scatter_func, buffers.dist_all_gather_func):
            collective(large, large, group=torch.distributed.group.WORLD)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10


def test_a_rank_alone_copies_no_buffer(ranks, tiny_model):
    assert ranks(1, growth_by_a_large_buffer, tiny_run(tiny_model(), {}))[0] < 64
