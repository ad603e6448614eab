"""Where rule and judge disagree, for people to read: one JSON object a line. One of the two has a fault there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_oreal.trajectory import Trajectory, Verdict

if TYPE_CHECKING:
    from megatron_oreal.verify.judge.judge import Ruling

FILE = "disagreements.jsonl"


class Audit:
    """Adds to a file, a whole line at once, each case once; made by rank 0 alone."""

    def __init__(self, path: Path | None):
        self._path = path
        self._seen: set[tuple[str, str]] = set()

    def add(self, trajectory: Trajectory, answer: str, rule: Verdict, ruling: "Ruling") -> None:
        """One case, with all that is needed to look into it."""
        prompt = trajectory.prompt
        if self._path is None or (prompt.question, answer) in self._seen:
            return
        self._seen.add((prompt.question, answer))
        row = {
            "prompt": prompt.id,
            "sample": trajectory.index,
            "version": trajectory.version,
            "question": prompt.question,
            "gold": prompt.gold_answer,
            "answer": answer,
            "rule": {"right": rule.right, "reason": rule.reason},
            "judge": {"right": ruling.right, "reply_end": ruling.reply_end},
        }
        line = json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with open(self._path, "ab", buffering=0) as file:
            file.write(line)
