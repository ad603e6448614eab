"""Samples and verifies answers to every question, and writes the questions with their pass rates."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from megatron_oreal.config import PassrateConfig
from megatron_oreal.data.fields import Fields
from megatron_oreal.data.prompts import fitting
from megatron_oreal.data.questions import QuestionSet, Remarks
from megatron_oreal.data.tokenizer import Template, load_tokenizer, stop_token
from megatron_oreal.engines import demand
from megatron_oreal.engines.engines import open_engines
from megatron_oreal.evaluation.saved_rows import SavedRows
from megatron_oreal.monitor.console import Console
from megatron_oreal.monitor.run_lock import NAME, alone
from megatron_oreal.passrate.answers import answers_of, try_to_write, whole_file
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Group, Prompt
from megatron_oreal.verify import Verifier


@dataclass(frozen=True)
class Rated:
    """What is known of one question."""

    id: str
    pass_rate: float | None  # None: every answer is undecided
    undecided: int  # answers that do not count, or count as wrong (verify.undecided)

    @property
    def key(self) -> str:
        return self.id


class Partial(SavedRows[Rated]):
    """The finished questions of a measurement."""

    def __init__(self, path: Path, of: dict):
        super().__init__(path, of, Rated, "out")

    def note(self, group: Group, with_answers: bool = False) -> None:
        """A question is finished (it may be said twice). From any thread."""
        prompt, more = group.prompt, {}
        if with_answers:
            answers = [asdict(answer) for answer in answers_of(group)]
            more = {"question": prompt.question, "gold_answer": prompt.gold_answer, "answers": answers}
        self.add(Rated(prompt.id, group.pass_rate, sum(not v.decided for v in group.verdicts)), **more)

    def write_answers(self, ids: Sequence[str], path: Path) -> None:
        """The answers to these questions in their order, which is not that in which they came. Raises NotWritten as whole_file."""
        places: dict[str, int] = {}
        with open(self.path, "rb") as lines, whole_file("answers", path) as file:
            at = len(lines.readline())
            for line in lines:
                places[msgspec.json.decode(line, type=Rated).id] = at
                at += len(line)
            for one in ids:
                lines.seek(places[one])
                file.write(lines.readline())


def measure(config: PassrateConfig) -> None:
    """Sample, verify, write."""
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template = Template(tokenizer, config.system_prompt)
    asked, remarks = QuestionSet(config.questions, config.split, Fields.named(config.fields)), Remarks()
    questions = [question for _, question in asked.read(remarks) if question]
    print(*remarks.lines(), sep="\n", end="\n" * bool(remarks.lines()), flush=True)
    template.check([q.question for q in questions])
    prompts = fitting([template.prompt(q) for q in questions], config.rollout.max_total_tokens)
    out = Path(config.out).resolve()
    with alone(f"out={config.out}", out.with_name(f"{out.name}.{NAME}")):
        rated = _measured(config, tokenizer, asked, prompts)
    undecided = sum(one.undecided for one in rated.values())
    unrated = sum(one.pass_rate is None for one in rated.values())
    print(
        f"wrote {config.out}: {len(rated) - unrated} pass rates, {len(questions) - len(prompts)} questions too long; "
        f"{undecided} of {len(prompts) * config.rollout.samples} answers undecided, {unrated} questions without a pass rate for it"
    )


def _measured(config: PassrateConfig, tokenizer, asked: QuestionSet, prompts: Sequence[Prompt]) -> dict[str, Rated]:
    """All of them, those of an earlier start among them; written."""
    out = Path(config.out).resolve()
    partial = Partial(out.with_name(out.name + ".partial"), settings(config, asked))
    left = [p for p in prompts if p.id not in partial.rows]
    if len(left) < len(prompts):
        print(f"going on: {len(prompts) - len(left)} of {len(prompts)} questions are done", flush=True)
    if config.answers and left:
        try_to_write("answers", Path(config.answers))  # now, not after hours of sampling
    if left:
        _rate(config, tokenizer, left, partial, len(prompts))
    if config.answers:
        partial.write_answers([prompt.id for prompt in prompts], Path(config.answers))
    _write(asked, out, partial.rows)
    partial.remove()
    return partial.rows


def settings(config: PassrateConfig, asked: QuestionSet) -> dict:
    """All that a pass rate depends on, and whether answers are kept with it."""
    rollout, verify = config.rollout, config.verify
    return {
        "questions": asked.fingerprint(),
        "fields": config.fields,
        "model.path": config.model.path,
        "system_prompt": config.system_prompt,
        **{
            f"rollout.{name}": getattr(rollout, name)
            for name in ("samples", "temperature", "top_p", "max_new_tokens", "max_total_tokens", "stop_word")
        },
        **{f"verify.{name}": getattr(verify, name) for name in ("mode", "extract", "judge_on", "undecided")},
        "verify.judge.model": verify.judge.model,
        **({"answers": True} if config.answers else {}),
    }


def _rate(config: PassrateConfig, tokenizer, prompts: Sequence[Prompt], partial: Partial, total: int) -> None:
    """Sample and verify these questions; each is noted when its last verdict is there."""
    out, asked = Path(config.out).resolve(), demand.of_passrate(config)
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(config.rollout, config.model.path, config.model.dtype, out.parent, asked))
        verifier = stack.enter_context(Verifier(config.verify, out.with_name(out.name + ".disagreements")))
        engines.wait_ready()
        rollout = Rollout(config.rollout, engines, tokenizer)
        console = stack.enter_context(Console("pass rates", total))

        def done(group: Group) -> None:
            partial.note(group, with_answers=config.answers is not None)
            console.advance(len(partial.rows))

        console.advance(len(partial.rows))
        for start in range(0, len(prompts), config.questions_at_once):
            some = prompts[start : start + config.questions_at_once]
            for group in verifier.verify(rollout.generate(some, version=0), config.rollout.samples, done):
                done(group)  # should the thread that brought its last verdict not have come to it yet, or have failed to write
            rates = [rated.pass_rate for rated in partial.rows.values() if rated.pass_rate is not None]
            console.step(len(partial.rows), f"mean pass rate {sum(rates) / len(rates):.1%}" if rates else "no pass rate yet")


def _write(asked: QuestionSet, out: Path, rated: dict[str, Rated]) -> None:
    """Whole or not at all. A question too long to be asked, or without a verdict, keeps its row, without a pass rate (nor an old one)."""
    written = out.with_name(out.name + ".new")
    with open(written, "wb") as file:
        for row, question in asked.read(Remarks(), whole=True):
            rate = rated[question.id].pass_rate if question and question.id in rated else None
            kept = {name: value for name, value in row.fields.items() if name != "pass_rate"}
            file.write(msgspec.json.encode(kept | ({} if rate is None else {"pass_rate": rate})) + b"\n")
    written.rename(out)
