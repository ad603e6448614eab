"""The TRL side of bench_real.py, in a process of its own: GRPOTrainer on the same questions, a line of JSON a step.

Not called by hand: bench_real.py writes SPEC and calls `real_trl.py SPEC ROWS`, perhaps with the Python of another environment, and so this
file needs TRL (1.16) and nothing of this project. Seconds are those of TRL's own profiling, which it otherwise gives to W&B and the like
alone, of its `step_time`, and of its callbacks. Rewards compare the last boxed answer with the gold answer as text: less work than ours.
"""

import json
import sys
import time
from pathlib import Path

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import ProfilingContext


class Clocks:
    """Seconds by name since the last `restart`: generate, prepare (generation, rewards, reference, advantages), reference."""

    def __init__(self):
        self.restart()

    def restart(self) -> None:
        self.generate = self.prepare = self.reference = 0.0
        self._logprobs = 0.0  # of passes whose caller has not ended yet: the same function serves reference and loss

    def note(self, context: ProfilingContext, seconds: float) -> None:
        """In place of ProfilingContext._log_metrics, called as each of TRL's profiled functions ends."""
        function = context.name.rpartition(".")[2]
        if function == "generate":
            self.generate += seconds
        elif function == "_get_per_token_logps_and_entropies":
            self._logprobs += seconds
        elif function == "_prepare_inputs":
            self.prepare += seconds
            self.reference += self._logprobs
            self._logprobs = 0.0
        elif function == "compute_loss":
            self._logprobs = 0.0


class Trainer(GRPOTrainer):
    """Says when forward and backward passes have ended: what follows is clipping and the optimizer."""

    passes_ended = 0.0

    def training_step(self, *arguments):
        loss = super().training_step(*arguments)
        self.passes_ended = time.perf_counter()
        return loss


class Rows(TrainerCallback):
    """A line a step."""

    def __init__(self, path: Path, clocks: Clocks, trajectories: int):
        self._file, self._clocks, self._trajectories = open(path, "w", encoding="utf-8"), clocks, trajectories  # noqa: SIM115
        self.trainer: Trainer | None = None
        self._tokens = self._optimizer = 0.0

    def on_train_begin(self, *_, **__) -> None:
        self._since = time.perf_counter()
        self._clocks.restart()

    def on_optimizer_step(self, *_, **__) -> None:
        self._optimizer = time.perf_counter() - self.trainer.passes_ended

    def on_log(self, arguments, state, control, logs, **_) -> None:
        """TRL's figures of a step are there; from the one before to here is the step."""
        if "step_time" not in logs:  # those of the whole run
            return
        now, clocks, tokens = time.perf_counter(), self._clocks, logs["num_tokens"]
        row = {
            "step": now - self._since,
            "sampling": clocks.generate,
            "rollout": clocks.prepare - clocks.reference,
            "reference": clocks.reference,
            "policy": logs["step_time"] - clocks.prepare,
            "optimizer": self._optimizer,
            "trained_tokens": tokens - self._tokens,
            "response_tokens": logs["completions/mean_length"] * self._trajectories,
            "reward": logs["reward"],
        }
        print(json.dumps(row), file=self._file, flush=True)
        self._since, self._tokens = now, tokens
        clocks.restart()


def boxed_answer(completions: list, gold_answer: list[str], **_) -> list[float]:
    """1 where the last boxed answer is the gold answer, else 0."""
    texts = [messages[-1]["content"].rpartition("\\boxed{")[2].partition("}")[0] for messages in completions]
    return [float(text.strip() == gold.strip()) for text, gold in zip(texts, gold_answer, strict=True)]


def dataset(spec: dict) -> Dataset:
    """The chats that the policy goes on from."""
    system = [{"role": "system", "content": spec["system_prompt"]}] if spec["system_prompt"] else []
    lines = Path(spec["questions"]).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    chats = [system + [{"role": "user", "content": row["question"]}] for row in rows]
    return Dataset.from_list([{"prompt": chat, "gold_answer": row["gold_answer"]} for chat, row in zip(chats, rows, strict=True)])


def main() -> None:
    spec, clocks = json.loads(Path(sys.argv[1]).read_text()), Clocks()
    ProfilingContext._log_metrics = lambda context, seconds: clocks.note(context, seconds)
    config = GRPOConfig(**spec["config"])
    rows = Rows(Path(sys.argv[2]), clocks, config.generation_batch_size)
    rows.trainer = Trainer(spec["model"], boxed_answer, config, dataset(spec), callbacks=[rows])
    rows.trainer.train()


if __name__ == "__main__":
    main()
