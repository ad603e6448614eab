"""How answers are verified, and who is asked where the rules do not settle it. Defaults and meanings stand in conf/verify/."""

from dataclasses import dataclass

MODES = ("rule", "judge", "rule_then_judge")
JUDGE_ON = ("undecided", "not_right")
UNDECIDED = ("drop", "wrong")
LEAST_MEMORY_MB = 128


def _require(condition: bool, field_name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"verify.{field_name} is {value!r}, it must be {rule}")


@dataclass(frozen=True)
class JudgeConfig:
    """A language model behind OpenAI-compatible endpoints (/v1/chat/completions)."""

    urls: list[str]
    model: str | None
    key_file: str | None
    temperature: float
    max_tokens: int
    start_timeout_s: float
    timeout_s: float
    attempts: int
    backoff_s: float
    concurrency: int
    breaker_failures: int
    breaker_s: float
    wait_s: float
    cache: str | None

    def __post_init__(self):
        _require(len(set(self.urls)) == len(self.urls), "judge.urls", self.urls, "all different")
        _require(self.temperature >= 0, "judge.temperature", self.temperature, "at least 0")
        for name in ("max_tokens", "attempts", "concurrency", "breaker_failures"):
            _require(getattr(self, name) >= 1, f"judge.{name}", getattr(self, name), "at least 1")
        for name in ("start_timeout_s", "timeout_s", "backoff_s", "breaker_s", "wait_s"):
            _require(getattr(self, name) > 0, f"judge.{name}", getattr(self, name), "above 0")


@dataclass(frozen=True)
class VerifyConfig:
    """Rule check in `workers` processes, each case at most `timeout_s` seconds and `memory_mb` MiB of address space; then the judge."""

    mode: str
    judge_on: str
    undecided: str
    workers: int
    timeout_s: float
    memory_mb: int
    judge: JudgeConfig

    def __post_init__(self):
        for name, allowed in (("mode", MODES), ("judge_on", JUDGE_ON), ("undecided", UNDECIDED)):
            _require(getattr(self, name) in allowed, name, getattr(self, name), " or ".join(allowed))
        _require(self.workers >= 1, "workers", self.workers, "at least 1")
        _require(0 < self.timeout_s <= 600, "timeout_s", self.timeout_s, "above 0 and at most 600 seconds")
        _require(self.memory_mb >= LEAST_MEMORY_MB, "memory_mb", self.memory_mb, f"at least {LEAST_MEMORY_MB}, or no worker starts")
        if self.asks_judge:
            needed = f"given where verify.mode={self.mode}"
            _require(bool(self.judge.urls), "judge.urls", self.judge.urls, needed)
            _require(bool(self.judge.model), "judge.model", self.judge.model, needed)
        else:
            _require(not self.judge.urls, "judge.urls", self.judge.urls, "empty where verify.mode=rule: nobody would be asked")

    @property
    def asks_judge(self) -> bool:
        """Whether a judge is asked at all."""
        return self.mode != "rule"
