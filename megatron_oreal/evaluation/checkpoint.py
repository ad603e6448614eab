"""A checkpoint, or running servers, evaluated: what is answered already is kept, the rest asked, the figures written."""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from megatron_oreal.config import EvaluateConfig
from megatron_oreal.data.tokenizer import Template, load_tokenizer, stop_token
from megatron_oreal.engines.demand import at_one_time
from megatron_oreal.engines.engines import open_engines
from megatron_oreal.evaluation.answers import Answered
from megatron_oreal.evaluation.evaluator import Asking, Evaluator, askings
from megatron_oreal.evaluation.figures import Report, report
from megatron_oreal.evaluation.markdown import as_json, as_markdown
from megatron_oreal.evaluation.saved_rows import SavedRows
from megatron_oreal.evaluation.sets import ProblemSet, read_sets
from megatron_oreal.model.hf_files import fingerprint
from megatron_oreal.monitor.console import Console
from megatron_oreal.monitor.run_lock import NAME, alone
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.trajectory import Group, finish
from megatron_oreal.verify import Verifier
from megatron_oreal.verify.audit import FILE as DISAGREEMENTS
from megatron_oreal.verify.pool.pool import Pool

ANSWERS = "answers.jsonl"


def evaluate(config: EvaluateConfig) -> None:
    """Serve the checkpoint (or ask the servers given), evaluate, write the results."""
    started, run_dir = time.perf_counter(), Path(config.run_dir)
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    sets = read_sets(config.eval.resolved())
    template = Template(tokenizer, config.system_prompt)
    template.check([p.question.question for one in sets for p in one.problems])
    asked = askings(sets, template, config.eval.max_new_tokens, config.rollout.max_total_tokens)
    with (
        alone(f"run_dir={config.run_dir}", run_dir / NAME),
        closing(SavedRows(run_dir / ANSWERS, settings(config, sets, asked), Answered, "run_dir")) as kept,
    ):
        total = sum(len(one.prompts) for one in asked)
        for note in (note for one in sets for note in one.notes):
            print(note, flush=True)
        if kept.rows:
            print(f"going on: {len(kept.rows)} of {total} are answered", flush=True)
        if len(kept.rows) < total:
            _ask(config, tokenizer, sets, asked, kept, total)
        reports = _reports(config, sets, kept)
    _write(config, reports, time.perf_counter() - started)


def settings(config: EvaluateConfig, sets: Sequence[ProblemSet], asked: Sequence[Asking]) -> dict:
    """All that the answers depend on. Of engines given by their address only the settings are known, not the weights."""
    rollout, verify = config.rollout, config.verify
    return {
        "model.path": config.model.path,
        "model": fingerprint(config.model.path),
        **{f"set {name}": of for name, of in _settings_of_sets(sets, asked).items()},
        "eval.max_new_tokens": config.eval.max_new_tokens,
        **{f"rollout.{name}": getattr(rollout, name) for name in ("max_total_tokens", "stop_word")},
        **{f"verify.{name}": getattr(verify, name) for name in ("mode", "extract", "judge_on")},
        "verify.judge.model": verify.judge.model,
    }


def _settings_of_sets(sets: Sequence[ProblemSet], asked: Sequence[Asking]) -> dict[str, dict]:
    """Questions as the model sees them (tokenizer, chat template and system prompt are in their tokens), and sampling."""
    prompts = {one.set: one.prompts for one in asked}
    found = {}
    for one in sets:
        content = [(name, p.token_ids, p.gold_answer) for name, p in prompts[one.name].items()]
        sampling = {"samples": one.asked.samples, "temperature": one.asked.temperature, "top_p": one.asked.top_p}
        sampled = sampling if one.asked.samples > 1 else {}
        found[one.name] = {"questions": hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]} | sampled
    return found


def _ask(
    config: EvaluateConfig, tokenizer, sets: Sequence[ProblemSet], asked: Sequence[Asking], kept: SavedRows[Answered], total: int
) -> None:
    """What is not answered yet; each question is kept when its last verdict is there."""
    run_dir = Path(config.run_dir)
    together = Counter()  # what is asked in the same way is asked together
    for one in asked:
        together[one.sampling] += len(one.prompts)
    at_once = at_one_time(config.rollout, [(questions, sampling.samples) for sampling, questions in together.items()])
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(config.rollout, config.model.path, config.model.dtype, run_dir, at_once))
        verifier = stack.enter_context(Verifier(config.verify, run_dir / DISAGREEMENTS))
        engines.wait_ready()
        console = stack.enter_context(Console("evaluation", total))
        verifier.watch = lambda expected: console.sampling("answers", expected)

        def take(one: Answered, group: Group) -> None:
            kept.add(one, reasons=[v.reason for v in group.verdicts], texts=[t.text for t in group.trajectories])
            console.advance(len(kept.rows))

        console.advance(len(kept.rows))
        rollout = Rollout(config.rollout, engines, tokenizer)
        finish(Evaluator(sets, asked, rollout, verifier).ask(0, frozenset(kept.rows), take), rollout.take_those_that_are_back)


def _reports(config: EvaluateConfig, sets: Sequence[ProblemSet], kept: SavedRows[Answered]) -> dict[str, Report]:
    with closing(Pool(config.verify)) as pool:  # counts votes; the engines are not needed any more
        return {one.name: report(one, kept.rows, pool.check) for one in sets}


def _write(config: EvaluateConfig, reports: dict[str, Report], seconds: float) -> None:
    run_dir = Path(config.run_dir)
    _replace(run_dir / "evaluation.json", json.dumps(as_json(config.model.path, reports, seconds), indent=1) + "\n")
    _replace(run_dir / "evaluation.md", as_markdown(config.model.path, reports))
    for name, one in reports.items():
        print(f"{name}: {_line(one)}")
    print(f"wrote {run_dir / 'evaluation.json'} and evaluation.md in {seconds:.0f} s")


def _replace(path: Path, text: str) -> None:
    written = path.with_name(path.name + ".new")
    written.write_text(text, encoding="utf-8")
    written.rename(path)


def _line(one: Report) -> str:
    figures, sampled = one.all, one.all.sampled
    parts = [f"pass@1 {figures.pass_at_1:.1%} of {figures.problems} problems"]
    if sampled:
        parts += [f"avg@{sampled.samples} {sampled.average.value:.1%}", *(f"pass@{k} {e.value:.1%}" for k, e in sampled.pass_at.items())]
        parts.append(f"majority@{sampled.samples} {sampled.majority.value:.1%}")
    undecided = figures.undecided + (sampled.undecided if sampled else 0)
    return ", ".join(parts + ([f"{undecided} answers undecided (not right)"] if undecided else []))
