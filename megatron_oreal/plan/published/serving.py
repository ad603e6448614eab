"""Published figures of engines: decode steps, serving at a concurrency, static batches, prefill."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from megatron_oreal.devices import DEVICES
from megatron_oreal.model.shape import Shape, cache_bytes_per_token
from megatron_oreal.plan.memory import whole
from megatron_oreal.plan.operations.prices import NETWORK, Stated
from megatron_oreal.plan.operations.serving import HOSTS, Served
from megatron_oreal.plan.operations.silicon import measured
from megatron_oreal.plan.published.compared import Compared, Left
from megatron_oreal.plan.published.models import Cannot, device_of, model_of

NUMBERS = {None: "bfloat16", "bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block"}
LIKE = {"sglang": "sglang", "vllm": "vllm", "tensorrt": "trtllm", "trtllm": "trtllm", "trt-llm": "trtllm", "lmdeploy": "trtllm"}
"""Engine -> whose tables and host; of lmdeploy, also without Python between its steps, there are none. Else vLLM."""
ASYNC = 14
"""vLLM 0.14 and later schedule a step while the one before is computed."""
FILLED = 0.9
"""Of a GPU's memory: what engines fill with weights and cache."""
FIRST_S = 7e-3
"""Of a request beside its prefill, until its first token is there: server and tokenizer. Fitted to Qwen3-1.7B on an A100."""
MOST = 1024
"""Sequences that an engine runs at one time where nothing limits them: vLLM's own limit offline."""


def engine_of(hf: Shape, device: str, name: str, tp: int, weights: str = "bfloat16", cache: str = "bfloat16") -> Served:
    """An engine by its published name; "eager" in it: without CUDA graphs."""
    backend = next((like for word, like in LIKE.items() if word in name.lower()), "vllm")
    prices = measured(device, backend) or Stated.of(device, NETWORK)
    return Served(hf, prices, tp, HOSTS[_host_of(backend, name.lower())], weights, cache, 0 if "eager" in name else None)


def _host_of(backend: str, name: str) -> str:
    """One of HOSTS."""
    if "splitwise" in name:
        return "2023"
    if "vllm offline" in name:
        return "vllm offline"
    version = re.search(r"0\.(\d+)", name)
    ahead = int(version[1]) >= ASYNC if version else "main" in name or "fa3" in name
    return "vllm async" if backend == "vllm" and ahead else backend


def room_of(served: Served, device: str) -> int:
    """Tokens of its cache."""
    number = {"bfloat16": 2}
    weights = whole(served.hf) * number.get(served.weights, 1) / served.tp
    left = FILLED * DEVICES[device].memory - weights
    return int(left / cache_bytes_per_token(served.hf, served.tp, number.get(served.cache, 1)))


@dataclass(frozen=True)
class Row:
    """Of published_decode.jsonl."""

    fields: dict

    def compared(self) -> Iterator[Compared | Left]:
        """Every figure that can be, and why others cannot.

        Raises:
            Cannot: none can.
        """
        figures = self.fields["figures"]
        for key, (part, scale) in MILLISECONDS.items():
            if figures.get(key):
                predicted = self.step_s(alone=key != "tpot_ms" and key != "itl_ms") if part == "decode" else self.prompt_s
                yield Compared(self.id, part, 1e3 / scale * predicted, figures[key])
        if "itl_ms_intercept" in figures:
            context = 16000
            published = figures["itl_ms_intercept"] + context * figures["itl_ms_per_context_token"]
            yield Compared(self.id, "decode", 1e3 * self.served.decode_s(1, context), published)
        yield from self._throughput(figures)
        if figures.get("ttft_ms") and self.fields.get("batch_or_concurrency") == 1 and self.tokens:
            yield Compared(self.id, "prefill", 1e3 * (self.prompt_s + FIRST_S), figures["ttft_ms"])
        elif figures.get("ttft_ms"):
            yield Left(f"{self.id}, ttft_ms", "holds the time that a request waits for others, which depends on when it comes")

    def _throughput(self, figures: dict) -> Iterator[Compared]:
        if not figures.keys() & RATES:
            return
        batch = self.held if self.fields["kind"] == "offline_throughput" else self.batch
        seconds = self.output * self.served.decode_s(batch, self.input + self.output / 2) + batch * self.served.prefill_s(self.input)
        made = batch * self.output / seconds
        rates = dict(zip(RATES, (made, made * (self.input + self.output) / self.output, made / self.tp), strict=True))
        yield from (Compared(self.id, "throughput", rate, figures[key]) for key, rate in rates.items() if figures.get(key))

    @property
    def id(self) -> str:
        return self.fields["id"]

    @property
    def tokens(self) -> bool:
        """Whether both lengths are numbers."""
        return all(isinstance(self.fields.get(key), int | float) for key in ("input_tokens", "output_tokens"))

    @property
    def input(self) -> int:
        return round(self._number("input_tokens"))

    @property
    def output(self) -> float:
        return self._number("output_tokens")

    @property
    def batch(self) -> int:
        return round(self._number("batch_or_concurrency"))

    @property
    def held(self) -> int:
        """Sequences that the cache has room for."""
        room = room_of(self.served, self.device)
        return max(1, min(MOST, int(room / (self.input + self.output / 2))))

    @property
    def tp(self) -> int:
        notes = self.fields.get("notes") or ""
        said = next((n for n in (8, 4, 2) if f"{n}xH100" in notes or f"{n}xA100" in notes), 1)
        return self.fields.get("tp") or said

    @cached_property
    def device(self) -> str:
        return device_of(self.fields.get("gpu"), "")

    @cached_property
    def served(self) -> Served:
        precision, fields = self.fields.get("precision") or {}, self.fields
        if precision.get("weights") not in NUMBERS:
            raise Cannot(f"weights in {precision['weights']} are not priced")
        weights, engine = NUMBERS[precision.get("weights")], (fields.get("engine") or "").lower()
        if "splitwise" in self.id:
            engine = "splitwise, eager"
        # NVIDIA's fp8 checkpoints, which TensorRT-LLM is published with, say fp8 for the cache as well.
        nvidia = weights == "fp8" and ("tensorrt" in engine or "trtllm" in engine)
        cache = "fp8" if precision.get("kv") == "fp8" or nvidia else "bfloat16"
        return engine_of(model_of(fields["model"], fields.get("params_b")), self.device, engine, self.tp, weights, cache)

    def step_s(self, alone: bool) -> float:
        """Of a decode step; not `alone`: with its share of the prefills of other requests, which come as often as requests end."""
        step = self.served.decode_s(self.batch, self.input + self.output / 2)
        others = 0 if alone or self.fields["kind"] != "serving" else self.batch - 1
        return step + self.served.host.interrupted * others * self.served.prefill_s(self.input) / self.output

    @property
    def prompt_s(self) -> float:
        """Of all prompts of a batch at one time."""
        return self.served.prefill_s(self.input, self.batch)

    def _number(self, key: str) -> float:
        value = self.fields.get(key)
        if not isinstance(value, int | float):
            raise Cannot(f"{key} is {'not given' if value is None else repr(value)}, no number")
        return value


RATES = ("output_tokens_per_s", "prompt_plus_output_tokens_per_s", "tokens_per_s_per_gpu")
MILLISECONDS = {
    "tpot_ms": ("decode", 1),
    "itl_ms": ("decode", 1),
    "itl_ms_median": ("decode", 1),
    "decode_step_ms": ("decode", 1),
    "token_latency_p50_s": ("decode", 1e3),
    "prompt_time_ms": ("prefill", 1),
}
"""Figure -> (part, its unit in milliseconds)."""
