"""Which of a question's answers are the same: the votes of majority@n."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from megatron_oreal.trajectory import Verdict

Same = Callable[[str, str], "Future[Verdict]"]
"""What the rule check says of two answers; it works on them in processes of its own, and evaluates no text."""


def groups(answers: Sequence[str], same: Same) -> list[list[int]]:
    """Positions of equal answers together, in the order in which they were first given. The gold answer has no part in it.

    An answer joins the first group whose first answer equals it; where the rules cannot tell, it is another one.
    """
    by_text: dict[str, list[int]] = {}
    for position, answer in enumerate(answers):
        by_text.setdefault(answer, []).append(position)
    found: list[tuple[str, list[int]]] = []
    for answer, positions in by_text.items():
        asked = [(same(answer, first), members) for first, members in found]  # at once: the workers share them
        equal = next((members for verdict, members in asked if verdict.result().right), None)
        if equal is None:
            found.append((answer, list(positions)))
        else:
            equal.extend(positions)
    return [members for _, members in found]
