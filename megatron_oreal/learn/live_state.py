"""An optimizer's part of a checkpoint: each rank saves its own shard, once, from its own memory, and loads into it what it needs.

Megatron's `fully_reshardable` first gathers weights and moments of whole parameters on every rank, three times the parameters in float32,
to save and to load alike. Here a rank's flat piece of a parameter is cut into at most three blocks of the parameter's shape (the end of a
row, whole rows, the beginning of a row); files carry the same names, and any layout loads them, for the reader puts blocks together.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod

from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor
from torch.optim import Optimizer

METADATA = {
    "distrib_optim_sharding_type": "fully_reshardable",  # whole parameters, so that any layout can load it
    "distrib_optim_fully_reshardable_mem_efficient": False,
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": False,
}
FIELDS = ("param", "exp_avg", "exp_avg_sq")


def save_in_place(optimizers: list[DistributedOptimizer]) -> None:
    """From here on their states are saved from, and loaded into, their own memory."""
    for one in optimizers:
        one.sharded_param_state_fully_reshardable = partial(_own_blocks, one)
        one.load_parameter_state_from_fully_reshardable = lambda state: None  # the reader has filled the optimizer's own tensors
        # Transformer Engine's own would make float32 of all that is less, and, to load, hold all moments twice.
        one.optimizer.state_dict = partial(Optimizer.state_dict, one.optimizer)
        one.optimizer.load_state_dict = partial(_take_settings, one.optimizer)


def _take_settings(adam: Optimizer, state: dict) -> None:
    """And step counts: the states themselves are loaded when this is called."""
    for group, saved in zip(adam.param_groups, state["param_groups"], strict=True):
        group.update({name: value for name, value in saved.items() if name != "params"})


def sharded_state(chunks: Sequence[GPTModel], optimizer: MegatronOptimizer, loading: bool) -> dict:
    """What a checkpoint holds of a model and its optimizer, as it is saved, or as it is to be loaded."""
    metadata = METADATA | {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    state = {f"chunk{i}": chunk.sharded_state_dict(metadata=metadata) for i, chunk in enumerate(chunks)}
    return state | {"optimizer": optimizer.sharded_state_dict(state, is_loading=loading, metadata=metadata)}


def copied(state: dict, copy_of: Callable[[Tensor], Tensor]) -> dict:
    """The same with copies in the place of its tensors; changes `state`."""
    for one in nested_values(state):
        if isinstance(one, ShardedTensor | ShardedTensorFactory) and one.data is not None:
            one.data = copy_of(one.data)
    return state


def _own_blocks(
    optimizer: DistributedOptimizer, model_state: dict, is_loading: bool = False, metadata: dict | None = None
) -> dict[int, dict[str, list[ShardedTensor]]]:
    """Stands in for DistributedOptimizer.sharded_param_state_fully_reshardable: {parameter's number: {field: blocks}}."""
    sharded, _ = extract_sharded_tensors_and_factories(model_state)
    of_parameter = {one.data: one for one in nested_values(sharded)}
    numbered: dict[int, dict[str, list[ShardedTensor]]] = {}
    for parameter, start, end in _own_ranges(optimizer):
        states = _states(optimizer, parameter)
        wholes = list(_wholes(of_parameter[parameter], parameter))
        numbered[len(numbered)] = {
            field: [block for whole in wholes for block in _blocks(whole, field, states[field].detach(), start, end)] for field in FIELDS
        }
    return numbered


def _states(optimizer: DistributedOptimizer, parameter: Tensor) -> dict[str, Tensor]:
    """FIELDS of this rank's piece of a parameter as they are in memory, of whatever number type."""
    group, place = optimizer.model_param_group_index_map[parameter]
    held = optimizer.optimizer.param_groups[group]["params"][place]
    state = optimizer.optimizer.state[held]
    return {"param": state.get("master_param", held)} | state


def _own_ranges(optimizer: DistributedOptimizer) -> Iterator[tuple[Tensor, int, int]]:
    """Parameter, first and last number (flat, of what this rank's tensor parallelism leaves of it) that this rank's optimizer holds."""
    for buffer in optimizer.gbuf_ranges:
        for buckets in buffer.values():
            for bucket in buckets:
                for parameter, ranges in bucket["param_map"].items():
                    yield parameter, ranges["param"].start, ranges["param"].end


def _wholes(like: ShardedTensor | ShardedTensorFactory, parameter: Tensor) -> Iterator[tuple[ShardedTensor, int]]:
    """The tensors that the parameter is saved as, and at which of its numbers each begins: the fused SwiGLU weights are two."""
    for one in like.build() if isinstance(like, ShardedTensorFactory) else [like]:
        yield one, one.data.storage_offset() - parameter.storage_offset()


def _blocks(whole: tuple[ShardedTensor, int], field: str, state: Tensor, start: int, end: int) -> Iterator[ShardedTensor]:
    """As much of `whole` as lies in [start, end) of the parameter, of which `state` [end - start] holds a field."""
    like, begins = whole
    first, last = max(start - begins, 0), min(end - begins, prod(like.local_shape))
    if first >= last:
        return
    blocks = list(_cut(first, last, like.local_shape))
    edges = [first + begins - start]
    for _, sizes in blocks:
        edges.append(edges[-1] + prod(sizes))
    before = like.global_offset[: like.prepend_axis_num]
    for (offsets, sizes), (one, next_one) in zip(blocks, pairwise(edges), strict=True):
        shape = (1,) * len(before) + sizes
        yield replace(
            like,
            key=f"optimizer.state.{field}.{like.key}",
            data=state[one:next_one].view(shape),
            dtype=state.dtype,
            local_shape=shape,
            global_offset=(*before, *(a + b for a, b in zip(like.global_offset[len(before) :], offsets, strict=True))),
            axis_fragmentations=None,  # blocks of any size
            replica_id=(*like.replica_id[:2], 0),  # of data parallelism nobody else has it
            prepend_axis_num=0,
        )


def _cut(start: int, end: int, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """[start, end) of a flat tensor as blocks of its shape, in order: (offsets, sizes) of each."""
    row = prod(shape[1:])
    first, last = -(-start // row), end // row  # whole rows
    if first > last:  # within one row
        yield from (((last, *offsets), (1, *sizes)) for offsets, sizes in _cut(start % row, end % row, shape[1:]))
        return
    if start % row:
        yield from (((first - 1, *offsets), (1, *sizes)) for offsets, sizes in _cut(start % row, row, shape[1:]))
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    if end % row:
        yield from (((last, *offsets), (1, *sizes)) for offsets, sizes in _cut(0, end % row, shape[1:]))
