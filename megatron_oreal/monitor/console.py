"""What a person sees: progress bars and one line a step in a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from megatron_oreal.monitor.sampling_progress import SamplingProgress

REDRAWN_A_SECOND = 4
PLAIN_LINE_S = 60.0
"""Between lines on a rollout in progress, where there is no terminal: it may last half an hour."""


class _Rich(RichConsole):
    """Where nobody reads any more (`| head -1`, a lost terminal) it falls silent; a run's results are its files."""

    def on_broken_pipe(self) -> None:
        """In place of rich's SystemExit, which would end the thread that happened to print, and nothing else."""
        self.quiet = True


class Console:
    """Rank 0's output; quiet on the other ranks. Use as a context manager around a run."""

    def __init__(self, what: str, steps: int, quiet: bool = False):
        self._console = _Rich(highlight=False, soft_wrap=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        plain = quiet or not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, disable=plain, refresh_per_second=REDRAWN_A_SECOND)
        self._task = self._progress.add_task(what, total=steps, detail="")
        self._plain, self.steps = plain, steps

    def __enter__(self) -> "Console":
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def resume(self, number: int, text: str) -> None:
        """A run goes on after step `number`."""
        self._progress.update(self._task, completed=number)
        self.say(text)

    def advance(self, number: int) -> None:
        """So many are done: the bar alone moves."""
        self._progress.update(self._task, completed=number)

    def step(self, number: int, line: str) -> None:
        """Step `number` (1-based) is done."""
        self._progress.update(self._task, completed=number)
        self.say(f"step {number:>{len(str(self.steps))}}/{self.steps}  {line}")

    @contextmanager
    def sampling(self, what: str, expected: int) -> Iterator[SamplingProgress]:
        """A second bar, for as long as `expected` trajectories are sampled and verified; tell it of each. Elsewhere a line a minute."""
        task = self._progress.add_task(what, total=expected or None, detail="")
        last_line = 0.0

        def show(state: SamplingProgress) -> None:
            nonlocal last_line
            if task in self._progress.task_ids:  # not after the end: a verdict may come late where sampling failed
                self._progress.update(task, completed=state.trajectories, detail=state.rates())
            if self._plain and state.seconds >= last_line + PLAIN_LINE_S:
                last_line = state.seconds
                self.say(f"{what} {state.line()}")

        try:
            yield SamplingProgress(expected, show)
        finally:
            self._progress.remove_task(task)
            self._progress.refresh()  # at once: the next line would be printed above the bar as it was last drawn

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Two columns of facts."""
        table = Table(title=title, show_header=False)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def step_line(metrics: dict[str, float]) -> str:
    """The few numbers of a step that a person follows, those that it has."""
    shown = (
        ("right", "reward/pass_rate", "{:.1%}"),
        ("kept", "select/kept", "{:.0f}q"),
        ("len", "response/length_mean", "{:.0f}"),
        ("pos", "loss/positive", "{:.3f}"),
        ("neg", "loss/negative", "{:.3f}"),
        ("kl", "loss/kl", "{:.4f}"),
        ("rm", "loss/token_rm", "{:.3f}"),
        ("auc", "token_rm/auc", "{:.2f}"),
        ("|g|", "grad_norm/policy", "{:.2f}"),
        ("sft", "loss/sft", "{:.4f}"),
        ("eval", "eval/pass_at_1", "{:.1%}"),
        ("val", "eval/validation/score", "{:.1%}"),
        ("s", "time/step", "{:.1f}"),
    )
    return "  ".join(f"{label} {form.format(metrics[name])}" for label, name, form in shown if name in metrics)
