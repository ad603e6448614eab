"""How trajectories are sampled and how new weights reach the engine. Defaults and meanings stand in conf/rollout/."""

from dataclasses import dataclass
from typing import Any

PLACEMENTS = ("colocated", "disaggregated", "external")
SYNCS = ("distributed", "tensor", "disk")
LOCALHOST = "127.0.0.1"


def _require(condition: bool, field_name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"rollout.{field_name} is {value!r}, it must be {rule}")


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling (spec, One iteration), the server, and weight sync."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_total_tokens: int
    stop_word: str
    oversample: float
    tail: float
    deterministic: bool
    placement: str
    engines: int
    tp: int
    bind: str
    release_memory: bool
    urls: list[str]
    router: str | None
    admin_key_file: str | None
    ready_timeout_s: float
    request_timeout_s: float
    concurrency: int
    health_interval_s: float
    lost_after_s: float
    sync: str
    sync_bucket_mb: int
    sync_timeout_s: float
    server_args: dict[str, Any]

    def __post_init__(self):
        _require(self.samples >= 2, "samples", self.samples, "at least 2: an advantage compares the samples of a question")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0: greedy samples of a question are all the same")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.max_new_tokens > 0, "max_new_tokens", self.max_new_tokens, "above 0")
        _require(bool(self.stop_word), "stop_word", self.stop_word, "one token of the tokenizer")
        _require(self.placement in PLACEMENTS, "placement", self.placement, " or ".join(PLACEMENTS))
        _require(bool(self.urls) == (self.placement == "external"), "urls", self.urls, "given if and only if placement is external")
        _require(len(set(self.urls)) == len(self.urls), "urls", self.urls, "all different")
        _require(self.router is None or bool(self.urls), "router", self.router, "null where placement is not external")
        _require(self.oversample >= 1, "oversample", self.oversample, "at least 1")
        _require(0 <= self.tail < 1, "tail", self.tail, "at least 0 and below 1")
        for name in ("engines", "tp"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.sync in SYNCS, "sync", self.sync, " or ".join(SYNCS))
        positive = ("ready_timeout_s", "request_timeout_s", "concurrency", "health_interval_s", "lost_after_s", "sync_bucket_mb")
        for name in (*positive, "sync_timeout_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")

    def check_lengths(self) -> None:
        """For whoever samples answers of max_new_tokens; an evaluation has a length of its own. Raises ValueError."""
        _require(self.max_new_tokens < self.max_total_tokens, "max_new_tokens", self.max_new_tokens, "below rollout.max_total_tokens")

    @property
    def releases_memory(self) -> bool:
        """Whether engines and training take turns in the GPU's memory."""
        return self.placement == "colocated" and self.release_memory

    def engines_of(self, host: int, hosts: int) -> range:
        """The numbers of one host's engines, where that many hosts share them.

        Raises:
            ValueError: they would listen where rank 0 does not find them, or cannot be shared out.
        """
        if hosts > 1 and self.bind == LOCALHOST:
            raise ValueError(f"rollout.bind={LOCALHOST} hides the engines of {hosts} hosts from rank 0; set rollout.bind=0.0.0.0")
        if self.engines % hosts:
            raise ValueError(f"rollout.engines={self.engines} cannot be shared out evenly among {hosts} hosts")
        each = self.engines // hosts
        return range(host * each, (host + 1) * each)
