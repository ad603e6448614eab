"""What is trained on. Defaults and meanings stand in conf/."""

from dataclasses import dataclass


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class DataConfig:
    """Training questions: conf/data/."""

    train: str
    questions_per_step: int
    system_prompt: str
    balance: list[tuple[float, int]]  # (upper end of the pass-rate band, repeats)

    def __post_init__(self):
        _require(self.questions_per_step >= 1, f"data.questions_per_step={self.questions_per_step} must be at least 1")
        ends = [band[0] for band in self.balance]
        _require(ends == sorted(ends), f"data.balance: band ends {ends} must rise")


@dataclass(frozen=True)
class SftData:
    """Supervised examples: conf/sft.yaml."""

    train: str
    system_prompt: str
