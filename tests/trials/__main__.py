"""What new users do on the demo's small model, tried one by one, with a line each: works, clear error, WRONG or skipped.

python -m tests.trials [--only WORD] [--out DIR] [--list]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.trials import going_on, inputs, machine, network
from tests.trials.runner import ROOT, Outcome, run, stop_on_sigterm
from tests.trials.trial import Trial

TRIALS: Sequence[Trial] = [*inputs.TRIALS, *network.TRIALS, *machine.TRIALS, *going_on.TRIALS]


def main() -> int:
    """The exit status: 1 where one of them is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", default="", metavar="WORD", help="those with this in their name or command")
    parser.add_argument("--out", type=Path, default=ROOT / "work_dirs" / "trials", help="for their folders and logs")
    parser.add_argument("--list", action="store_true", help="names and commands, nothing is run")
    asked = parser.parse_args()
    chosen = [trial for trial in TRIALS if asked.only in f"{trial.name}\n{trial.command}"]
    if asked.list:
        print("\n".join(f"{trial.kind:12} {trial.name}\n{'':15}{trial.command}" for trial in chosen))
        return 0
    stop_on_sigterm()
    outcomes = [_said(run(trial, asked.out)) for trial in chosen]
    wrong, skipped = (sum(bool(getattr(outcome, what)) for outcome in outcomes) for what in ("wrong", "skipped"))
    print(f"{len(outcomes)} trials in {sum(outcome.seconds for outcome in outcomes) / 60:.0f} minutes, {wrong} wrong, {skipped} skipped")
    return int(wrong > 0)


def _said(outcome: Outcome) -> Outcome:
    print(outcome, flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
