"""Greedy pass@1 on held-out questions, during training and by itself:

`python -m megatron_oreal.evaluate model.path=DIR eval.data=FILE.jsonl key=value ...`
"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_oreal.command import run_command
from megatron_oreal.config import EvaluateConfig, load
from megatron_oreal.prompts import Template, fitting, load_tokenizer, read_questions, stop_token
from megatron_oreal.rollout.engines import open_engines
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.trajectory import Prompt
from megatron_oreal.verify import Verifier
from megatron_oreal.verify.audit import FILE as DISAGREEMENTS


@dataclass(frozen=True)
class Evaluation:
    """What one pass over the held-out questions gave."""

    pass_at_1: float  # share of questions whose greedy answer is right; a question too long to ask counts as wrong
    problems: int  # questions in the file
    not_asked: int  # questions too long for the context
    incomplete: float  # share of answers cut at the length limit
    undecided: int  # answers that the verifier could not judge (counted as not right, whatever verify.undecided says)
    length_mean: float  # response tokens
    seconds: float


class Evaluator:
    """Asks every held-out question once, greedily."""

    def __init__(self, prompts: Sequence[Prompt], rollout: Rollout, verifier: Verifier, max_new_tokens: int, longest: int):
        self._prompts = fitting(prompts, longest)
        self._problems = len(prompts)
        self._rollout, self._verifier = rollout, verifier
        self._greedy = Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)

    def evaluate(self, version: int) -> Evaluation:
        """pass@1 of whatever weights the engine holds now."""
        started = time.perf_counter()
        groups = self._verifier.verify(self._rollout.generate(self._prompts, version, self._greedy), samples=1)
        answers = [(g.trajectories[0], g.verdicts[0]) for g in groups]
        return Evaluation(
            pass_at_1=sum(v.right for _, v in answers) / self._problems,
            problems=self._problems,
            not_asked=self._problems - len(answers),
            incomplete=sum(not t.complete for t, _ in answers) / len(answers),
            undecided=sum(not v.decided for _, v in answers),
            length_mean=sum(len(t.token_ids) for t, _ in answers) / len(answers),
            seconds=time.perf_counter() - started,
        )


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Under the names of metrics.jsonl."""
    return {f"eval/{name}": value for name, value in asdict(evaluation).items()}


def run(config: EvaluateConfig) -> None:
    """Serve the checkpoint (or ask the servers given), evaluate, write <run_dir>/evaluation.json."""
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template = Template(tokenizer, config.system_prompt)
    prompts = [template.prompt(q) for q in read_questions(config.eval.data)]
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        engines = stack.enter_context(open_engines(config.rollout, config.model.path, config.model.dtype, run_dir))
        verifier = stack.enter_context(Verifier(config.verify, run_dir / DISAGREEMENTS))
        engines.wait_ready()
        rollout = Rollout(config.rollout, engines, tokenizer)
        evaluator = Evaluator(prompts, rollout, verifier, config.eval.max_new_tokens, config.rollout.max_total_tokens)
        evaluation = evaluator.evaluate(version=0)
    (run_dir / "evaluation.json").write_text(json.dumps(asdict(evaluation), indent=1) + "\n")
    undecided = f", {evaluation.undecided} answers undecided (not right)" if evaluation.undecided else ""
    print(f"pass@1 {evaluation.pass_at_1:.1%} of {evaluation.problems} problems in {evaluation.seconds:.0f} s{undecided}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return run_command("megatron_oreal.evaluate", lambda overrides: load(EvaluateConfig, "evaluate", overrides), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
