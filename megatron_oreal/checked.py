"""What is wrong with a section of the configuration is said all at once, and by one rule for all sections."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

Require = Callable[[bool, str], None]
"""What has to hold, and the line that says so where it does not."""

FilePath = Annotated[str, "path"]
"""Type of a field that names a file or a folder of this machine: where it is read (keys.typed), ~ at its beginning becomes the home."""


def is_http(url: str) -> bool:
    """Whether it is the URL of an HTTP server: with its scheme, and a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not close
        return False


class Checked:
    """Base of a dataclass that can only be made if everything holds that its `check` requires.

    Raises:
        ValueError: a line for each requirement that does not hold, beginning with the field: a section's path can be put before it.
    """

    def __post_init__(self) -> None:
        wrong: list[str] = []

        def require(holds: bool, line: str) -> None:
            if not holds and line not in wrong:
                wrong.append(line)

        self.check(require)
        if wrong:
            raise ValueError("\n".join(wrong))

    def check(self, require: Require) -> None:
        """Say what has to hold; types are right already."""
        raise NotImplementedError
