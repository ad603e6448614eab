"""The vocabulary: what flows from prompts to the training step, with shapes beside the fields.

prompts -> [Prompt] -> rollout -> [Trajectory] -> verify -> [Group] -> select -> TrainBatch -> train
"""

from dataclasses import dataclass, field
from typing import Literal

RIGHT, WRONG = 1, -1
"""The two rewards of the paper: +1 for a verified answer, -1 for everything else."""


@dataclass(frozen=True)
class Prompt:
    """A question with its gold answer, and its chat-templated tokens that a server continues."""

    id: str
    question: str
    gold_answer: str
    token_ids: list[int]  # [prompt tokens], chat template and generation prompt included
    pass_rate: float | None = None  # share of right answers of the starting policy, in [0, 1]


@dataclass(frozen=True)
class Trajectory:
    """One sampled response to a prompt."""

    prompt: Prompt
    index: int  # which of the K samples of its prompt, 0 <= index < K
    token_ids: list[int]  # [response tokens], the stop token included where there is one
    logprobs: list[float]  # [response tokens], the server's log-probabilities of these tokens
    text: str  # decoded response, without the stop token
    finish: Literal["stop", "length", "abort"]
    version: int  # policy version that sampled it

    @property
    def complete(self) -> bool:
        """Ended by the stop token itself; anything else counts as wrong without being verified (spec step 1)."""
        return self.finish == "stop"


@dataclass(frozen=True)
class Verdict:
    """What the verifier says of one response."""

    right: bool
    reason: str  # why, in a word or two: "equal", "different", "no answer", "incomplete", "timeout", ...
    decided: bool = True  # False: nobody could tell (counted, never silent)


@dataclass(frozen=True)
class Group:
    """The K trajectories of one question with their verdicts, in sample order."""

    prompt: Prompt
    trajectories: list[Trajectory]  # [K]
    verdicts: list[Verdict]  # [K]

    @property
    def rewards(self) -> list[int]:
        """[K] of +1 / -1."""
        return [RIGHT if v.right else WRONG for v in self.verdicts]

    @property
    def pass_rate(self) -> float:
        """Share of right trajectories, in [0, 1]."""
        return sum(v.right for v in self.verdicts) / len(self.verdicts)


@dataclass(frozen=True)
class Sample:
    """A trajectory chosen for training, with all that the losses need to know of its question."""

    prompt_id: str
    prompt_ids: list[int]  # [prompt tokens]
    response_ids: list[int]  # [response tokens]
    reward: int  # +1 right, -1 wrong
    advantage: float  # over the K rewards of its question
    pass_rate: float  # of its question, this iteration, in [0, 1]
    version: int  # policy version that sampled it

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
    empty_responses: int = 0  # chosen trajectories without a token, which cannot be trained on


@dataclass(frozen=True)
class TrainBatch:
    """What rank 0 hands to every rank: the samples of one optimizer step. Empty: the iteration is skipped."""

    samples: list[Sample] = field(default_factory=list)
    counts: SelectionCounts = field(default_factory=SelectionCounts)


@dataclass(frozen=True)
class Turn:
    """What rank 0 says to every rank once a step."""

    batch: TrainBatch | None  # None: the run stops before this step has one
    stop: bool = False  # save and end instead of training
