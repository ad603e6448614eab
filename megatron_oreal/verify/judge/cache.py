"""A judge's verdicts on disk, one JSON object a line: found again in the next run, readable by people."""

import hashlib
import json
from pathlib import Path


class JudgeCache:
    """Verdicts by what was asked of which model; in memory alone where there is no file."""

    def __init__(self, path: str | None):
        """Raises ValueError where the file is no cache or cannot be written."""
        self._known: dict[str, tuple[bool, str]] = {}
        self._file = None
        if path is None:
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 (lives as long as the judge)
            self._read(path)
        except OSError as error:
            raise ValueError(f"verify.judge.cache: {error}") from error

    def _read(self, path: str) -> None:
        self._file.seek(0)
        content = self._file.read()
        if content and not content.endswith(b"\n"):  # whoever wrote it was killed: that line is asked about again
            self._file.write(b"\n")
        for number, line in enumerate(content.split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = (bool(row["right"]), row["reply_end"])
            except json.JSONDecodeError:
                continue  # such a broken line, ended by a later run
            except (KeyError, TypeError) as error:
                raise ValueError(f"verify.judge.cache: {path}:{number} is no line of a judge's cache") from error

    @staticmethod
    def key(model: str, messages: list[dict[str, str]]) -> str:
        """Of the question as the model is asked it: another wording of the prompt is another question."""
        return hashlib.sha256(json.dumps([model, messages]).encode()).hexdigest()

    def get(self, key: str) -> tuple[bool, str] | None:
        """(right, end of the reply), or None."""
        return self._known.get(key)

    def put(self, key: str, right: bool, reply_end: str) -> None:
        """Keep a verdict; a whole line at once, so that runs may share the file."""
        self._known[key] = (right, reply_end)
        if self._file:
            self._file.write(json.dumps({"key": key, "right": right, "reply_end": reply_end}).encode() + b"\n")

    def close(self) -> None:
        if self._file:
            self._file.close()
