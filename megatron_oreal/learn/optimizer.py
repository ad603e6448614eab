"""A model that learns: Megatron's DDP, distributed optimizer and schedule around one GPTModel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer import get_megatron_optimizer, get_standard_config_overrides
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.transformer.module import Float16Module

from megatron_oreal.errors import Diverged
from megatron_oreal.learn import pipeline
from megatron_oreal.learn.batch import MicroBatch
from megatron_oreal.learn.config import LearnConfig, OptimizerConfig
from megatron_oreal.learn.host_memory.adam import HostAdam
from megatron_oreal.learn.host_memory.resting import Resting, storages
from megatron_oreal.learn.live_state import copied, save_in_place, sharded_state
from megatron_oreal.learn.parallel import own_cores
from megatron_oreal.model.platform import Platform

OF_A_RUN = ("params", "step")
"""What of an optimizer's group of parameters is no setting."""


def sum_gradients(model: list, num_tokens=None, **kwargs) -> None:
    """Megatron's end of a backward pass without its division by tokens: our losses carry global denominators."""
    finalize_model_grads(model, None, **kwargs)


class Trainable:
    """One model (its chunks on this rank) with its optimizer and learning-rate schedule."""

    def __init__(self, chunks: Sequence[GPTModel], config: OptimizerConfig, total_steps: int, learn: LearnConfig | None = None):
        """`learn`: what overlaps; None: nothing."""
        self._chunks, self._gathers_late, self._is_whole = list(chunks), bool(learn and learn.overlap_param_gather), True
        transformer = chunks[0].config
        ddp = _ddp_config(learn)
        self.model = [
            DistributedDataParallel(transformer, ddp, Float16Module(transformer, c) if transformer.bf16 else c, disable_bucketing=i > 0)
            for i, c in enumerate(chunks)
        ]
        if ddp.overlap_grad_reduce:  # only the last micro-batch's backward pass begins to sum
            transformer.no_sync_func = [chunk.no_sync for chunk in self.model] if len(chunks) > 1 else self.model[0].no_sync
            self._watched = [_stand_in_for_no_gradient(p) for chunk in chunks for p in chunk.parameters()]
        options = _megatron_config(config, transformer, self._gathers_late)
        # Megatron's standard overrides take norms and biases out of the weight decay; there are no others here.
        overrides = {} if config.weight_decay_on_norms else get_standard_config_overrides(options)
        self.optimizer = get_megatron_optimizer(options, self.model, overrides, use_gloo_process_groups=False)
        for one in self.optimizer.chained_optimizers:  # Adam's state would come with its first step; a frozen policy is saved before that
            _begin_states(one, config.on_host)
        save_in_place(self.optimizer.chained_optimizers)
        self._on_host = config.on_host
        self._resting: Resting | None = None
        self._schedule = OptimizerParamScheduler(
            self.optimizer,
            init_lr=0.0,
            max_lr=config.lr,
            min_lr=config.min_lr,
            lr_warmup_steps=config.warmup_steps,
            lr_decay_steps=total_steps,
            lr_decay_style="cosine",
            start_wd=config.weight_decay,
            end_wd=config.weight_decay,
            wd_incr_steps=0,
            wd_incr_style="constant",
        )
        transformer.finalize_model_grads_func = sum_gradients
        transformer.grad_scale_func = self.optimizer.scale_loss

    def rest_between_turns(self, how: str, platform: Platform, folder: Path, keep_weights: bool) -> None:
        """From here on its memory is there in its turn alone (compute.offload=gradients|all); it rests now.

        `keep_weights`: those stay, for they are published between its turns.
        """
        buffers = [buffer for chunk in self.model for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)]
        weights = [*(p.data for chunk in self._chunks for p in chunk.parameters()), *(b.param_data for b in buffers)]
        kept = [] if how == "gradients" else storages(self._states(), but=weights) + ([] if keep_weights else storages(weights))
        self._resting = Resting(storages(buffer.grad_data for buffer in buffers), kept, platform, folder)
        self._rest()

    def _states(self) -> Iterator[torch.Tensor]:
        """Moments and master weights on the GPU; the latter are the model's own where those are float32."""
        if self._on_host:
            return
        for one in (chained.optimizer for chained in self.optimizer.chained_optimizers):
            yield from (parameter for group in one.param_groups for parameter in group["params"])
            yield from (v for state in one.state.values() for v in state.values() if isinstance(v, torch.Tensor) and v.numel() > 1)

    @property
    def rests(self) -> bool:
        """In host memory, between turns."""
        return self._resting is not None and self._resting.bytes > 0

    @property
    def saved_from_host(self) -> bool:
        """A checkpoint is written from the memory that the next turn changes, or fills anew."""
        return self.rests or self._on_host

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Its memory is there."""
        if self._resting:
            self._resting.wake()
        yield
        if self._resting:
            self._rest()

    def _rest(self) -> None:
        """What a checkpoint holds has to be known before: of empty memory there are no parts."""
        saved = sharded_state(self.gpt, self.optimizer, loading=False) if self.rests else None
        self._resting.rest()
        self._saved = copied(saved, self._resting.copy_of) if saved else None

    def sharded(self, loading: bool) -> dict:
        """What a checkpoint holds of it. Between turns that of its last one, of which nothing has changed; to load, only in its turn."""
        if not self.rests or self._resting.awake:
            return sharded_state(self.gpt, self.optimizer, loading)
        return dict(self._saved)

    @property
    def gpt(self) -> list[GPTModel]:
        """This rank's chunks, with whole weights: where an update has left them to be gathered, that is done now, by all ranks."""
        if not self._is_whole:
            for chunk in self.model:
                chunk.start_param_sync(force_sync=True)
            self._is_whole = True
        return self._chunks

    def load_optimizer(self, state: dict) -> None:
        """Moments and step counts of a checkpoint. Its learning rates, betas and the like are replaced by those that are configured now."""
        given = [{name: value for name, value in group.items() if name not in OF_A_RUN} for group in self.optimizer.param_groups]
        with torch.no_grad():
            self.optimizer.load_state_dict(state)
        for group, values in zip(self.optimizer.param_groups, given, strict=True):
            group.update(values)

    def backward(self, micro_batches: Sequence[MicroBatch], reading: str, loss: pipeline.Loss) -> list:
        """Forward and backward of a whole batch from zero gradients; see pipeline.run."""
        for chunk in self.model:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        kept = pipeline.run(self.model, micro_batches, reading, loss, backward=True)
        self._is_whole = True  # the forward pass has gathered what was left
        return kept

    def go_to(self, step: int) -> None:
        """Set the learning rate of the update that is number `step` (from 1) of the schedule, whatever was updated before it.

        So a step that trained nothing passes in the schedule as in the run, and a resumed run needs no other memory of it.
        """
        self._schedule.step(increment=step - self._schedule.num_steps)

    def update(self) -> float:
        """Clip and step; returns the gradient norm before clipping.

        Raises:
            Diverged: the gradients are not finite; on all ranks, and no weight was changed.
        """
        self.optimizer.prepare_grads()
        norm = float(self.optimizer.get_grad_norm())
        if not isfinite(norm):
            raise Diverged(
                f"gradients are not finite (norm {norm}{self._first_that_is_not_finite()}); resume=auto with a smaller lr goes on"
            )
        for one in self.optimizer.chained_optimizers:
            apart = one.config.use_precision_aware_optimizer  # gradients have another dtype than what they are the gradients of
            clip_grad_by_total_norm_fp32(one.get_parameters(), max_norm=one.config.clip_grad, total_norm=norm, use_decoupled_grad=apart)
        self.optimizer.step_with_ready_grads()
        self._is_whole = not self._gathers_late
        return norm

    def _first_that_is_not_finite(self) -> str:
        """Of this rank's parameters, in words; summed over data-parallel ranks each sees its own part alone."""
        named = (pair for chunk in self._chunks for pair in chunk.named_parameters())
        return next((f", first in {name}" for name, p in named if not p.main_grad.isfinite().all()), "")

    @property
    def lr(self) -> float:
        """Learning rate of the last update."""
        return self.optimizer.param_groups[0]["lr"]


def _ddp_config(learn: LearnConfig | None) -> DistributedDataParallelConfig:
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=True,
        check_for_nan_in_grad=False,  # it would end the rank that has them alone, in a hook; update() looks at the norm of all
        average_in_collective=False,
        overlap_grad_reduce=bool(learn and learn.overlap_grad_reduce),
        overlap_param_gather=bool(learn and learn.overlap_param_gather),
    )


def _stand_in_for_no_gradient(parameter: torch.nn.Parameter):
    """DDP wants a gradient to be there before it begins to sum, and the log-probabilities add the LM head's to main_grad themselves.

    A zero that takes no memory serves. Returns what must be kept for it to go on.
    """
    accumulate = parameter.expand_as(parameter).grad_fn.next_functions[0][0]

    def prepare(gradients: tuple[torch.Tensor | None]) -> None:
        if gradients[0] is None:
            parameter.grad = parameter.detach().new_zeros(()).expand_as(parameter)

    accumulate.register_prehook(prepare)
    return accumulate


def _begin_states(one: DistributedOptimizer, on_host: bool) -> None:
    if on_host:  # in the place of Adam as Megatron has made it, whose states have not begun
        one.optimizer = HostAdam(one.optimizer.param_groups, own_cores())
        return None
    if not one.config.use_precision_aware_optimizer:
        return one.init_state_fn(one.optimizer)
    for group in one.optimizer.param_groups:  # Megatron's own calls Transformer Engine's without its second argument
        for parameter in group["params"]:
            one.optimizer.initialize_state(parameter, False)


def _megatron_config(config: OptimizerConfig, transformer, gathers_late: bool) -> MegatronOptimizerConfig:
    options = MegatronOptimizerConfig(
        optimizer="adam",
        lr=config.lr,
        min_lr=config.min_lr,
        weight_decay=config.weight_decay,
        adam_beta1=config.betas[0],
        adam_beta2=config.betas[1],
        adam_eps=config.eps,
        clip_grad=config.clip_grad,
        use_distributed_optimizer=True,
        overlap_param_gather=gathers_late,
        bf16=transformer.bf16,
        params_dtype=torch.bfloat16 if transformer.bf16 else torch.float32,
    )
    if config.moments != "float32" or config.on_host:
        # Set afterwards: where it is made it looks for Transformer Engine, which a CPU's stand-in does without.
        options.use_precision_aware_optimizer = options.use_precision_aware_optimizer_no_fp8_or_ds_fp8 = True
        options.exp_avg_dtype = options.exp_avg_sq_dtype = getattr(torch, config.moments)
        options.store_param_remainders = False  # checkpoints hold whole master weights, which any other run can load
    return options
