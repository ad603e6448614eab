"""What a person sees: a progress bar with one live line a step in a terminal, plain lines elsewhere."""

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class Console:
    """Rank 0's output; quiet on the other ranks. Use as a context manager around a run."""

    def __init__(self, what: str, steps: int, quiet: bool = False):
        self._console = RichConsole(highlight=False, soft_wrap=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._console, disable=quiet or not self._console.is_terminal)
        self._task = self._progress.add_task(what, total=steps)
        self.steps = steps

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
        ("|g|", "grad_norm/policy", "{:.2f}"),
        ("sft", "loss/sft", "{:.4f}"),
        ("eval", "eval/pass_at_1", "{:.1%}"),
        ("s", "time/step", "{:.1f}"),
    )
    return "  ".join(f"{label} {form.format(metrics[name])}" for label, name, form in shown if name in metrics)
