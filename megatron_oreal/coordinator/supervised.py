"""A supervised start on rank 0: its input checked, its examples drawn in an order that can be resumed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from megatron_oreal.config import SftConfig
from megatron_oreal.coordinator.conductor import Conductor
from megatron_oreal.coordinator.inputs import asked_of, sets_of_run
from megatron_oreal.data.examples import Example, reader_of, without
from megatron_oreal.data.tokenizer import Template, load_tokenizer
from megatron_oreal.evaluation.evaluator import Asking
from megatron_oreal.evaluation.sets import ProblemSet
from megatron_oreal.evaluation.validation import hold_out
from megatron_oreal.model.blueprint import open_model
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.saved import find_checkpoint
from megatron_oreal.monitor.trackers import check_trackers
from megatron_oreal.run_state import RunState, changed_since
from megatron_oreal.trajectory import Directive, Sample, TrainBatch
from megatron_oreal.verify.judge.hosts import read_key


@dataclass(frozen=True)
class SupervisedInputs:
    """Everything read from outside, checked."""

    tokenizer: object
    samples: list[Sample]  # to be trained on
    sets: list[ProblemSet]  # to be evaluated: test sets, and the questions held out
    asked: list[Asking]  # their questions as prompts
    notes: list[str]


def read_supervised(config: SftConfig) -> SupervisedInputs:
    """Model folder, tokenizer, stop word and data files. Raises ValueError, one line, for the first thing wrong."""
    compute = Compute.find(config.compute, config.model.dtype, Platform.detect())
    check_trackers(config.monitor)
    changed = changed_since(find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume), config)
    hf, *_ = open_model(config.model.path, "policy", config.parallel)
    read_key(config.verify.judge)
    tokenizer = load_tokenizer(config.model.path)
    examples, notes = reader_of(config, tokenizer, hf.max_position_embeddings).read(with_answers=config.eval.validation > 0)
    held_out = hold_out([example.question for example in examples], config.eval.validation, config.seed)
    trained = without(examples, held_out.train)
    sets, more = sets_of_run(config, [example.question for example in examples], held_out)
    said = [compute.line(), *changed, *notes, _line(examples, trained), *more]
    asked = asked_of(config, sets, Template(tokenizer, config.data.system_prompt))
    return SupervisedInputs(tokenizer, [e.sample for e in trained], sets, asked, said)


def _line(examples: Sequence[Example], trained: Sequence[Example]) -> str:
    held_out = f"{len(examples) - len(trained)} of them held out for validation, " if len(trained) < len(examples) else ""
    return f"data: {len(examples)} examples, {held_out}the longest of {max(e.sample.length for e in examples)} tokens"


class SupervisedCoordinator(Conductor):
    """Draws the examples of each step, beside what rank 0 does in any run."""

    def __init__(self, samples: Sequence[Sample], config: SftConfig, *conducts):
        """`conducts`: what a Conductor takes."""
        super().__init__(*conducts)
        self._samples, self._seed, self._take, self._drawn = samples, config.seed, config.examples_per_step, 0
        self._places = places(len(samples), config.seed)

    def draw(self) -> Directive:
        """The examples of the next step."""
        chosen = [self._samples[place] for place in islice(self._places, self._take)]
        self._drawn += self._take
        return Directive(TrainBatch(chosen))

    def fill(self, state: RunState) -> RunState:
        return replace(super().fill(state), drawn=self._drawn)

    def take_up(self, state: RunState) -> None:
        self._drawn, self._places = state.drawn, places(len(self._samples), self._seed, state.drawn)
        super().take_up(state)


def places(count: int, seed: int, drawn: int = 0) -> Iterator[int]:
    """Indices of `count` examples without end, each epoch in an order of its own; after the first `drawn` of them."""

    def epochs() -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield from torch.randperm(count, generator=generator).tolist()

    return islice(epochs(), drawn, None)
