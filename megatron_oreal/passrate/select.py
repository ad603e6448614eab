"""Turns sampled answers into a supervised set by rejection sampling: the right ones, at most so many a question.

    megatron-oreal passrate model.path=DIR questions=PATH out=RATED.jsonl answers=ANSWERS.jsonl
    megatron-oreal select answers=ANSWERS.jsonl out=SFT.jsonl per_question=2
    megatron-oreal select answers=ANSWERS.jsonl out=SFT.jsonl by=nearest length=600 longest=4000
    megatron-oreal sft model.path=DIR data.train=SFT.jsonl run_dir=DIR

Wrong answers, answers that nobody could judge, and the same answer to a question once more are left out; so are questions without a right
answer. Each is counted. It takes no GPU, and reads the file twice instead of holding it.
"""

import sys

from megatron_oreal.command import Command, run_command
from megatron_oreal.config import SelectConfig

MAIN_KEYS = "answers out per_question by length longest seed"
COMMAND = Command("select", "megatron_oreal.passrate.select", __doc__, SelectConfig, "select", MAIN_KEYS)


def run(config: SelectConfig) -> None:
    """Choose, write, say what was left out."""
    from megatron_oreal.passrate.rejection import select  # here, as all that a command needs beyond its help

    print(*select(config), sep="\n", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command(COMMAND, run, arguments)


if __name__ == "__main__":
    sys.exit(main())
