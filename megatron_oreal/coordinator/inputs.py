"""Whatever a run reads from outside, checked before any GPU is taken."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.data.prompts import PromptSource, fitting
from megatron_oreal.data.questions import Question, balance
from megatron_oreal.data.tokenizer import Template, load_tokenizer, stop_token
from megatron_oreal.data.training import read_training
from megatron_oreal.evaluation.evaluator import Asking, askings
from megatron_oreal.evaluation.sets import ProblemSet, read_sets
from megatron_oreal.evaluation.validation import HeldOut, hold_out, overlaps, validation_set
from megatron_oreal.model.blueprint import open_model
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.saved import find_checkpoint
from megatron_oreal.monitor.trackers import check_trackers
from megatron_oreal.run_state import changed_since
from megatron_oreal.trajectory import Prompt
from megatron_oreal.verify.judge.hosts import read_key


@dataclass(frozen=True)
class Inputs:
    """Everything read from outside, checked."""

    tokenizer: object
    prompts: list[Prompt]  # balanced; those too long to be answered left out
    sets: list[ProblemSet]  # to be evaluated: test sets, and the questions held out of training as validation set
    asked: list[Asking]  # their questions as prompts
    notes: list[str]  # what is computed with; how many questions became how many prompts


def read_inputs(config: TrainConfig) -> Inputs:
    """Model folder, tokenizer, stop word and data files. Raises ValueError, one line, for the first thing wrong."""
    compute = Compute.find(config.compute, config.model.dtype, Platform.detect())
    check_trackers(config.monitor)
    changed = changed_since(find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume), config)
    open_model(config.model.path, "policy", config.parallel)
    read_key(config.verify.judge)
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template, read = Template(tokenizer, config.data.system_prompt), read_training(config.data)
    questions = read.questions
    template.check([q.question for q in questions])
    held_out = hold_out(questions, config.eval.validation, config.seed)
    balanced = balance(held_out.train, config.data.balance)
    prompts = [template.prompt(q) for q in balanced]
    fit = fitting(prompts, config.rollout.max_total_tokens)
    PromptSource(fit, config.seed, weights=config.data.weights)  # raises where nothing is left
    kept, asked = len({q.id for q in balanced}), len({p.id for p in fit})
    notes = [
        compute.line(),
        *changed,
        *read.notes,
        f"data: {len(questions)} questions, {_held_out_line(held_out)}{len(held_out.train) - kept} dropped by difficulty, "
        f"{kept - asked} too long; {len(fit)} prompts an epoch with repeats",
        *_mix_lines(fit, config.data.weights),
    ]
    sets, more = sets_of_run(config, questions, held_out)
    return Inputs(tokenizer, fit, sets, asked_of(config, sets, template), notes + more)


def sets_of_run(config: TrainConfig | SftConfig, questions: Sequence[Question], held_out: HeldOut) -> tuple[list[ProblemSet], list[str]]:
    """The sets to be evaluated, the questions held out last, and what is to be said of them; `questions`: all of data.train."""
    sets = read_sets(config.eval.resolved())
    notes = [note for one in sets for note in one.notes]
    for name, number in overlaps(questions, sets).items():
        notes.append(f"eval: {number} questions of {name} are training questions as well: it says nothing of what the policy never saw")
    if held_out.validation:
        sets.append(validation_set(held_out.validation, config.eval))
    elif sets and config.checkpoint.keep_best:
        notes.append(f"checkpoint.keep_best={config.checkpoint.keep_best} keeps none: test sets pick no checkpoint; see eval.validation")
    return sets, notes


def asked_of(config: TrainConfig | SftConfig, sets: Sequence[ProblemSet], template: Template) -> list[Asking]:
    """The sets' questions as prompts."""
    return askings(sets, template, config.eval.max_new_tokens, config.rollout.max_total_tokens)


def _mix_lines(prompts: Sequence[Prompt], weights: Mapping[str, float]) -> list[str]:
    """Of several sets: how many prompts each has, and its share of those drawn."""
    counts = Counter(prompt.origin for prompt in prompts if prompt.origin)
    shares = weights or counts
    return [f"data: {name}: {count} prompts, {shares[name] / sum(shares.values()):.1%} of those drawn" for name, count in counts.items()]


def _held_out_line(held_out: HeldOut) -> str:
    if not held_out.validation:
        return ""
    more = f" with {held_out.duplicates} duplicates" if held_out.duplicates else ""
    return f"{len(held_out.validation)} held out for validation{more}, "
