"""Rank 0's failures reach all ranks, which save the run before it ends."""

import pytest

from megatron_oreal.coordinator.workers import Workers
from megatron_oreal.engines.engines import EnginesGone
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.stop import StopSignal
from megatron_oreal.trajectory import Directive, NoEngine, TrainBatch, Work
from tests.settings import parallel_config


class Recorder:
    """In the places of run and publisher: remembers what it was asked for."""

    def __init__(self):
        self.asked: list = []

    def save(self) -> None:
        self.asked.append(("save", 4))

    def publish(self, version: int) -> None:
        self.asked.append(("publish", version))
        if version == 9:
            raise EnginesGone("no engine is left")


def conducted(version: int, failure: str) -> tuple:
    """What one of two ranks went through when the engines were lost once, and then the work failed."""
    recorder = Recorder()
    with Ranks(parallel_config(dp=2), 1) as ranks:
        workers = Workers(ranks, "rank 0's" if ranks.conducts else None, recorder.publish, StopSignal())

        def work(coordinator: str, step: int, version: int, more: list) -> Work[Directive]:
            assert (coordinator, step, more) == ("rank 0's", 5, [6])
            yield NoEngine()
            if failure:
                raise RuntimeError(failure)
            return Directive(TrainBatch([]))

        try:
            with workers.saved_if_it_fails(recorder.save):
                assert workers.follow("rollout", work, 5, version, [6]) == Directive(TrainBatch([]))
        except (RuntimeError, SystemExit) as error:
            return recorder.asked, type(error).__name__, str(error)
    return recorder.asked, "", ""


@pytest.mark.parametrize(
    ("version", "failure", "kinds"),
    [(2, "", ("", "")), (2, "the judge is gone", ("RuntimeError", "SystemExit")), (9, "", ("EnginesGone", "SystemExit"))],
)
def test_a_failure_of_rank_0_is_saved_by_all(ranks, version, failure, kinds):
    outcomes = ranks(2, conducted, version, failure)
    saved = [("save", 4)] if failure or version == 9 else []
    for asked, kind, _ in outcomes:
        assert asked == [("publish", version), *saved]
        assert kind in kinds
    assert tuple(kind for _, kind, _ in outcomes) == kinds
    assert failure in outcomes[0][2]
