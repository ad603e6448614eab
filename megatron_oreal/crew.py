"""Rank 0 conducts, the others wait: what it finds out goes to all, and all help where its engines were lost meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from megatron.core.models.gpt import GPTModel

from megatron_oreal.engines.engines import EnginesGone
from megatron_oreal.learn.checkpoint import Checkpoints, RunState
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.rollout.generate import Rollout
from megatron_oreal.stop import StopSignal
from megatron_oreal.sync.publisher import Publisher
from megatron_oreal.trajectory import TrainBatch, Turn


class ConductorFailed(RuntimeError):
    """Rank 0 could not do its part of a stage; raised on the other ranks, it says why itself."""


class Crew:
    """All ranks of a run. One object a process."""

    def __init__(self, ranks: Ranks, rollout: Rollout | None, policy: Sequence[GPTModel], publisher: Publisher, stop: StopSignal):
        """`rollout`: rank 0's; None elsewhere."""
        self._ranks, self._rollout, self._policy, self._publisher, self._stop = ranks, rollout, policy, publisher, stop
        self._publishing = False
        self._told: Exception | None = None  # rank 0's failure, once all ranks know of it

    def conduct(self, stage: str, version: int, work: Callable[..., TrainBatch | Turn], *arguments) -> Turn:
        """Rank 0 does the work (abandoned where the run is asked to stop); every rank gets what it returns and whether to stop.

        Should rank 0 lose its last engine meanwhile, all ranks publish the policy at this version again, and the work goes on.

        Raises:
            EnginesGone (on every rank): no engine came back.
            ConductorFailed (on all ranks but rank 0): the work failed on rank 0, with the error that is raised there.
        """
        self._ranks.enter(stage)
        if self._rollout is None:
            while (turn := self._ranks.share(None, Turn)).publish:
                self._publisher.publish(self._policy, version)
            if turn.failed:
                raise ConductorFailed(turn.failed)
            return turn
        self._rollout.on_no_engine = lambda: self._publish_again(version)
        try:
            done = self._stop.cuts_short(work, *arguments)
        except Exception as error:
            if not self._publishing:  # else the others are not waiting here
                self._told = error
                self._ranks.share(Turn(failed=str(error) or type(error).__name__), Turn)
            raise
        turn = done if isinstance(done, Turn) else Turn(done)
        return self._ranks.share(replace(turn, stop=self._stop.requested), Turn)

    def _publish_again(self, version: int) -> None:
        self._publishing = True
        with self._stop.not_now():  # all ranks are in it
            self._ranks.share(Turn(publish=True), Turn)
            self._publisher.publish(self._policy, version)
            self._publishing = False

    @contextmanager
    def saved_if_it_fails(self, checkpoints: Checkpoints, state: Callable[[], RunState]) -> Iterator[None]:
        """Where engines are all gone, or rank 0 fails, the ranks are well: the run is saved where it stands before it ends."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, EnginesGone | ConductorFailed) or error is self._told):
                raise
            checkpoints.save(state())
            checkpoints.finish()
            self._ranks.stop_watching()  # rank 0 may take a while to close what it has open, and is to be the one who says why
            if self._ranks.conducts:
                raise
            raise SystemExit(1) from None  # rank 0 says why, once
