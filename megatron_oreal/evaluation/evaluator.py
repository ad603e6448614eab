"""Asks sets of questions, and gives their answers on as they are verified."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from operator import length_hint
from statistics import fmean

from megatron_oreal.data.prompts import fitting
from megatron_oreal.data.tokenizer import Template
from megatron_oreal.evaluation.answers import Answered, Key, Way, answered
from megatron_oreal.evaluation.config import VALIDATION
from megatron_oreal.evaluation.figures import Evaluation, metrics, report, scores
from megatron_oreal.evaluation.sets import ProblemSet
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.rollout.in_flight import InFlight
from megatron_oreal.trajectory import Group, Prompt, Work
from megatron_oreal.verify import Verifier

ANSWERS_AT_ONCE = 2048
"""With tokens and log-probabilities a response of 14,000 tokens takes a megabyte of rank 0's memory until all of these are verified."""


@dataclass(frozen=True)
class Asking:
    """One set asked in one way."""

    set: str
    way: Way
    sampling: Sampling
    prompts: dict[str, Prompt]  # question id -> prompt, whose own id is told apart from those of other sets; those too long are not here


@dataclass(frozen=True)
class Evaluated:
    """What one pass over all sets gave."""

    sets: dict[str, Evaluation]
    seconds: float
    validation: list[float] = field(default_factory=list)  # [questions] their scores; empty: there is no validation set

    def metrics(self) -> dict[str, float]:
        """Under the names of metrics.jsonl. The first set's pass@1 is there without a set's name as well."""
        found = {name: value for one, figures in self.sets.items() for name, value in metrics(one, figures).items()}
        first = next(iter(self.sets.values()))
        score = {f"eval/{VALIDATION}/score": fmean(self.validation)} if self.validation else {}
        return {"eval/pass_at_1": first.pass_at_1, **found, **score, "eval/seconds": self.seconds}


def askings(sets: Sequence[ProblemSet], template: Template, max_new_tokens: int, longest: int) -> list[Asking]:
    """How sets are asked: each greedily, then its samples. Prompts that leave no room for an answer in `longest` tokens are left out."""
    found = []
    for one in sets:
        every = {p.question.id: template.prompt(p.question) for p in one.problems}
        fit = {prompt.id for prompt in fitting(list(every.values()), longest)}
        prompts = {i: Prompt(f"{one.name}/{i}", p.question, p.gold_answer, p.token_ids) for i, p in every.items() if i in fit}
        ways = {"greedy": Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)}
        if one.asked.samples > 1:
            ways["sampled"] = Sampling(one.asked.samples, one.asked.temperature, one.asked.top_p, max_new_tokens)
        found += [Asking(one.name, way, sampling, prompts) for way, sampling in ways.items()]
    return found


class Evaluator:
    """Asks every question of every set."""

    def __init__(self, sets: Sequence[ProblemSet], asked: Sequence[Asking], rollout: Rollout, verifier: Verifier):
        self._sets, self._askings, self._rollout, self._verifier = sets, asked, rollout, verifier

    def evaluate(self, version: int) -> Work[Evaluated]:
        """Figures of whatever weights the engines hold now."""
        started = time.perf_counter()
        answers: dict[Key, Answered] = {}
        yield from self.ask(version, answers, lambda one, _: answers.setdefault(one.key, one))
        figures = {one.name: report(one, answers, self._verifier.compare).all for one in self._sets}
        validation = [score for one in self._sets if one.name == VALIDATION for score in scores(one, answers)]
        return Evaluated(figures, time.perf_counter() - started, validation)

    def ask(self, version: int, known: Collection[Key], take: Callable[[Answered, Group], object]) -> Work[None]:
        """Ask what is not known yet. `take` hears of a question's answers when they are verified, from any thread, and may hear twice."""
        with closing(self._under_way(version, known)) as rounds:
            for sampling, some, asked in rounds:
                by_prompt = {prompt.id: key for key, prompt in some}

                def note(group: Group, by_prompt: dict[str, Key] = by_prompt) -> None:
                    take(answered(*by_prompt[group.prompt.id], group, self._verifier.final_answer), group)

                with closing(asked.events()) as events:
                    groups = yield from self._verifier.verifying(events, length_hint(asked), sampling.samples, note)
                for group in groups:
                    note(group)  # should the thread that brought its last verdict not have come to it yet, or have failed to write

    def _under_way(self, version: int, known: Collection[Key]) -> Iterator[tuple[Sampling, list[tuple[Key, Prompt]], InFlight]]:
        """Rounds one after the other, while those that follow are being sampled already: engines do not drain between two."""
        begun: deque[tuple[Sampling, list[tuple[Key, Prompt]], InFlight]] = deque()
        try:
            for sampling, some in self._rounds(known):
                while begun and sum(one.samples * len(of) for one, of, _ in begun) + sampling.samples * len(some) > ANSWERS_AT_ONCE:
                    yield begun[0]
                    begun.popleft()
                begun.append((sampling, some, self._rollout.generate([prompt for _, prompt in some], version, sampling)))
                begun[-1][2].begin()
            while begun:
                yield begun[0]
                begun.popleft()
        finally:
            for _, _, asked in begun:
                asked.close()

    def _rounds(self, known: Collection[Key]) -> Iterator[tuple[Sampling, list[tuple[Key, Prompt]]]]:
        """What is asked together: whatever is asked in the same way, of all sets. Two rounds at least are let under way at one time."""
        waiting: dict[Sampling, list[tuple[Key, Prompt]]] = {}
        for asking in self._askings:
            left = [((asking.set, name, asking.way), prompt) for name, prompt in asking.prompts.items()]
            waiting.setdefault(asking.sampling, []).extend(one for one in left if one[0] not in known)
        for sampling, all_of_it in waiting.items():
            size = max(ANSWERS_AT_ONCE // 2 // sampling.samples, 1)
            for start in range(0, len(all_of_it), size):
                yield sampling, all_of_it[start : start + size]
