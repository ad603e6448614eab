"""A trial: what a user types, what is there before, and how it must end."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

REFUSED_S, RUN_S = 240.0, 900.0  # on a busy machine; what hangs takes longer
DEMO = "experiment=demo model.path=demo/base data.train=demo/train.jsonl run_dir=run"
SMALL = (
    "debug=fast rollout.ready_timeout_s=600 steps=2 parallel.dp=1 objective.keep=all "
    "data.balance=[] rollout.samples=2 rollout.max_new_tokens=16"
)
TRAIN = f"megatron-oreal train {DEMO}"
RUN = f"{TRAIN} {SMALL}"
"""A run that goes to its end."""
SFT = "megatron-oreal sft experiment=demo_sft model.path=demo/base data.train=demo/sft.jsonl run_dir=run"
SFT_RUN = f"{SFT} steps=4 examples_per_step=6 optimizer.warmup_steps=2 parallel=auto parallel.dp=1"
PYTEST = "python -m pytest -m '' -q -rs -W ignore -p no:cacheprovider"


def _as_it_is(_: Path) -> AbstractContextManager[Mapping[str, str]]:
    return nullcontext({})


def _nothing(_: Path) -> str:
    return ""


@dataclass(frozen=True)
class Trial:
    """`command` is a line of bash, typed in a folder of the trial's own in which `demo` is the demo's task.

    says: a regular expression that is found in a line of what is said, an error's line where `status` is not 0.
    before: what writes into the folder first, in their order.
    shell: what the same shell has done before, which is not the user's doing (limits, mounts).
    beside: what is there as long as the command runs; gives more variables of the environment. `environment` has those of the user.
    own_mounts: the shell has mounts of its own; takes root.
    then: looks at what is there in the end, and says what is wrong with it.
    why_not: why it cannot be tried here, or nothing.
    """

    name: str
    command: str
    says: str
    status: int = 0
    before: tuple[Callable[[Path], None], ...] = ()
    shell: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    beside: Callable[[Path], AbstractContextManager[Mapping[str, str]]] = _as_it_is
    own_mounts: bool = False
    then: Callable[[Path], str] = _nothing
    why_not: Callable[[], str] = lambda: ""
    deadline_s: float = REFUSED_S

    @property
    def folder(self) -> str:
        """Its name."""
        return re.sub(r"\W+", "-", self.name).strip("-")

    @property
    def kind(self) -> str:
        return "clear error" if self.status else "works"


def refused(name: str, command: str, says: str, *before: Callable[[Path], None], status: int = 2, **more) -> Trial:
    """What must end with a line, at once."""
    return Trial(name, command, says, status, before, **more)


def works(name: str, command: str, says: str, *before: Callable[[Path], None], **more) -> Trial:
    """What must go to its end."""
    return Trial(name, command, says, 0, before, **{"deadline_s": RUN_S, **more})


def tested(name: str, node: str, **more) -> Trial:
    """What a test of the suite tries, whose outcome is taken over. `node`: pytest's arguments."""
    return works(name, f"cd $CHECKOUT && {PYTEST} {node}", r"\d+ passed", **more)
