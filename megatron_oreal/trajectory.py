"""The vocabulary: what flows from prompts to the training step, with shapes beside the fields.

prompts -> [Prompt] -> rollout -> [Trajectory] -> verify -> [Group] -> select -> TrainBatch -> train
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal, TypeVar

T = TypeVar("T")

RIGHT, WRONG = 1, -1
"""The two rewards of the paper: +1 for a verified answer, -1 for everything else."""
NEITHER = 0
"""In the place of a reward: nobody could tell."""


@dataclass(frozen=True)
class Prompt:
    """A question with its gold answer, and its chat-templated tokens that a server continues."""

    id: str
    question: str
    gold_answer: str
    token_ids: list[int]  # [prompt tokens], chat template and generation prompt included
    pass_rate: float | None = None  # share of right answers of the starting policy, in [0, 1]
    origin: str = ""  # the set it is from, where there are several


@dataclass(frozen=True)
class Span:
    """Consecutive tokens of a trajectory that one policy version sampled."""

    version: int
    tokens: int


@dataclass(frozen=True)
class Trajectory:
    """One sampled response to a prompt."""

    prompt: Prompt
    index: int  # which of the K samples of its prompt, 0 <= index < K
    token_ids: list[int]  # [response tokens], the stop token included where there is one
    logprobs: list[float]  # [response tokens], the server's log-probabilities of these tokens
    text: str  # decoded response, without the stop token; of one that is cut nothing yet
    finish: Literal["stop", "length", "abort", "cut"]  # abort: another end token than the stop word's; cut: by us, to be resumed
    version: int  # policy version that sampled it; of a trajectory that was cut and resumed, its last part
    earlier: list[Span] = field(default_factory=list)  # its parts before that, in order

    @property
    def complete(self) -> bool:
        """Ended by the stop token itself; anything else counts as wrong without being verified (spec step 1)."""
        return self.finish == "stop"


@dataclass(frozen=True)
class Unfinished:
    """A question whose sampling was cut; it goes on in the next step, under the weights of then."""

    prompt: Prompt
    trajectories: list[Trajectory]  # [K], finish "cut" where it goes on; empty where it was not begun

    @property
    def first_version(self) -> int | None:
        """Of the policy that sampled its first token; None where there is none yet."""
        return first_version(self.trajectories)

    def is_whole(self, samples: int) -> bool:
        """Whether it only waits to be trained on: all of its `samples` have ended."""
        return len(self.trajectories) == samples and all(t.finish != "cut" for t in self.trajectories)


def first_version(trajectories: Sequence[Trajectory]) -> int | None:
    """Of the policy that sampled a question's first token; None where there is none yet."""
    return min((t.earlier[0].version if t.earlier else t.version for t in trajectories if t.token_ids), default=None)


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one response."""

    right: bool
    reason: str  # why, in a word or two: "equal", "different", "no answer", "incomplete", "timeout", ...
    decided: bool = True  # False: nobody could tell (counted, never silent)
    left_out: bool = False  # undecided, and neither right nor wrong (verify.undecided=drop): only counted


@dataclass(frozen=True)
class Group:
    """The K trajectories of one question with their verdicts, in sample order."""

    prompt: Prompt
    trajectories: list[Trajectory]  # [K]
    verdicts: list[Verdict]  # [K]

    @property
    def rewards(self) -> list[int]:
        """[K] of +1 / -1, and 0 where the verdict is left out."""
        return [NEITHER if v.left_out else RIGHT if v.right else WRONG for v in self.verdicts]

    @property
    def counted(self) -> int:
        """How many of the K are right or wrong; the others are left out of the pass rate and of the advantage's K."""
        return sum(not v.left_out for v in self.verdicts)

    @property
    def pass_rate(self) -> float | None:
        """Share of right trajectories among those counted, in [0, 1]; None where there are none."""
        return sum(v.right for v in self.verdicts) / self.counted if self.counted else None


@dataclass(frozen=True)
class Sample:
    """A trajectory chosen for training, with all that the losses need to know of its question."""

    prompt_id: str
    prompt_ids: list[int]  # [prompt tokens]
    response_ids: list[int]  # [response tokens]
    reward: int  # +1 right, -1 wrong
    advantage: float  # over the K rewards of its question
    pass_rate: float  # of its question, this iteration, in [0, 1]
    version: int  # policy version that sampled it; its last part, see `earlier`
    logprobs: list[float] = field(default_factory=list)  # [response tokens], the engine's; empty: not known
    index: int = 0  # which of the K samples of its question
    earlier: list[Span] = field(default_factory=list)  # parts that older versions sampled, in order

    @property
    def length(self) -> int:
        """Prompt and response tokens together."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class SelectionCounts:
    """What selection did with the questions of an iteration; kept + dropped = all."""

    questions: int = 0
    kept: int = 0
    dropped_all_right: int = 0
    dropped_all_wrong: int = 0
    dropped_undecided: int = 0  # fewer than two trajectories right or wrong: there is nothing to compare
    empty_responses: int = 0  # chosen trajectories without a token, which cannot be trained on


@dataclass(frozen=True)
class TrainBatch:
    """What rank 0 hands to every rank: the samples of one optimizer step. Empty: the iteration is skipped."""

    samples: list[Sample] = field(default_factory=list)
    counts: SelectionCounts = field(default_factory=SelectionCounts)


@dataclass(frozen=True)
class Directive:
    """What rank 0 says to every rank when it has done its part of a stage."""

    batch: TrainBatch | None = None  # to train on; None: there is none
    metrics: dict[str, float] = field(default_factory=dict)  # of that part
    stop: bool = False  # save and end instead of going on: the run was asked to
    best: bool = False  # the best step so far on the validation set: to be saved
    end: bool = False  # that set has not improved for long: the run ends like a finished one
    publish: bool = False  # not done yet: the engines were lost, all ranks bring their weights back
    failed: str = ""  # why rank 0 cannot go on


class NoEngine:
    """In the place of a trajectory: the last engine was lost, and no more come until one is back in service."""


Work = Generator[NoEngine, None, T]
"""Work of rank 0 that stands still at each NoEngine, until whoever does it has brought an engine back; see `finish`."""


def finish(work: Work[T], revive: Callable[[], None]) -> T:
    """Do rank 0's work to its end, and return what it returns; `revive` brings an engine back into service, or raises."""
    with closing(work):
        while True:
            try:
                next(work)
            except StopIteration as end:
                return end.value
            revive()
