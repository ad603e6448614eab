"""A supervised start on the same engine:

    megatron-oreal sft model.path=DIR data.train=FILE.jsonl run_dir=DIR steps=1000

Lines of the file have question and response. The result is a Hugging Face folder, <run_dir>/hf, for `model.path` of a run.
`python -m megatron_oreal.sft` is the same command.
"""

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import SftConfig
from megatron_oreal.data.questions import read_rows, text_field
from megatron_oreal.monitor.console import Console, step_line
from megatron_oreal.monitor.trackers import check_trackers, open_trackers
from megatron_oreal.plan.host.start import refuse_what_cannot_fit
from megatron_oreal.trajectory import Sample

EXPORT_TIMEOUT_S = 1800.0
"""For writing the folder at the end."""
MAIN_KEYS = (
    "model.path data.train run_dir seed steps examples_per_step optimizer.lr optimizer.warmup_steps learn.tokens_per_micro_batch stop_word"
)
COMMAND = Command("sft", "megatron_oreal.sft", __doc__, SftConfig, "sft", MAIN_KEYS)


def read_examples(config: SftConfig) -> list[Sample]:
    """Every line as prompt and response tokens, the stop token at the end; errors name file, line and field."""
    from megatron_oreal.data.prompts import Template, load_tokenizer, stop_token  # imported late: whoever only starts ranks needs no torch
    from megatron_oreal.learn.supervised import example

    tokenizer = load_tokenizer(config.model.path)
    template, stop = Template(tokenizer, config.data.system_prompt), stop_token(tokenizer, config.stop_word)
    path, examples = config.data.train, []
    for number, row in read_rows(path):
        question, response = (text_field(row, name, number, path) for name in ("question", "response"))
        examples.append(example(template.tokens(question), [*tokenizer.encode(response, add_special_tokens=False), stop]))
    return examples


def run(config: SftConfig) -> None:
    """Train, then write <run_dir>/hf."""
    check_trackers(config.monitor)
    examples = read_examples(config)

    from megatron_oreal.learn.export import write_hf
    from megatron_oreal.learn.parallel import Ranks
    from megatron_oreal.learn.supervised import SupervisedLearner, epochs
    from megatron_oreal.model.blueprint import open_model
    from megatron_oreal.model.compute import Compute
    from megatron_oreal.model.platform import Platform

    compute = Compute.find(config.compute, config.model.dtype, Platform.detect())
    open_model(config.model.path, "policy", config.parallel)
    with Ranks(config.parallel, config.seed, Path(config.run_dir) / "stacks") as ranks:
        ranks.enter("load")
        learner = SupervisedLearner(config, ranks)
        draws = epochs(len(examples), config.seed, config.examples_per_step)
        ranks.enter("train")
        with ExitStack() as stack:
            console = stack.enter_context(Console("supervised", config.steps, quiet=not ranks.conducts))
            log = None
            if ranks.conducts:
                log = stack.enter_context(open_trackers(config.monitor, config.run_dir, asdict(config), console.say))
            console.say(compute.line())
            for step in range(1, config.steps + 1):
                started = time.perf_counter()
                metrics = learner.train([examples[i] for i in next(draws)])
                metrics["time/step"] = time.perf_counter() - started
                if log:
                    log.write(step, metrics)
                if step % config.log_interval == 0 or step == config.steps:
                    console.step(step, step_line(metrics))
            write_hf(learner.policy.gpt, learner.models, config.run_dir, ranks, EXPORT_TIMEOUT_S)
            console.say(f"wrote {config.run_dir}/hf")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments, refuse_what_cannot_fit)


if __name__ == "__main__":
    sys.exit(main())
