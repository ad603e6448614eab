"""How answers are verified, and who is asked where the rules do not settle it."""

from dataclasses import dataclass, field

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

    urls: list[str] = field(default_factory=list)  # of hosts that serve the same model; the least busy one is asked
    model: str | None = None  # its name there
    key_file: str | None = None  # file that holds the API key
    temperature: float = 0.0
    max_tokens: int = 2048  # of a reply; one that is cut there holds no verdict
    start_timeout_s: float = 60.0  # for a first host to answer when a run begins
    timeout_s: float = 120.0  # for one reply; where every host is left alone for so long, nobody is asked until one is back
    attempts: int = 3  # requests for one answer, whether they failed or brought no clear verdict
    backoff_s: float = 1.0  # before the second attempt; doubled before each further one
    concurrency: int = 64  # requests at one time, to each host
    breaker_failures: int = 5  # in a row, after which a host is left alone
    breaker_s: float = 30.0  # for so long; then one request tries it
    wait_s: float = 600.0  # after the last trajectory has arrived; what has no verdict by then is undecided
    cache: str | None = None  # file that keeps verdicts from run to run

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

    mode: str = "rule"  # rule: the rule check alone | judge: the judge decides all | rule_then_judge: what the rules find right is right
    judge_on: str = "not_right"  # rule_then_judge asks about: not_right (as released) | undecided: only what the rules cannot tell
    undecided: str = "drop"  # drop: neither right nor wrong, left out of everything but its count | wrong
    workers: int = 2
    timeout_s: float = 3.0
    memory_mb: int = 1024
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self):
        for name, allowed in (("mode", MODES), ("judge_on", JUDGE_ON), ("undecided", UNDECIDED)):
            _require(getattr(self, name) in allowed, name, getattr(self, name), " or ".join(allowed))
        _require(self.workers >= 1, "workers", self.workers, "at least 1")
        _require(0 < self.timeout_s <= 600, "timeout_s", self.timeout_s, "above 0 and at most 600 seconds")
        _require(self.memory_mb >= LEAST_MEMORY_MB, "memory_mb", self.memory_mb, f"at least {LEAST_MEMORY_MB}, or no worker starts")
        if self.asks_judge:
            needed = f"given where verify.mode={self.mode} (with verify=rule_then_judge or verify=judge it can be set)"
            _require(bool(self.judge.urls), "judge.urls", self.judge.urls, needed)
            _require(bool(self.judge.model), "judge.model", self.judge.model, needed)
        else:
            _require(not self.judge.urls, "judge.urls", self.judge.urls, "empty where verify.mode=rule: nobody would be asked")

    @property
    def asks_judge(self) -> bool:
        """Whether a judge is asked at all."""
        return self.mode != "rule"
