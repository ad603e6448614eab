"""What a rank without a GPU need not hold twice: the reference's weights, and what a checkpoint is written from and read into."""

import resource
from math import prod

import megatron.core.distributed.param_and_grad_buffer as buffers
import pytest
import torch
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn import live_state
from megatron_oreal.learn.checkpoint import Checkpoints
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model.blueprint import hf_shapes
from megatron_oreal.model.cpu_mapping import MappedWeights
from megatron_oreal.model.hf_files import read_config
from megatron_oreal.run_state import RunState
from tests.settings import tiny_run


def of_a_checkpoint(run) -> tuple[list[tuple[str, tuple, int]], bool]:
    """(key, offset, numbers) of each block of the optimizer that this rank writes; whether all are its own memory, to save and to load."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        checkpoints = Checkpoints(run.run_dir, run.checkpoint, learner, ranks, RunState)
        optimizer = learner.policy.optimizer.chained_optimizers[0].optimizer
        own = {p.untyped_storage().data_ptr() for group in optimizer.param_groups for p in group["params"]}
        own |= {t.untyped_storage().data_ptr() for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)}
        for loading in (False, True):
            state = checkpoints._sharded(learner.policy, loading)["optimizer"]["param_state"]
            blocks = [value for value in nested_values(state) if isinstance(value, ShardedTensor)]
            in_place = all(block.data.untyped_storage().data_ptr() in own for block in blocks)
        written = [block for block in blocks if set(block.replica_id) == {0}]
        return [(block.key, block.global_offset, block.data.numel()) for block in written], in_place


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"dp": 2}, {"cp": 2}], ids=["one", "tp2", "dp2", "cp2"])
def test_a_checkpoint_is_of_the_optimizers_own_memory_and_everything_is_written_once(ranks, tiny_model, layout):
    model = tiny_model(vocab_size=96)  # which TP 2 need not pad
    results = ranks(2 if layout else 1, of_a_checkpoint, tiny_run(model, layout))
    assert all(in_place for _, in_place in results)
    blocks = [block for written, _ in results for block in written]
    assert len({(key, offset) for key, offset, _ in blocks}) == len(blocks)
    parameters = sum(map(prod, hf_shapes(read_config(model), "policy").values()))
    assert sum(numbers for _, _, numbers in blocks) == 3 * parameters  # weight and two moments


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4)])
def test_any_piece_of_a_tensor_is_cut_into_blocks(shape):
    numbers = torch.arange(prod(shape))
    for start in range(prod(shape)):
        for end in range(start + 1, prod(shape) + 1):
            blocks = list(live_state._cut(start, end, shape))
            places = [tuple(slice(o, o + s) for o, s in zip(*block, strict=True)) for block in blocks]
            assert torch.equal(torch.cat([numbers.view(shape)[place].flatten() for place in places]), numbers[start:end])
            assert len(blocks) <= 2 * len(shape) - 1


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
