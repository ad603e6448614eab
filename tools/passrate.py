"""Measure how often a model answers each question right, and write the questions with their pass_rate:

    python tools/passrate.py model.path=DIR questions=FILE.jsonl out=FILE.jsonl [key=value ...]

It samples rollout.samples answers a question (at the rollout's temperature) from a server that it starts, or from running ones
(rollout.placement=external), and verifies them. Every line of the input stands in the output, in order, with all its fields.
"""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

from megatron_oreal.command import run_command
from megatron_oreal.config import PassrateConfig, load
from megatron_oreal.monitor.console import Console
from megatron_oreal.prompts import Template, fitting, load_tokenizer, read_questions, read_rows, stop_token
from megatron_oreal.rollout.engines import open_engines
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.verify.pool import Verifier


def run(config: PassrateConfig) -> None:
    """Sample, verify, write."""
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template = Template(tokenizer, config.system_prompt)
    questions = read_questions(config.questions)
    prompts = fitting([template.prompt(q) for q in questions], config.rollout.max_total_tokens)
    run_dir = Path(config.out).resolve().parent
    run_dir.mkdir(parents=True, exist_ok=True)
    rates: dict[str, float] = {}
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(config.rollout, config.model.path, config.model.dtype, run_dir))
        verifier = stack.enter_context(Verifier(config.verify))
        engines.wait_ready()
        rollout = Rollout(config.rollout, engines, tokenizer)
        console = stack.enter_context(Console("pass rates", len(prompts)))
        for start in range(0, len(prompts), config.questions_at_once):
            some = prompts[start : start + config.questions_at_once]
            groups = verifier.verify(rollout.generate(some, version=0), config.rollout.samples)
            rates |= {g.prompt.id: g.pass_rate for g in groups}
            console.step(len(rates), f"mean pass rate {sum(rates.values()) / len(rates):.1%}")
    with open(config.out, "w", encoding="utf-8") as out:
        for question, (_, row) in zip(questions, read_rows(config.questions), strict=True):
            # A question too long to be asked keeps its line, without a pass rate: the training run leaves it out and counts it.
            out.write(json.dumps(row | ({"pass_rate": rates[question.id]} if question.id in rates else {}), ensure_ascii=False) + "\n")
    print(f"wrote {config.out}: {len(rates)} pass rates, {len(questions) - len(rates)} questions too long")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command("tools/passrate.py", lambda overrides: load(PassrateConfig, "passrate", overrides), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
