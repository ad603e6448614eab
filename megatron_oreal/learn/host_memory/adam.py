"""AdamW whose float32 weights and moments are in host memory, where the CPU updates them (optimizer.on_host).

Not Megatron's HybridDeviceOptimizer (0.16.1): it cannot be made without CUDA, leaves what is no CUDA tensor where it is, so that no CPU
tests it, takes a step along random gradients to have states to load into, and cannot load those of float32 weights (KeyError).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from megatron_oreal.learn.host_memory.pinned import pinned

STATES = ("master_param", "exp_avg", "exp_avg_sq")


class HostAdam(Optimizer):
    """To Megatron what Transformer Engine's Adam is, when that holds the master weights: same names of states, `step` in the group.

    Gradients are `decoupled_grad`. Parameter by parameter they come to the host, and the new weights go back; nothing overlaps, for the
    copies are an eighth of what the CPU takes (plan.timing).
    """

    @torch.no_grad()
    def __init__(self, groups: list[dict], cores: int):
        """`cores`: of the CPU, which a rank with a GPU has for itself."""
        super().__init__([{"params": []}], {})
        self.param_groups = groups  # of views, too, which torch would not take
        parameters = [parameter for group in groups for parameter in group["params"]]
        largest = max(parameters, key=Tensor.numel, default=torch.empty(0))
        self._gradient, self._weights = pinned(4 * largest.numel()).view(torch.float32), pinned(4 * largest.numel())
        self._threads = cores if largest.is_cuda else torch.get_num_threads()
        counts = [parameter.numel() for parameter in parameters for _ in STATES]
        pieces = iter(pinned(4 * sum(counts)).zero_().view(torch.float32).split(counts))
        for parameter in parameters:
            self.state[parameter] = {name: next(pieces) for name in STATES}
            self.state[parameter]["master_param"].copy_(parameter)

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter."""
        with _threads(self._threads):
            for group in (group for group in self.param_groups if group["params"]):
                group["step"] = group.get("step", 0) + 1
                for parameter in group["params"]:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        gradient = self._gradient[: parameter.numel()].copy_(parameter.decoupled_grad)
        update(group, [state["master_param"]], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]])
        parameter.copy_(self._weights[: parameter.nbytes].view(parameter.dtype).copy_(state["master_param"]))


def update(group: dict, params: list[Tensor], gradients: list[Tensor], means: list[Tensor], squares: list[Tensor]) -> None:
    """Torch's own fused AdamW: in one pass, without temporaries as large as the weights."""
    adamw(
        params,
        gradients,
        means,
        squares,
        [],
        [torch.tensor(float(group["step"] - 1)) for _ in params],
        foreach=False,
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torchrun leaves a rank one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)
