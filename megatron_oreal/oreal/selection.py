"""Which trajectories of an iteration are trained on (spec step 3; Algorithm 1)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from megatron_oreal.oreal.objective import CHOICES, require_choice


@dataclass
class Selection:
    """What was kept, and how many questions were dropped for which reason."""

    kept: list[tuple[int, int]] = field(default_factory=list)  # (question, sample), questions in order
    dropped_all_right: int = 0  # questions of pass rate 1: nothing to learn from
    dropped_all_wrong: int = 0  # questions of pass rate 0


def select(rewards: Tensor, keep: str, generator: torch.Generator, counted: Tensor | None = None) -> Selection:
    """[questions, K] rewards (+1 / -1) -> what to train on.

    pair: of each question with a pass rate strictly between 0 and 1 one right and one wrong trajectory, in this order, drawn with
    `generator` (on the CPU); the same draw for the same generator state. all: everything, questions of pass rate 0 or 1 as well.
    `counted` [questions, K] (default: all): a sample that is not counted is neither right nor wrong, and never kept.
    Raises ValueError for an unknown `keep`.
    """
    require_choice("keep", keep, CHOICES["keep"])
    counted = torch.ones_like(rewards, dtype=torch.bool) if counted is None else counted
    if keep == "all":
        return Selection([(question, sample) for question, sample in counted.nonzero().tolist()])
    selection = Selection()
    rights, wrongs = ((rewards > 0) & counted).cpu(), ((rewards <= 0) & counted).cpu()
    for question, (right, wrong) in enumerate(zip(rights, wrongs, strict=True)):
        if not wrong.any():
            selection.dropped_all_right += 1
        elif not right.any():
            selection.dropped_all_wrong += 1
        else:
            selection.kept += [(question, _draw(right, generator)), (question, _draw(wrong, generator))]
    return selection


def _draw(candidates: Tensor, generator: torch.Generator) -> int:
    """One of the true positions of [K], each as likely as the others."""
    positions = candidates.nonzero().flatten()
    return int(positions[torch.randint(len(positions), (), generator=generator)])
