"""Evaluation of a checkpoint or of running servers on any number of question sets:

    megatron-oreal evaluate model.path=DIR eval.data=FILE.jsonl
    megatron-oreal evaluate model.path=DIR eval.sets.math500=FILE eval.sets.aime24=FOLDER eval.samples=32 'eval.k=[8,32]'

Leaves evaluation.json, evaluation.md and answers.jsonl (every response with its verdict) in run_dir. The same command, started again
after it was killed, asks only what is missing. `python -m megatron_oreal.evaluate` is the same command.
"""

import sys

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import EvaluateConfig
from megatron_oreal.plan.start import refuse_what_cannot_run

MAIN_KEYS = (
    "model.path run_dir eval.data eval.sets eval.samples eval.k eval.temperature eval.top_p eval.max_new_tokens system_prompt "
    "rollout.engines rollout.placement rollout.urls verify.mode"
)
COMMAND = Command("evaluate", "megatron_oreal.evaluate", __doc__, EvaluateConfig, "evaluate", MAIN_KEYS)


def run(config: EvaluateConfig) -> None:
    """Serve the checkpoint (or ask the servers given), evaluate, write the results."""
    from megatron_oreal.evaluation.checkpoint import evaluate  # here, because it takes seconds

    evaluate(config)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments, refuse_what_cannot_run)


if __name__ == "__main__":
    sys.exit(main())
