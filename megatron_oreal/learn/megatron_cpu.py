"""CPU shim: lets unmodified megatron-core 0.16.1 run on a torch without CUDA. Does nothing where CUDA is.

Megatron-Core names CUDA at 48 call sites (devices of small tensors, synchronisation, type checks of the optimizer). Here they
are answered by the CPU: a function mode redirects device="cuda", four functions of torch.cuda get CPU stand-ins, and Adam is
replaced by one with the state layout of the fused GPU Adams, which Megatron's distributed optimizer expects. And where a gradient or
parameter buffer has one owner, nothing is exchanged: gloo copies all of it (1 GB: as much memory again, 3 s to reduce it, 5 s to gather).
"""

import logging
import sys
from collections.abc import Callable

import torch
from torch.overrides import TorchFunctionMode

from megatron_oreal.learn.host_memory.adam import update
from megatron_oreal.model import cpu_products


def install() -> None:
    """Install the shim once a process, before models or groups are built. A second call changes nothing."""
    if torch.cuda.is_available() or isinstance(getattr(torch.cuda, "oreal_cpu_mode", None), _CudaMeansCpu):
        return
    cpu_products.install()
    torch.compiler.set_stance("force_eager")  # Megatron compiles its fused functions: without a GPU that takes a C++ compiler and minutes
    _redirect_torch_cuda()
    _replace_adam()
    _replace_multi_tensor_kernels()
    _exchange_nothing_with_oneself()
    torch.cuda.oreal_cpu_mode = _CudaMeansCpu()  # the mode lives as long as the process; kept here so that it is entered once
    torch.cuda.oreal_cpu_mode.__enter__()


class _CudaMeansCpu(TorchFunctionMode):
    """device="cuda" means the CPU, pinning and .cuda() mean nothing; about 4 us a torch call."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = "cpu"
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        out = func(*args, **kwargs)
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return _type_as_megatron_asks(out, sys._getframe(1).f_globals.get("__name__", ""))
        return out


def _is_cuda(device) -> bool:
    return (isinstance(device, torch.device) and device.type == "cuda") or (isinstance(device, str) and device.startswith("cuda"))


def _type_as_megatron_asks(name: str, caller: str) -> str:
    """Megatron's optimizer and gradient clipping compare Tensor.type() with "torch.cuda.*Tensor"."""
    if caller.startswith("megatron.core.") and not name.startswith("torch.cuda."):
        return name.replace("torch.", "torch.cuda.", 1)
    return name


def _redirect_torch_cuda() -> None:
    import megatron.core.tensor_parallel.random as megatron_random

    torch.cuda.current_device = lambda: torch.device("cpu")
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.get_rng_state = torch.cuda.random.get_rng_state = lambda device="cuda": torch.get_rng_state()
    torch.cuda.manual_seed = torch.manual_seed
    megatron_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    # It warns at every fork that the "CPU" state changed inside the "GPU" context: here they are the same state.
    logging.getLogger(megatron_random.__name__).setLevel(logging.ERROR)


def _replace_adam() -> None:
    """Megatron's torch fallback cannot save or load an optimizer that has not stepped, and shares one step tensor."""
    import megatron.core.optimizer as optimizer
    import megatron.core.optimizer.distrib_optimizer as distributed

    optimizer.Adam, optimizer.USING_PYTORCH_OPTIMIZER = CpuFusedAdam, False
    optimizer.is_te_min_version = lambda version: False  # asked of what Adam it is; without Transformer Engine it raises
    distributed.Adam, distributed.HAVE_APEX_OR_TE = CpuFusedAdam, True
    distributed.USING_APEX_OPTIMIZER, distributed.USING_TE_OPTIMIZER = True, False


def _replace_multi_tensor_kernels() -> None:
    """Where Transformer Engine or Apex is installed (a login node, a laptop), Megatron has taken their kernels, which need a driver."""
    from megatron.core import utils
    from megatron.core.optimizer import clip_grads, optimizer

    for module in (clip_grads, optimizer):
        module.multi_tensor_applier, module.multi_tensor_scale_impl = utils.local_multi_tensor_applier, utils.local_multi_tensor_scale
    clip_grads.l2_norm_impl = utils.local_multi_tensor_l2_norm


def _exchange_nothing_with_oneself() -> None:
    """Megatron reduces and gathers in place: the shard of the only rank is the buffer."""
    import megatron.core.distributed.param_and_grad_buffer as buffers

    for name in ("dist_reduce_scatter_func", "dist_all_gather_func"):
        setattr(buffers, name, _among_others(getattr(buffers, name)))


def _among_others(collective: Callable) -> Callable:
    def call(output, given, *, group, **options):
        alone = group.size() == 1 and output.data_ptr() == given.data_ptr() and output.numel() == given.numel()
        return None if alone else collective(output, given, group=group, **options)

    return call


class CpuFusedAdam(torch.optim.Optimizer):
    """AdamW with the interface and state layout of Apex's and Transformer Engine's FusedAdam: `step` lives in the group.

    With `master_weights` as the latter's: it holds those itself, moments may be of less than float32, and gradients are `decoupled_grad`.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        adam_w_mode=True,
        bias_correction=True,
        master_weights=False,
        exp_avg_dtype=torch.float32,
        exp_avg_sq_dtype=torch.float32,
        **_as_here_anyway,
    ):
        if not adam_w_mode:
            raise ValueError("CpuFusedAdam: only decoupled weight decay (AdamW) is supported on CPU")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "bias_correction": bias_correction})
        self._has_masters, self._dtypes = master_weights, {"exp_avg": exp_avg_dtype, "exp_avg_sq": exp_avg_sq_dtype}

    def initialize_state(self, parameter: torch.Tensor, store_param_remainders: bool) -> None:
        """Zeros, and the master weight."""
        self.state[parameter].update({name: torch.zeros_like(parameter, dtype=dtype) for name, dtype in self._dtypes.items()})
        if self._has_masters:
            self.state[parameter]["master_param"] = parameter.detach().float().clone()

    @torch.no_grad()
    def step(self, closure=None):
        """One AdamW update of every parameter that has a gradient, by torch's own fused AdamW."""
        for group in self.param_groups:
            if not group["params"]:
                continue
            group["step"] = group.get("step", 0) + 1
            if self._has_masters:
                for parameter in group["params"]:
                    self._update_apart(group, parameter)
                continue
            params = [p for p in group["params"] if p.grad is not None]
            for p in (p for p in params if not self.state[p]):
                self.initialize_state(p, False)
            moments = ([self.state[p][name] for p in params] for name in self._dtypes)
            update(group, params, [p.grad for p in params], *moments)

    def _update_apart(self, group: dict, parameter: torch.Tensor) -> None:
        """In float32; what is kept is rounded once."""
        state = self.state[parameter]
        moments = [state[name].float() for name in self._dtypes]
        update(group, [state["master_param"]], [parameter.decoupled_grad], *([moment] for moment in moments))
        for name, moment in zip(self._dtypes, moments, strict=True):
            state[name].copy_(moment)
        parameter.copy_(state["master_param"])
