"""How a plan's figures are written."""

from collections.abc import Sequence

from megatron_oreal.devices import GIB

NAMES = {"policy": "policy", "token_rm": "token RM", "reference": "reference"}


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"{name:<18}" + "".join(f"{cell:>14}" for cell in cells)


def gib(nbytes: float) -> str:
    """Without the unit."""
    return f"{nbytes / GIB:.2f}"
