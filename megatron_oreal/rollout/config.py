"""How trajectories are sampled and how new weights reach the engine."""

from dataclasses import dataclass, field
from typing import Any

PLACEMENTS = ("colocated", "external")
SYNCS = ("distributed", "disk")


def _require(condition: bool, field_name: str, value: object, rule: str) -> None:
    if not condition:
        raise ValueError(f"rollout.{field_name} is {value!r}, it must be {rule}")


@dataclass(frozen=True)
class RolloutConfig:
    """Sampling (spec, One iteration), the server, and weight sync."""

    samples: int = 16  # K trajectories a question
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 14000
    max_total_tokens: int = 16384  # prompt and response
    stop_word: str = "<|im_end|>"
    deterministic: bool = False  # the same seed and weights sample the same trajectories, whatever runs beside them; slower
    placement: str = "colocated"  # colocated: a server started on rank 0's host | external: a running one
    url: str | None = None  # of the external server
    admin_key_file: str | None = None  # file that holds the external server's admin key
    ready_timeout_s: float = 300.0  # for a started server to answer
    request_timeout_s: float = 1800.0  # for the samples of one question
    concurrency: int = 64  # questions asked at one time
    sync: str = "distributed"  # distributed: broadcast in a group with the engine | disk: through a folder
    sync_bucket_mb: int = 512
    sync_timeout_s: float = 300.0  # for each call and each broadcast
    server_args: dict[str, Any] = field(default_factory=dict)  # further SGLang flags, without the leading dashes

    def __post_init__(self):
        _require(self.samples >= 2, "samples", self.samples, "at least 2: an advantage compares the samples of a question")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0: greedy samples of a question are all the same")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(0 < self.max_new_tokens < self.max_total_tokens, "max_new_tokens", self.max_new_tokens, "below rollout.max_total_tokens")
        _require(bool(self.stop_word), "stop_word", self.stop_word, "one token of the tokenizer")
        _require(self.placement in PLACEMENTS, "placement", self.placement, " or ".join(PLACEMENTS))
        _require((self.url is None) == (self.placement == "colocated"), "url", self.url, "given if and only if placement is external")
        _require(self.sync in SYNCS, "sync", self.sync, " or ".join(SYNCS))
        for name in ("ready_timeout_s", "request_timeout_s", "concurrency", "sync_bucket_mb", "sync_timeout_s"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
