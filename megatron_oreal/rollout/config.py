"""How trajectories are sampled and how new weights reach the engine. Defaults and meanings stand in conf/rollout/."""

from dataclasses import dataclass
from typing import Any

from megatron_oreal.checked import Checked, FilePath, Require, is_http

PLACEMENTS = ("colocated", "disaggregated", "external")
SYNCS = ("distributed", "tensor", "disk")
SPECULATIVES = ("none", "ngram")
KV_CACHES = ("auto", "fp8_e4m3", "fp8_e5m2")
NAMED = {"kv-cache-dtype": "kv_cache_dtype", "speculative-algorithm": "speculative"}
"""Flags of SGLang that have a key of ours, which planner and doctor read: each is said in one place."""
LOCAL = ("127.0.0.1", "::1", "localhost")
EVERY_ADDRESS = ("0.0.0.0", "::")


@dataclass(frozen=True)
class RolloutConfig(Checked):
    """Sampling (spec, One iteration), the server, and weight sync."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int
    max_total_tokens: int
    stop_word: str
    in_flight: float
    max_age: int
    keep_cache: bool
    deterministic: bool
    speculative: str
    kv_cache_dtype: str
    placement: str
    engines: int
    tp: int
    bind: str
    release_memory: bool | None
    urls: list[str]
    router: str | None
    admin_key_file: FilePath | None
    ready_timeout_s: float
    request_timeout_s: float
    concurrency: int
    health_interval_s: float
    lost_after_s: float
    sync: str
    sync_copy: FilePath | None
    sync_bucket_mb: int
    sync_timeout_s: float
    server_args: dict[str, Any]

    def check(self, require: Require) -> None:
        require(self.samples >= 2, f"samples={self.samples} must be at least 2: an advantage compares the samples of a question")
        require(self.temperature > 0, f"temperature={self.temperature} must be above 0: greedy samples of a question are all the same")
        require(0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1")
        require(self.max_new_tokens > 0, f"max_new_tokens={self.max_new_tokens} must be above 0")
        require(self.max_total_tokens > 1, f"max_total_tokens={self.max_total_tokens} must be at least 2: a prompt and its response")
        require(bool(self.stop_word), f"stop_word={self.stop_word!r} must be one token of the tokenizer")
        require(self.placement in PLACEMENTS, f"placement={self.placement!r} must be {' or '.join(PLACEMENTS)}")
        require(bool(self.bind), f"bind={self.bind!r} must be an address of this machine")
        require(bool(self.urls) == (self.placement == "external"), f"urls={self.urls} must be given if and only if placement is external")
        for name, urls in (("urls", self.urls), ("router", [self.router] if self.router else [])):
            for url in urls:
                require(is_http(url), f"{name}: {url} is no URL; http://HOST:PORT is")
        require(len(set(self.urls)) == len(self.urls), f"urls={self.urls} must be all different")
        require(self.router is None or bool(self.urls), f"router={self.router!r} must be null where placement is not external")
        why = "a synchronous step's answers are done when new weights come, and nothing of them goes on"
        require(self.in_flight > 1 or not self.keep_cache, f"keep_cache=true needs in_flight above 1: {why}")
        self._check_faster_sampling(require)
        for name in ("in_flight", "max_age", "engines", "tp"):
            require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} must be at least 1")
        require(self.sync in SYNCS, f"sync={self.sync!r} must be {' or '.join(SYNCS)}")
        positive = ("ready_timeout_s", "request_timeout_s", "concurrency", "health_interval_s", "lost_after_s", "sync_bucket_mb")
        for name in (*positive, "sync_timeout_s"):
            require(getattr(self, name) > 0, f"{name}={getattr(self, name)} must be above 0")

    def _check_faster_sampling(self, require: Require) -> None:
        """What engines sample faster by."""
        for name, values, alone in (("speculative", SPECULATIVES, "none"), ("kv_cache_dtype", KV_CACHES, "auto")):
            value = getattr(self, name)
            require(value in values, f"{name}={value!r} must be {' or '.join(values)}")
            ours = value == alone or self.placement != "external"
            require(ours, f"{name}={value} is for engines that are started here; those at urls have the flags that they were given")
        predictable = not (self.deterministic and self.speculative != "none")
        require(predictable, f"speculative={self.speculative} drafts from all that an engine samples: deterministic=true needs none")
        for flag, key in NAMED.items():
            require(flag not in self.server_args, f"server_args.{flag} is said by rollout.{key}={getattr(self, key)}; leave it out")

    @property
    def engine_flags(self) -> dict[str, str]:
        """SGLang's flags, without dashes, for what engines sample faster by."""
        speculation = {"speculative-algorithm": self.speculative.upper()} if self.speculative != "none" else {}
        return speculation | ({"kv-cache-dtype": self.kv_cache_dtype} if self.kv_cache_dtype != "auto" else {})

    def releases_memory(self, on_cpu: bool = False) -> bool:
        """Whether engines and training take turns in memory. On a CPU, where nothing is gained, only if that is asked for."""
        wanted = not on_cpu if self.release_memory is None else self.release_memory
        return self.placement == "colocated" and wanted

    @property
    def cache_stays(self) -> bool:
        """Whether an engine's cache of keys and values is on its GPU while the models train."""
        return self.keep_cache or not self.releases_memory()

    def engines_of(self, host: int, hosts: int) -> range:
        """The numbers of one host's engines, where that many hosts share them.

        Raises:
            ValueError: they would listen where rank 0 does not find them, or cannot be shared out.
        """
        if hosts > 1 and self.bind in LOCAL:
            raise ValueError(f"rollout.bind={self.bind} hides the engines of {hosts} hosts from rank 0; set rollout.bind=0.0.0.0")
        if self.engines % hosts:
            raise ValueError(f"rollout.engines={self.engines} cannot be shared out evenly among {hosts} hosts")
        each = self.engines // hosts
        return range(host * each, (host + 1) * each)
