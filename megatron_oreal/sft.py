"""A supervised start on the same engine:

    megatron-oreal sft model.path=DIR data.train=FILE.jsonl run_dir=DIR steps=1000

Rows of the set have question and response. The result is a Hugging Face folder, <run_dir>/hf, for `model.path` of a run.
`python -m megatron_oreal.sft` is the same command.
"""

import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import SftConfig
from megatron_oreal.data.fields import Fields, question_of, text_of
from megatron_oreal.data.files import files_of
from megatron_oreal.data.questions import Remarks
from megatron_oreal.data.rows import read_rows
from megatron_oreal.monitor.console import Console, step_line
from megatron_oreal.monitor.trackers import check_trackers, open_trackers
from megatron_oreal.plan.host.start import refuse_what_cannot_fit
from megatron_oreal.trajectory import Sample

EXPORT_TIMEOUT_S = 1800.0
"""For writing the folder at the end."""
MAIN_KEYS = (
    "model.path data.train data.fields run_dir seed steps examples_per_step optimizer.lr optimizer.warmup_steps "
    "learn.tokens_per_micro_batch stop_word"
)
COMMAND = Command("sft", "megatron_oreal.sft", __doc__, SftConfig, "sft", MAIN_KEYS)


def read_examples(config: SftConfig) -> tuple[list[Sample], list[str]]:
    """Every row as prompt and response tokens, the stop token at the end, and what is to be said of it; errors name file, row and field."""
    from megatron_oreal.data.prompts import Template, load_tokenizer, stop_token  # imported late: whoever only starts ranks needs no torch
    from megatron_oreal.learn.supervised import example

    tokenizer = load_tokenizer(config.model.path)
    template, stop = Template(tokenizer, config.data.system_prompt), stop_token(tokenizer, config.stop_word)
    fields, examples, remarks = Fields.named(config.data.fields), [], Remarks()
    for path in files_of(Path(config.data.train), None, "train"):
        for row in read_rows(path, fields.columns):
            question, found = question_of(row, fields)
            response = text_of(row, *fields.need(row, "response"))
            examples.append(example(template.tokens(question), [*tokenizer.encode(response, add_special_tokens=False), stop]))
            for remark in found:
                remarks.add(remark, row.place)
    return examples, remarks.lines()


def run(config: SftConfig) -> None:
    """Train, then write <run_dir>/hf."""
    check_trackers(config.monitor)
    examples, notes = read_examples(config)

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
            console.say("\n".join([compute.line(), *notes]))
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
