"""Recorded trajectories, read step by step and packed: an index that a page has at once, and blocks of text that it opens when needed."""

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from megatron_oreal.monitor.recorded import FOLDER, Marked, Weighted, file_of, marks_file, weights_file
from megatron_oreal.trajectory import NEITHER, RIGHT, WRONG
from megatron_oreal.verify.extraction.answer import final_answer

BLOCK_CHARS = 2_000_000
"""Text of a block: it is opened in some ten milliseconds, and compresses about as well as a larger one."""
ANSWER_CHARS = 80
"""Of an answer in the list; whole in its trajectory."""
Key = tuple[str, int]
"""Question and sample."""
T = TypeVar("T", Weighted, Marked)


class Question(msgspec.Struct):
    """What a report reads of a Prompt."""

    id: str
    question: str
    gold_answer: str
    pass_rate: float | None = None


class Response(msgspec.Struct):
    """What a report reads of a Trajectory."""

    index: int
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: str
    version: int


class Judgement(msgspec.Struct):
    """What a report reads of a Verdict."""

    right: bool
    reason: str
    decided: bool = True
    left_out: bool = False


class Asked(msgspec.Struct):
    """What a report reads of a Group."""

    prompt: Question
    trajectories: list[Response]
    verdicts: list[Judgement]


@dataclass
class Index:
    """All trajectories in order, one list a field; and where their questions and blocks begin."""

    step: list[int] = field(default_factory=list)  # of each question, as the next three
    id: list[str] = field(default_factory=list)
    question: list[str] = field(default_factory=list)
    gold: list[str] = field(default_factory=list)
    of: list[int] = field(default_factory=list)  # its question; of each trajectory, as the rest
    sample: list[int] = field(default_factory=list)  # which of the K
    reward: list[int] = field(default_factory=list)  # +1, -1, or 0 where it is left out
    decided: list[int] = field(default_factory=list)  # 0: nobody could tell
    length: list[int] = field(default_factory=list)  # response tokens
    answer: list[str] = field(default_factory=list)
    reason: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    version: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)  # 1: with token weights
    block: list[int] = field(default_factory=list)  # the first trajectory of each block


@dataclass
class Packed:
    """What a page holds.

    `blocks` are base64 of gzip of JSON, a list of {text, where trained: pieces, weights, logprobs, where marked: wrong}.
    """

    index: Index = field(default_factory=Index)
    blocks: list[str] = field(default_factory=list)
    recorded: int = 0  # trajectories that the run recorded, of which the index has some or all


def pack(run_dir: Path, most: int) -> Packed:
    """Of at most `most` trajectories, by whole questions, as many of each step; those trained on go first.

    Raises:
        ValueError: a line that is no group, or weights that fit no trajectory; with file and line.
    """
    packed, folder = Packed(), run_dir / FOLDER
    steps = sorted(int(path.stem.partition("-")[2]) for path in folder.glob("step-*.jsonl"))
    counts = {step: sum(1 for _ in _lines(file_of(folder, step))) for step in steps}
    samples = max((len(_decode(p, n, line, Asked).trajectories) for p, n, line in _first_lines(folder, steps)), default=1)
    shares = share_out(list(counts.values()), max(1, most // max(samples, 1)) if most else 0)
    writer = _Blocks(packed)
    for step, share in zip(steps, shares, strict=True):
        weights, marks = _weights(weights_file(folder, step)), _by_trajectory(marks_file(folder, step), Marked)
        trained = {prompt for prompt, _ in weights}
        groups = [_decode(path, number, line, Asked) for path, number, line in _lines(file_of(folder, step))]
        packed.recorded += sum(len(g.trajectories) for g in groups)
        chosen = sorted(range(len(groups)), key=lambda i: groups[i].prompt.id not in trained)[:share]
        for i in sorted(chosen):
            writer.add(step, groups[i], weights, marks)
    writer.flush()
    return packed


def share_out(questions: list[int], most: int) -> list[int]:
    """How many questions of each step are shown, `most` in all: as equal as can be; where steps are more than that, every n-th has one."""
    if len(questions) > most:
        return [int((i + 1) * most // len(questions) > i * most // len(questions)) for i in range(len(questions))]
    shares, left = [0] * len(questions), most
    for place, step in enumerate(sorted(range(len(questions)), key=lambda i: questions[i])):  # what short steps leave goes to the others
        shares[step] = min(questions[step], left // (len(questions) - place))
        left -= shares[step]
    return shares


class _Blocks:
    """Fills index and blocks."""

    def __init__(self, packed: Packed):
        self._packed, self._open, self._chars = packed, [], 0

    def add(self, step: int, group: Asked, weights: dict[Key, Weighted], marks: dict[Key, Marked]) -> None:
        index = self._packed.index
        for name, value in (
            ("step", step),
            ("id", group.prompt.id),
            ("question", group.prompt.question),
            ("gold", group.prompt.gold_answer),
        ):
            getattr(index, name).append(value)
        for response, verdict in zip(group.trajectories, group.verdicts, strict=True):
            weighted = weights.get((group.prompt.id, response.index))
            self._index(response, verdict, weighted is not None)
            self._text(response, weighted, marks.get((group.prompt.id, response.index)))

    def _index(self, response: Response, verdict: Judgement, trained: bool) -> None:
        index = self._packed.index
        if not self._open:
            index.block.append(len(index.of))
        row = {
            "of": len(index.id) - 1,
            "sample": response.index,
            "reward": NEITHER if verdict.left_out else RIGHT if verdict.right else WRONG,
            "decided": int(verdict.decided),
            "length": len(response.token_ids),
            "answer": (final_answer(response.text) or "")[:ANSWER_CHARS],
            "reason": verdict.reason,
            "finish": response.finish,
            "version": response.version,
            "trained": int(trained),
        }
        for name, value in row.items():
            getattr(index, name).append(value)

    def _text(self, response: Response, weighted: Weighted | None, marked: Marked | None) -> None:
        entry = {"text": response.text} | ({"wrong": [marked.begin, marked.end]} if marked else {})
        if weighted:
            entry |= {"pieces": weighted.pieces, "weights": weighted.weights, "logprobs": [round(p, 3) for p in response.logprobs]}
        self._open.append(entry)
        self._chars += len(response.text) * (4 if weighted else 1)
        if self._chars > BLOCK_CHARS:
            self.flush()

    def flush(self) -> None:
        if self._open:
            self._packed.blocks.append(packed_json(self._open))
        self._open, self._chars = [], 0


def packed_json(value: object) -> str:
    """base64 of gzip of JSON: letters, digits, + / and = alone, whatever a model wrote."""
    return base64.b64encode(gzip.compress(msgspec.json.encode(value), mtime=0)).decode()


def _weights(path: Path) -> dict[Key, Weighted]:
    found = _by_trajectory(path, Weighted)
    for number, one in enumerate(found.values(), 1):
        if len(one.pieces) != len(one.weights):
            raise ValueError(f"{path}, line {number}: {len(one.pieces)} pieces, {len(one.weights)} weights")
    return found


def _by_trajectory(path: Path, kind: type[T]) -> dict[Key, T]:
    rows = [_decode(path, number, line, kind) for _, number, line in _lines(path)]
    return {(one.prompt_id, one.index): one for one in rows}


def _lines(path: Path) -> Iterator[tuple[Path, int, bytes]]:
    if path.is_file():
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield path, number, line


def _first_lines(folder: Path, steps: list[int]) -> Iterator[tuple[Path, int, bytes]]:
    for step in steps:
        yield from (line for line, _ in zip(_lines(file_of(folder, step)), range(1), strict=False))


def _decode(path: Path, number: int, line: bytes, kind: type):
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}, line {number}: {error}") from error
