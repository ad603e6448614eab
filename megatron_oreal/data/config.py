"""What is trained on. Defaults and meanings stand in conf/."""

from dataclasses import dataclass

from megatron_oreal.checked import Checked, FilePath, Require


@dataclass(frozen=True)
class DataConfig(Checked):
    """Training questions: conf/data/."""

    train: FilePath
    questions_per_step: int
    system_prompt: str
    balance: list[tuple[float, int]]  # (upper end of the pass-rate band, repeats)

    def check(self, require: Require) -> None:
        require(self.questions_per_step >= 1, f"questions_per_step={self.questions_per_step} must be at least 1")
        ends = [band[0] for band in self.balance]
        require(ends == sorted(ends), f"balance: band ends {ends} must rise")


@dataclass(frozen=True)
class SftData:
    """Supervised examples: conf/sft.yaml."""

    train: FilePath
    system_prompt: str
