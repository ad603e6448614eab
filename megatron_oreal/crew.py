"""Rank 0 conducts, the others wait: what it finds out goes to all, and all help where its engines were lost meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from megatron.core.models.gpt import GPTModel

from megatron_oreal.learn.checkpoint import Checkpoints, RunState
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.publish import Publisher
from megatron_oreal.rollout.engines import EnginesGone
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.stop import StopSignal
from megatron_oreal.trajectory import TrainBatch, Turn


class Crew:
    """All ranks of a run. One object a process."""

    def __init__(self, ranks: Ranks, rollout: Rollout | None, policy: Sequence[GPTModel], publisher: Publisher, stop: StopSignal):
        """`rollout`: rank 0's; None elsewhere."""
        self._ranks, self._rollout, self._policy, self._publisher, self._stop = ranks, rollout, policy, publisher, stop

    def conduct(self, stage: str, version: int, work: Callable[..., TrainBatch | None], *arguments) -> Turn:
        """Rank 0 does the work (abandoned where the run is asked to stop); every rank gets its batch and whether to stop.

        Should rank 0 lose its last engine meanwhile, all ranks publish the policy at this version again, and the work goes on.

        Raises:
            EnginesGone (on every rank): no engine came back.
        """
        self._ranks.enter(stage)
        if self._rollout is None:
            while (turn := self._ranks.share(None, Turn)).publish:
                self._publisher.publish(self._policy, version)
            return turn
        self._rollout.on_no_engine = lambda: self._publish_again(version)
        batch = self._stop.cuts_short(work, *arguments)
        return self._ranks.share(Turn(batch, self._stop.requested), Turn)

    def _publish_again(self, version: int) -> None:
        with self._stop.not_now():  # all ranks are in it
            self._ranks.share(Turn(publish=True), Turn)
            self._publisher.publish(self._policy, version)


@contextmanager
def saved_if_engines_go(checkpoints: Checkpoints, ranks: Ranks, state: Callable[[], RunState]) -> Iterator[None]:
    """A run whose engines are all gone, and do not come back, is saved where it stands before it ends with status 1."""
    try:
        yield
    except EnginesGone:
        checkpoints.save(state())
        checkpoints.finish()
        if ranks.conducts:
            raise
        raise SystemExit(1) from None  # rank 0 says why, once
