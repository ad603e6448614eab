"""What rank 0 conducts with, opened and closed together; on the other ranks the same object with nothing inside."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from megatron_oreal.config import TrainConfig
from megatron_oreal.evaluate import Evaluation, Evaluator, metrics_of
from megatron_oreal.learn.checkpoint import RunState, find_checkpoint
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.model.blueprint import open_model
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.spec import Platform
from megatron_oreal.monitor.console import Console, step_line
from megatron_oreal.monitor.metrics import MetricsLog
from megatron_oreal.prompts import PromptSource, Template, balance, fitting, load_tokenizer, read_questions, stop_token
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.rollout.server import Endpoint, ExternalServer, Server, open_server
from megatron_oreal.selection import Selector
from megatron_oreal.trajectory import Prompt, TrainBatch
from megatron_oreal.verify.pool import Verifier


@dataclass(frozen=True)
class Inputs:
    """Everything read from outside, checked."""

    tokenizer: object
    prompts: list[Prompt]  # balanced; those too long to be answered left out
    held_out: list[Prompt]
    notes: list[str]  # what is computed with; how many questions became how many prompts


def read_inputs(config: TrainConfig) -> Inputs:
    """Model folder, tokenizer, stop word and data files. Raises ValueError, one line, for the first thing wrong."""
    compute = Compute.find(config.compute, config.model.dtype, Platform.detect())
    find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume)
    open_model(config.model.path, "policy", config.parallel)
    tokenizer = load_tokenizer(config.model.path)
    stop_token(tokenizer, config.rollout.stop_word)
    template = Template(tokenizer, config.data.system_prompt)
    questions = read_questions(config.data.train)
    balanced = balance(questions, config.data.balance)
    prompts = [template.prompt(q) for q in balanced]
    fit = fitting(prompts, config.rollout.max_total_tokens)
    PromptSource(fit, config.seed)  # raises where nothing is left
    kept, asked = len({q.id for q in balanced}), len({p.id for p in fit})
    notes = [
        compute.line(),
        f"data: {len(questions)} questions, {len(questions) - kept} dropped by difficulty, {kept - asked} too long; "
        f"{len(fit)} prompts an epoch with repeats",
    ]
    held_out = [template.prompt(q) for q in read_questions(config.eval.data)] if config.eval.data else []
    return Inputs(tokenizer, fit, held_out, notes)


@dataclass
class Stages:
    """The stages that only rank 0 has (None elsewhere), and what it reports."""

    endpoint: Endpoint
    server: Server | ExternalServer | None = None
    source: PromptSource | None = None
    rollout: Rollout | None = None
    verifier: Verifier | None = None
    selector: Selector | None = None
    evaluator: Evaluator | None = None
    console: Console | None = None
    log: MetricsLog | None = None
    run_dir: Path | None = None
    started: float = field(default_factory=time.perf_counter)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)  # step -> held-out result
    eval_interval: int = 1
    begun_after: int = 0  # the step at which this process took up the run
    _metrics: dict[str, float] = field(default_factory=dict)

    def wait_ready(self) -> None:
        """Return when the server answers; it has been loading since open_stages."""
        if self.server:
            self.server.wait_ready()

    def note(self, *metrics: dict[str, float]) -> None:
        """Remember metrics of the step in progress."""
        for some in metrics:
            self._metrics |= some

    def go_on_from(self, state: RunState) -> None:
        """Take up a run where it stood; a fresh state begins one."""
        if self.run_dir is None:
            return
        self.begun_after, self.source.drawn = state.step, state.drawn
        if state.selector:
            self.selector.state = state.selector
        self.started, self.evaluations = time.perf_counter() - state.seconds, dict(state.evaluations)
        self._metrics = dict(state.noted)
        self.log = MetricsLog(self.run_dir, state.step if state.seconds else None, state.seconds)
        if state.seconds:
            sampled = f"; step {state.step + 1} is sampled already" if state.pending else ""
            self.console.resume(state.step, f"resumed after step {state.step}, policy version {state.version}{sampled}")

    def state(self, step: int, version: int, pending: TrainBatch | None = None) -> RunState:
        """Where the run stands after `step`. Only rank 0's counts."""
        if self.source is None:
            return RunState(step, version)
        return RunState(
            step=step,
            version=version,
            drawn=self.source.drawn,
            selector=self.selector.state,
            seconds=time.perf_counter() - self.started,
            evaluations=self.evaluations,
            pending=pending,
            noted=self._metrics,
        )

    def evaluate(self, version: int, step: int) -> None:
        """Held-out pass@1 of the weights that the engine holds, where it is due after this step (0: before training) and unknown."""
        due = step % self.eval_interval == 0 or step == self.console.steps if self.console else False
        if self.evaluator is None or not due or step in self.evaluations:
            return
        evaluation = self.evaluations[step] = self.evaluator.evaluate(version)
        if step > self.begun_after:
            self.note(metrics_of(evaluation))
            return
        self.console.say(f"held-out pass@1 at step {step}: {evaluation.pass_at_1:.1%} of {evaluation.problems}")
        self.log.write(step, metrics_of(evaluation))  # no step is in progress

    def finish_step(self, step: int, seconds: float) -> None:
        """Write the step's metrics and its line; says so where every question was all right or all wrong."""
        if self.log is None:
            return
        self.note({"time/step": seconds})
        skipped = "" if "loss/token_rm" in self._metrics or "loss/total" in self._metrics else "  skipped: no question had both"
        self.console.step(step, step_line(self._metrics) + skipped)
        self.log.write(step, self._metrics)
        self._metrics = {}

    def say_how_to_resume(self, step: int) -> None:
        """The last line of a run that was asked to stop."""
        if self.console:
            self.console.say(f"stopped after step {step} as asked and saved; the same command with resume=auto goes on from there")

    def summarize(self) -> None:
        """Write summary.json and show it."""
        if self.log is None:
            return
        summary = {"steps": self.console.steps, "seconds": round(time.perf_counter() - self.started, 1)}
        if self.evaluations:
            first, last = self.evaluations[0], self.evaluations[max(self.evaluations)]
            summary |= {"pass_at_1_start": first.pass_at_1, "pass_at_1_end": last.pass_at_1, "problems_evaluated": last.problems}
        (self.run_dir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        self.console.table("OREAL", [(k, f"{v:.1%}" if k.startswith("pass_at") else str(v)) for k, v in summary.items()])


@contextmanager
def open_stages(config: TrainConfig, inputs: Inputs, ranks: Ranks) -> Iterator[Stages]:
    """Start the server (it loads while the models are built), the verifier and the rest; stop them on the way out."""
    with ExitStack() as stack:
        if not ranks.conducts:
            yield Stages(ranks.share(None, Endpoint))
            return
        run_dir = Path(config.run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        server = stack.enter_context(open_server(config.rollout, config.model.path, config.model.dtype, run_dir))
        ranks.share(server.endpoint, Endpoint)
        verifier = stack.enter_context(Verifier(config.verify))
        rollout = Rollout(config.rollout, server.endpoint, inputs.tokenizer, config.seed)
        longest = config.rollout.max_total_tokens
        evaluator = Evaluator(inputs.held_out, rollout, verifier, config.eval.max_new_tokens, longest) if inputs.held_out else None
        console = stack.enter_context(Console("OREAL", config.steps))
        for line in inputs.notes:
            console.say(line)
        yield Stages(
            endpoint=server.endpoint,
            server=server,
            source=PromptSource(inputs.prompts, config.seed),
            rollout=rollout,
            verifier=verifier,
            selector=Selector(config.objective, config.seed),
            evaluator=evaluator,
            console=console,
            run_dir=run_dir,
            eval_interval=config.eval.interval,
        )
