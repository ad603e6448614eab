"""How rank 0's word reaches all ranks: it does its part of a stage, the others wait, and all help where its engines were lost meanwhile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from megatron_oreal.coordinator.conductor import Conductor
from megatron_oreal.engines.engines import EnginesGone
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.stop import StopSignal
from megatron_oreal.trajectory import Directive, Work, finish


class CoordinatorFailed(RuntimeError):
    """Rank 0 could not do its part of a stage; raised on the other ranks, it says why itself."""


class Workers:
    """All ranks of a run, rank 0 among them. One object a process."""

    def __init__(self, ranks: Ranks, coordinator: Conductor | None, publish: Callable[[int], object], stop: StopSignal):
        """`coordinator`: rank 0's; `publish`: collective, brings engines that are back into service with the policy of that version."""
        self._ranks, self._coordinator, self._publish, self._stop = ranks, coordinator, publish, stop
        self._publishing = False
        self._told: Exception | None = None  # rank 0's failure, once all ranks know of it

    def follow(self, stage: str, work: Callable[..., Work[Directive]], step: int, version: int, *more) -> Directive:
        """Rank 0's coordinator does the work; every rank gets what it returns, and whether the run was asked to stop.

        `work(coordinator, step, version, *more)` is abandoned where that is so; it is the policy's version that the engines hold.
        Should rank 0 lose its last engine meanwhile, all ranks publish the policy at this version again, and the work goes on.

        Raises:
            EnginesGone (on every rank): no engine came back.
            CoordinatorFailed (on all ranks but rank 0): the work failed on rank 0, with the error that is raised there.
        """
        self._ranks.enter(stage)
        if self._coordinator is None:
            return self._help(stage, version)
        return self._lead(stage, version, lambda: work(self._coordinator, step, version, *more))

    def _lead(self, stage: str, version: int, begin: Callable[[], Work[Directive]]) -> Directive:
        try:
            done = self._stop.cuts_short(lambda: finish(begin(), lambda: self._publish_again(stage, version)))
        except Exception as error:
            if not self._publishing:  # else the others are not waiting here
                self._told = error
                self._ranks.share(Directive(failed=str(error) or type(error).__name__), Directive)
            raise
        return self._ranks.share(replace(done or Directive(), stop=self._stop.requested), Directive)

    def _help(self, stage: str, version: int) -> Directive:
        while (directive := self._ranks.share(None, Directive)).publish:
            self._publish(version)
            self._ranks.enter(stage)
        if directive.failed:
            raise CoordinatorFailed(directive.failed)
        return directive

    def _publish_again(self, stage: str, version: int) -> None:
        self._publishing = True
        with self._stop.not_now():  # all ranks are in it
            self._ranks.share(Directive(publish=True), Directive)
            self._publish(version)
            self._ranks.enter(stage)
            self._publishing = False

    @contextmanager
    def saved_if_it_fails(self, save: Callable[[], None]) -> Iterator[None]:
        """Where engines are all gone, or rank 0 fails, the ranks are well: the run is saved where it stands before it ends."""
        try:
            yield
        except Exception as error:
            if not (isinstance(error, EnginesGone | CoordinatorFailed) or error is self._told):
                raise
            save()
            self._ranks.stop_watching()  # rank 0 may take a while to close what it has open, and is to be the one who says why
            if self._ranks.conducts:
                raise
            raise SystemExit(1) from None  # rank 0 says why, once
