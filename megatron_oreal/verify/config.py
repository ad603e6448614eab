"""How answers are verified, and who is asked where the rules do not settle it. Defaults and meanings stand in conf/verify/."""

from dataclasses import dataclass

from megatron_oreal.checked import Checked, FilePath, Require, is_http

MODES = ("rule", "judge", "rule_then_judge")
EXTRACT = ("boxed", "any")
JUDGE_ON = ("undecided", "not_right")
UNDECIDED = ("drop", "wrong")
LEAST_MEMORY_MB = 128


@dataclass(frozen=True)
class JudgeConfig(Checked):
    """A language model behind OpenAI-compatible endpoints (/v1/chat/completions)."""

    urls: list[str]
    model: str | None
    key_file: FilePath | None
    use_proxy: bool
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
    cache: FilePath | None

    def check(self, require: Require) -> None:
        require(len(set(self.urls)) == len(self.urls), f"urls={self.urls} must be all different")
        for url in self.urls:
            require(is_http(url), f"urls: {url} is no URL; http://HOST:PORT or https://HOST is")
        require(self.temperature >= 0, f"temperature={self.temperature} must be at least 0")
        for name in ("max_tokens", "attempts", "concurrency", "breaker_failures"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        for name in ("start_timeout_s", "timeout_s", "backoff_s", "breaker_s", "wait_s"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class VerifyConfig(Checked):
    """Rule check in `workers` processes, each case at most `timeout_s` seconds and `memory_mb` MiB of address space; then the judge."""

    mode: str
    extract: str
    judge_on: str
    undecided: str
    workers: int
    timeout_s: float
    memory_mb: int
    judge: JudgeConfig

    def check(self, require: Require) -> None:
        for name, allowed in (("mode", MODES), ("extract", EXTRACT), ("judge_on", JUDGE_ON), ("undecided", UNDECIDED)):
            require(getattr(self, name) in allowed, f"{name}={getattr(self, name)!r} must be {' or '.join(allowed)}")
        require(self.workers >= 1, f"workers={self.workers} must be at least 1")
        require(0 < self.timeout_s <= 600, f"timeout_s={self.timeout_s} must be above 0 and at most 600 seconds")
        require(self.memory_mb >= LEAST_MEMORY_MB, f"memory_mb={self.memory_mb} must be at least {LEAST_MEMORY_MB}, or no worker starts")
        if self.mode == "rule":
            require(not self.judge.urls, f"judge.urls={self.judge.urls} must be empty where verify.mode=rule: nobody would be asked")
        elif self.mode in MODES:
            for name in ("urls", "model"):
                value = getattr(self.judge, name)
                require(bool(value), f"judge.{name}={value} must be given where verify.mode={self.mode}")

    @property
    def asks_judge(self) -> bool:
        """Whether a judge is asked at all."""
        return self.mode != "rule"
