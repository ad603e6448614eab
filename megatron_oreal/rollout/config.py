"""How trajectories are sampled and how new weights reach the engine."""

from dataclasses import dataclass, field
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

    samples: int = 16  # K trajectories a question
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 14000
    max_total_tokens: int = 16384  # prompt and response
    stop_word: str = "<|im_end|>"
    oversample: float = 1.0  # questions begun for each one needed; the rest is given up once enough have a right and a wrong answer
    tail: float = 0.0  # share of a step's questions, the slowest, that is cut and resumed in the next step under its weights
    deterministic: bool = False  # the same seed and weights sample the same trajectories, whatever runs beside them; slower
    placement: str = "colocated"  # colocated: engines on the ranks' hosts | disaggregated: see serve.py | external: running ones
    engines: int = 1  # SGLang servers to start, over all hosts
    tp: int = 1  # tensor parallel size of each of them
    bind: str = LOCALHOST  # address at which they listen; 0.0.0.0 where engines and rank 0 are on several hosts
    release_memory: bool = True  # colocated engines give up the GPU's memory while the models train
    urls: list[str] = field(default_factory=list)  # of the external engines
    router: str | None = None  # URL of SGLang's router before the external engines, for generation: it watches them, control calls pass it
    admin_key_file: str | None = None  # file that holds the external engines' admin key
    ready_timeout_s: float = 300.0  # for a started engine to answer
    request_timeout_s: float = 1800.0  # for the samples of one question
    concurrency: int = 64  # questions asked at one time, of each engine
    health_interval_s: float = 5.0  # between two looks at an engine that samples
    lost_after_s: float = 60.0  # without a sign of health an engine is given up
    sync: str = "distributed"  # broadcast in a group with the engines | tensor: handed over on one host (CUDA IPC) | disk: a folder
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
