"""An optimizer's part of a checkpoint without copies, where this rank's optimizer holds its whole parameters (DP and CP are 1).

Megatron's `fully_reshardable` first gathers weights and moments into new memory, three times the parameters in float32, to save and to
load alike. Where there is nothing to gather its own tensors serve, under the same names: files are the same, any layout loads them.
"""

from dataclasses import replace
from functools import partial

from megatron.core import parallel_state
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

FIELDS = ("param", "exp_avg", "exp_avg_sq")


def save_in_place(optimizers: list[DistributedOptimizer]) -> None:
    """From here on their states are saved from, and loaded into, their own memory, where that is possible."""
    if parallel_state.get_data_parallel_world_size(with_context_parallel=True) > 1:
        return
    for one in optimizers:
        one.sharded_param_state_fully_reshardable = partial(_own_tensors, one)


def _own_tensors(
    optimizer: DistributedOptimizer, model_state: dict, is_loading: bool = False, metadata: dict | None = None
) -> dict[int, dict[str, ShardedTensor]]:
    """Stands in for DistributedOptimizer.sharded_param_state_fully_reshardable: {parameter's number: {field: tensor}}."""
    sharded, _ = extract_sharded_tensors_and_factories(model_state)
    of_parameter = {one.data: one for one in nested_values(sharded)}
    numbered: dict[int, dict[str, ShardedTensor]] = {}
    for buffer in optimizer.buffers:
        for parameter in buffer.param_index_map:
            numbered[len(numbered)] = _fields(optimizer, parameter, of_parameter[parameter])
    return numbered


def _fields(optimizer: DistributedOptimizer, parameter, like) -> dict[str, ShardedTensor]:
    states = optimizer._get_main_param_and_optimizer_states(parameter)
    return {
        name: replace(like, key=f"optimizer.state.{name}.{like.key}", data=state.detach().view(parameter.shape), **_dtype(like, state))
        for name, state in ((name, states[name]) for name in FIELDS)
    }


def _dtype(like, state) -> dict:
    """A factory (of the fused SwiGLU weights) takes it from its data."""
    return {"dtype": state.dtype} if isinstance(like, ShardedTensor) else {}
