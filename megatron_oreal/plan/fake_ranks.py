"""Real Megatron models at every pipeline stage of a job, in one process without memory: `python -m megatron_oreal.plan.fake_ranks`.

A build.Request as JSON on stdin, the list of build.Built as JSON on stdout. The process pretends to be one rank of the job after the
other (torch's fake process group); tensors have shapes but no storage (FakeTensorMode); what lives is counted after every operation. It
changes process-wide state, so it runs apart.
"""

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import msgspec
import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed import fake_pg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoConfig

from megatron_oreal.learn import megatron_cpu
from megatron_oreal.learn.config import OptimizerConfig
from megatron_oreal.learn.optimizer import Trainable
from megatron_oreal.model import gpt
from megatron_oreal.model.compute import PLAIN, Compute
from megatron_oreal.monitor.logs import quiet_libraries
from megatron_oreal.plan.build import Built, Request
from megatron_oreal.plan.kernels import FusedKernels

OPTIMIZER = OptimizerConfig(
    lr=1.0,
    min_lr=0.0,
    warmup_steps=0,
    weight_decay=0.0,
    weight_decay_on_norms=True,
    betas=(0.9, 0.999),
    eps=1e-8,
    clip_grad=1.0,
    moments="float32",
    on_host=False,
)
"""No value of it changes a size."""


def build_all(request: Request) -> list[Built]:
    """Every role at every stage; the first rank of a stage stands for all."""
    fields = dict(request.hf)
    hf = AutoConfig.for_model(fields.pop("model_type"), **fields)
    built: dict[tuple[str, int], Built] = {}
    for role, stage in product(request.roles, range(request.parallel.pp)):
        if role == "token_rm" and ("policy", stage) in built and stage < request.parallel.pp - 1:
            built[role, stage] = replace(built["policy", stage], role=role)  # they differ in their heads alone
            continue
        with _pretending(stage, request):
            built[role, stage] = _build(hf, role, stage, request)
    return list(built.values())


def _build(hf, role: str, stage: int, request: Request) -> Built:
    platform = FusedKernels(torch.device("meta"), "fake")
    compute = Compute(platform, getattr(torch, request.dtype), replace(PLAIN, recompute=request.recompute), "torch", request.logprobs)
    with torch.device("meta"):
        chunks = gpt.build(hf, "token_rm" if role == "token_rm" else "policy", request.parallel, compute)
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive:
        for chunk in chunks:
            _make_fake(chunk)
        parameters, weights = sum(p.numel() for c in chunks for p in c.parameters()), alive.bytes
        model, gradients = _as_trained(chunks, role)
        before = alive.peak = alive.bytes
        _run(model, chunks[0].config, stage, request, backward=role != "reference")
        return Built(role, stage, parameters, weights, gradients, before - weights - gradients, alive.peak - before)


def _as_trained(chunks: list, role: str) -> tuple[list, int]:
    """The model with what learn.step puts around it, and the bytes of its gradients."""
    if role == "reference":
        return [chunk.requires_grad_(False).eval() for chunk in chunks], 0
    model = Trainable(chunks, OPTIMIZER, total_steps=1).model
    buffers = [buffer for chunk in model for buffer in chunk.buffers + chunk.expert_parallel_buffers]
    return model, sum(buffer.grad_data.nbytes for buffer in buffers)


def _run(model: list, config, stage: int, request: Request, backward: bool) -> None:
    """As many micro-batches through Megatron's schedule as its peak needs, in each of them one sequence of all its tokens.

    It is learn.pipeline's call without what depends on values, which a tensor without storage does not have: no packing, no real loss.
    """
    config.variable_seq_lengths = False  # lengths are not exchanged: nobody is there
    config.finalize_model_grads_func = lambda *_, **__: None  # reduces the gradients where they are
    mine, pp, vpp = request.tokens // request.parallel.cp, request.parallel.pp, request.parallel.vpp
    tokens, places = torch.zeros(1, mine, dtype=torch.int64), torch.zeros(mine, dtype=torch.int64)
    reading = gpt.Reading(places, places, places, request.tokens)

    def forward_step(iterator, chunk):
        next(iterator)
        output = chunk(input_ids=tokens, position_ids=None, attention_mask=None, labels=reading)
        return output, lambda out: (out.sum(), torch.ones((), dtype=torch.int), None)

    count = min(request.micro_batches, 2 * pp if vpp else pp - stage + 1)
    iterators = [iter(range(count)) for _ in model]
    with torch.enable_grad() if backward else torch.no_grad():
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if vpp else iterators[0],
            model=model if vpp else model[0],
            num_microbatches=count,
            seq_length=request.tokens,
            micro_batch_size=1,
            forward_only=not backward,
        )


@contextmanager
def _pretending(stage: int, request: Request) -> Iterator[None]:
    """This process is the first rank of a pipeline stage of the job."""
    parallel, first = request.parallel, stage * (request.gpus // request.parallel.pp)
    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=first, world_size=request.gpus)
    try:
        parallel_state.initialize_model_parallel(
            parallel.tp,
            parallel.pp,
            virtual_pipeline_model_parallel_size=parallel.vpp,
            context_parallel_size=parallel.cp,
            create_gloo_process_groups=False,
        )
        tensor_parallel.model_parallel_cuda_manual_seed(1, inference_rng_tracker=True, force_reset_rng=True)
        yield
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _everybody_says_the_same(answers: list, mine, group=None) -> None:
    """The fake group moves no data; Megatron compares the optimizer's parameter groups over all ranks."""
    answers[:] = [mine] * len(answers)


def _make_fake(chunk: torch.nn.Module) -> None:
    """Give a model from the meta device fake parameters, with all that Megatron noted on the old ones."""
    made = {}
    for module in chunk.modules():
        for name, old in module._parameters.items():
            if old is not None and old not in made:
                made[old] = torch.nn.Parameter(torch.empty(old.shape, dtype=old.dtype, device="cpu"), old.requires_grad)
                made[old].__dict__.update(old.__dict__)
            module._parameters[name] = made.get(old)
    chunk._apply = lambda *_: chunk  # dtype and device are right, and torch cannot swap a fake parameter for itself


class Alive(TorchDispatchMode):
    """Counts the bytes of storages that operations made and that still live, and their peak."""

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.bytes -= self._known.pop(key, 0)


def main() -> None:
    """As in this module's docstring."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    quiet_libraries()
    megatron_cpu.install()
    dist.all_gather_object = _everybody_says_the_same
    print(msgspec.json.encode(build_all(request)).decode())


if __name__ == "__main__":
    main()
