"""Sampling: prompts in, trajectories out as they finish, so that what comes next overlaps with generation."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_oreal.engines.endpoint import Endpoint
from megatron_oreal.engines.engines import Engines
from megatron_oreal.rollout.answers import Answer
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.dispatch import Request, RetryCounts
from megatron_oreal.rollout.in_flight import InFlight, More
from megatron_oreal.trajectory import Prompt, Span, Trajectory, Unfinished

NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "min_new_tokens": 0}
"""What answers are not sampled by, whatever a server (its preferred-sampling-params) or a model's generation_config.json recommends."""


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled; temperature 0 is greedy."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int


class Rollout:
    """Asks the engines in service, each question on the one with the least to do."""

    def __init__(self, config: RolloutConfig, engines: Engines, tokenizer, seed: int = 0):
        """`seed` matters where rollout.deterministic is set."""
        self.config, self.engines, self._tokenizer, self._seed = config, engines, tokenizer, seed
        self._stop = tokenizer.encode(config.stop_word, add_special_tokens=False)[0]
        # An engine without a tokenizer (see Server) knows only those end tokens that the model's configuration names.
        self._ends = sorted({self._stop, tokenizer.eos_token_id} - {None})
        self._sampling = Sampling(config.samples, config.temperature, config.top_p, config.max_new_tokens)
        self.retry_counts = RetryCounts()
        self.homes: dict[str, Endpoint] = {}  # prompt id -> the engine that has cached what there is of it; with rollout.keep_cache
        self._run = secrets.token_hex(4)  # an external engine may have cached what another run asked

    def generate(
        self,
        prompts: Sequence[Prompt],
        version: int,
        sampling: Sampling | None = None,
        unfinished: Sequence[Unfinished] = (),
        more: More | None = None,
    ) -> InFlight:
        """Trajectories in the order in which they finish, each exactly once.

        One request a question with n samples: the server computes the prompt once, and for a tiny model on CPU the cost of a
        request is that of hundreds of tokens. Where sampling is to be deterministic, one request a sample, each with its own seed.
        Either way a sample's answer comes when that sample ends, not with the question's last one.
        An engine that ends, hangs or answers nonsense is given up (see Engines); its unfinished questions go to others.
        `unfinished` questions of an earlier step are resumed before the prompts are asked. `more`: called, in another thread, for one
        more question whenever a sample has ended, so that engines stay full; None: no more are asked.

        Raises:
            ValueError: a prompt that leaves no room for an answer.
            ServerError (from the iteration): a request was refused, a question failed on ATTEMPTS engines, or no engine is left.
        """
        for prompt in prompts:
            if len(prompt.token_ids) >= self.config.max_total_tokens:
                raise ValueError(f"prompt {prompt.id}: {len(prompt.token_ids)} tokens leave no room for an answer")
        return InFlight(self, [*unfinished, *(Unfinished(p, []) for p in prompts)], version, sampling or self._sampling, more)

    def take_those_that_are_back(self) -> None:
        """Where no policy is trained the weights of the model folder, with which an engine starts, are the right ones.

        Raises:
            EnginesGone: none comes back.
        """
        self.engines.put_in_service(self.engines.for_sync())

    def requests(self, asked: Unfinished, sampling: Sampling, version: int) -> list[Request]:
        """For a question's samples; of a resumed question for those that were cut, and those that never came."""
        shared = self._shared(asked, version)
        prompt, there = asked.prompt, {t.index for t in asked.trajectories}
        cut = [t for t in asked.trajectories if t.finish == "cut"]
        new = [index for index in range(sampling.samples) if index not in there]
        alone = [[index] for index in new] if self.config.deterministic else [new] * bool(new)
        return [
            *self._going_on(prompt, cut, sampling, shared),
            *(Request(self._body(prompt, indices[0], sampling) | shared, indices) for indices in alone),
        ]

    def _going_on(self, prompt: Prompt, cut: Sequence[Trajectory], sampling: Sampling, shared: dict) -> list[Request]:
        """All of a question's in one request: a connection for each costs rank 0 more than tokens do. SGLang's router takes no lists."""
        bodies = [self._body(prompt, t.index, sampling, t.token_ids) | shared for t in cut]
        if self.config.router or not bodies:
            return [Request(body, [t.index]) for body, t in zip(bodies, cut, strict=True)]
        each = {name: [body[name] for body in bodies] for name in ("input_ids", "sampling_params")}
        return [Request(bodies[0] | each, [t.index for t in cut])]

    def _shared(self, asked: Unfinished, version: int) -> dict:
        """Where caches outlive the weights that made them: a question shares what is cached with itself alone, as it was first asked."""
        if not self.config.keep_cache:
            return {}
        first = asked.first_version
        return {"extra_key": f"{self._run}/{version if first is None else first}/{asked.prompt.id}"}

    def _body(self, prompt: Prompt, index: int, sampling: Sampling, begun: Sequence[int] = ()) -> dict:
        room = self._room(prompt, sampling) - len(begun)
        parameters = NEUTRAL | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": room,
            "stop_token_ids": self._ends,
        }
        if self.config.deterministic:
            name = hashlib.sha256(f"{self._seed}/{prompt.id}/{index}".encode())  # a prompt's id is that of its draw
            parameters["sampling_seed"] = int.from_bytes(name.digest()[:4], "big")
        return {"input_ids": [*prompt.token_ids, *begun], "return_logprob": True, "sampling_params": parameters}

    def _room(self, prompt: Prompt, sampling: Sampling) -> int:
        """Tokens that an answer may have."""
        return min(sampling.max_new_tokens, self.config.max_total_tokens - len(prompt.token_ids))

    def trajectory(self, asked: Unfinished, index: int, version: int, answer: Answer, sampling: Sampling) -> Trajectory:
        """What an answer makes of sample `index`: a new trajectory, or one that was cut with what was sampled since."""
        new = self._trajectory(asked.prompt, index, version, answer)
        begun = [t for t in asked.trajectories if t.index == index]
        if begun:
            self.retry_counts.resumed += len(asked.prompt.token_ids) + len(begun[0].token_ids)
            self.retry_counts.resumed_cached += answer["meta_info"].get("cached_tokens", 0)
        whole = self._joined(begun[0], new) if begun else new
        if whole.finish == "cut" and len(whole.token_ids) >= self._room(asked.prompt, sampling):  # with its last token, and none is left
            whole = replace(whole, finish="length")
        return whole if whole.finish == "cut" else replace(whole, text=self._text(whole.token_ids, whole.finish))

    def _trajectory(self, prompt: Prompt, index: int, version: int, answer: Answer) -> Trajectory:
        token_ids, finish = answer["output_ids"], self._finish(answer["meta_info"]["finish_reason"])
        return Trajectory(
            prompt=prompt,
            index=index,
            token_ids=token_ids,
            logprobs=[entry.logprob for entry in answer["meta_info"]["output_token_logprobs"]],
            text="",
            finish=finish,
            version=version,
        )

    def _text(self, token_ids: Sequence[int], finish: str) -> str:
        """Decoded here, not by the engine: it would load a tokenizer by itself. Without the end token, special or not."""
        ended = finish in ("stop", "abort")
        return self._tokenizer.decode(token_ids[:-1] if ended else token_ids, skip_special_tokens=True)

    def _joined(self, begun: Trajectory, new: Trajectory) -> Trajectory:
        before = Span(begun.version, len(begun.token_ids) - sum(span.tokens for span in begun.earlier))
        token_ids = begun.token_ids + new.token_ids
        return replace(
            new,
            token_ids=token_ids,
            logprobs=begun.logprobs + new.logprobs,
            earlier=[*begun.earlier, before] if before.tokens else begun.earlier,
        )

    def _finish(self, reason: dict) -> str:
        """The model's other end tokens stop the server too; only the stop word's makes an answer complete (spec, step 1)."""
        if reason["type"] == "abort":
            return "cut"  # by us: nobody else has this engine's key
        return "abort" if reason["type"] == "stop" and reason["matched"] != self._stop else reason["type"]
