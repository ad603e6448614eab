"""Which files hold a set of questions: one that is named, or those of a split in a folder, as the hub and `save_to_disk` lay them out."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

JSON = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
TABLES = (".parquet", ".arrow")
KINDS = ", ".join((*JSON, *TABLES))
ABOUT_A_SET = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What lies beside the rows."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}.*$")
_SPLIT = re.compile(r"(?:^|[-._ ])(train|test|validation|valid|val|dev|eval)(?:$|[-._ ])")


def files_of(data: Path, split: str | None, default: str) -> list[Path]:
    """The files that hold a split: `data` itself, or those in the folder.

    `test-00000-of-00001.parquet`, `test.jsonl`, `gsm8k-test.arrow` and `test/data-00000-of-00001.arrow` are of the split "test".

    Args:
        split: None: the only one, else `default`.

    Raises:
        ValueError: nothing to read, no such split, or several to choose from.
    """
    if data.is_file():
        if split:
            raise ValueError(f"{data}: split={split!r} is of a folder, this is a file")
        if not _holds_rows(data):
            raise ValueError(f"{data}: {KINDS} files are read, and folders of them")
        return [data]
    if not data.is_dir():
        raise ValueError(f"{data}: no such file or folder (data sets are not downloaded here: `hf download --repo-type dataset` does that)")
    splits: dict[str, list[Path]] = {}
    for path in sorted(data.rglob("*")):
        if _holds_rows(path) and not _is_beside(path.relative_to(data)):
            splits.setdefault(_split_of(path), []).append(path)
    return _chosen(data, splits, split, default)


def fingerprint(files: Sequence[Path]) -> str:
    """Of what stands in the files, one after the other."""
    found = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()[:16]


def _holds_rows(path: Path) -> bool:
    return path.name.endswith((*JSON, *TABLES)) and path.is_file()


def _is_beside(path: Path) -> bool:
    """Hidden, about the set, or left by `datasets` beside a saved one."""
    return any(part.startswith(".") for part in path.parts) or path.name in ABOUT_A_SET or path.name.startswith("cache-")


def _split_of(path: Path) -> str:
    name = _SHARD.sub("", path.name.removesuffix(_kind(path)))
    named = _SPLIT.search(name) or _SPLIT.fullmatch(path.parent.name)
    return named[1] if named else path.parent.name if name == "data" else name


def _chosen(data: Path, splits: dict[str, list[Path]], split: str | None, default: str) -> list[Path]:
    if not splits:
        raise ValueError(f"{data}: no {KINDS} file in it")
    wanted = split or (next(iter(splits)) if len(splits) == 1 else default)
    if wanted not in splits:
        raise ValueError(f"{data}: holds {', '.join(sorted(splits))}; name one as `split` of the set")
    folders = {path.parent for path in splits[wanted]}
    if len(folders) > 1:
        names = ", ".join(sorted(str(f.relative_to(data)) for f in folders))
        raise ValueError(f"{data}: split {wanted!r} is in several folders ({names}); name one of them as the set's data")
    kinds = {_kind(path) for path in splits[wanted]}
    if len(kinds) > 1:
        raise ValueError(f"{data}: split {wanted!r} is there as {' and '.join(sorted(kinds))}; name one file as the set's data")
    return splits[wanted]


def _kind(path: Path) -> str:
    return next(kind for kind in (*JSON, *TABLES) if path.name.endswith(kind))
