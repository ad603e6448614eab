"""Measures how often a model answers each question right, and writes the questions with their pass_rate:

    megatron-oreal passrate model.path=DIR questions=PATH out=FILE.jsonl
    megatron-oreal passrate model.path=DIR questions=PATH out=FILE.jsonl answers=ANSWERS.jsonl      # for megatron-oreal select

It samples rollout.samples answers a question (at the rollout's temperature) from servers that it starts, or from running ones
(rollout.placement=external), and verifies them. Every row of the input stands in the output, in order, with all its fields. Answers that
nobody could judge do not count (verify.undecided=drop).

Finished questions are kept in <out>.partial: the same command, started again after it was killed, goes on from there.
"""

import sys

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import PassrateConfig
from megatron_oreal.plan.start import refuse_what_cannot_run

MAIN_KEYS = (
    "model.path questions split fields out answers rollout.samples rollout.temperature rollout.top_p rollout.max_new_tokens system_prompt "
    "questions_at_once rollout.engines rollout.placement rollout.urls verify.mode verify.undecided"
)
COMMAND = Command("passrate", "megatron_oreal.passrate.command", __doc__, PassrateConfig, "passrate", MAIN_KEYS)


def run(config: PassrateConfig) -> None:
    """Sample, verify, write."""
    from megatron_oreal.passrate.measure import measure  # here, because it takes seconds

    measure(config)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments, refuse_what_cannot_run)


if __name__ == "__main__":
    sys.exit(main())
