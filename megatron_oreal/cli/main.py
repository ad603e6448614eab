"""`megatron-oreal COMMAND ...`: a table of commands, of which only the one that is asked for is imported."""

import sys
from importlib import import_module

from megatron_oreal import __version__
from megatron_oreal.cli import complete
from megatron_oreal.command import guarded
from megatron_oreal.keys.nearest import hint

COMMANDS = {  # name -> its module, which has `main`; and what it is for
    "train": ("megatron_oreal.train", "trains with OREAL"),
    "sft": ("megatron_oreal.sft", "makes a supervised start"),
    "evaluate": ("megatron_oreal.evaluate", "evaluates a checkpoint or running servers on any sets"),
    "passrate": ("megatron_oreal.passrate.command", "measures how hard each question is for a model"),
    "select": ("megatron_oreal.passrate.select", "makes a supervised set of the right ones of sampled answers"),
    "convert": ("megatron_oreal.convert.command", "converts checkpoints between Hugging Face and Megatron"),
    "plan": ("megatron_oreal.plan.command", "says what memory and seconds a run will take; needs no GPU"),
    "doctor": ("megatron_oreal.doctor.command", "looks at what would stop a run before it starts"),
    "bench": ("megatron_oreal.cli.bench", "measures parts of this project on this machine"),
    "serve": ("megatron_oreal.serve", "keeps a run's engines on hosts of their own"),
    "report": ("megatron_oreal.report.command", "makes one HTML file of a run"),
}
COMPLETION = ("-sc", "--shell-completion")  # Hydra's own names for it, which its script for the shell calls


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Hand over to the command. Raises ValueError where there is no such command."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name in ("", "-h", "--help"):
        print(overview())
        return 0 if name else 2
    if name == "--version":
        print(__version__)
        return 0
    if name in COMPLETION:
        complete.answer(" ".join(rest), {command: module for command, (module, _) in COMMANDS.items()})
        return 0
    if name not in COMMANDS:
        raise ValueError(f"{name!r} is no command{hint(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    return import_module(COMMANDS[name][0]).main(rest)


def overview() -> str:
    """What `--help` says without a command."""
    lines = "\n".join(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items())
    return f"""usage: megatron-oreal COMMAND [key=value ...] [options]

Outcome-reward reinforcement learning for mathematical reasoning (OREAL, arXiv 2502.06781).

{lines}

megatron-oreal COMMAND --help     what it does, its main keys, examples
megatron-oreal COMMAND --keys     all keys with values and meanings
megatron-oreal --version
eval "$(megatron-oreal -sc install=bash)"     completes commands, groups, keys and experiments in this bash"""


if __name__ == "__main__":
    sys.exit(main())
