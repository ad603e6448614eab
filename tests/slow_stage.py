"""A training run that leaves a file when it enters a stage for the second time, and then waits a while.

python -m tests.slow_stage STAGE FILE key=value ...
"""

import sys
import time
from pathlib import Path

WAITS_S = 4.0


def main(stage: str, flag: str, *overrides: str) -> int:
    from megatron_oreal import train
    from megatron_oreal.learn.parallel import Ranks

    enter, entered = Ranks.enter, []

    def enter_and_wait(self, name: str) -> None:
        enter(self, name)
        entered.append(name)
        if name == stage and entered.count(stage) == 2:
            Path(flag).touch()
            time.sleep(WAITS_S)

    Ranks.enter = enter_and_wait
    return train.main(list(overrides))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
