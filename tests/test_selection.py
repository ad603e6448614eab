"""From groups to a batch: advantages over all K, one right and one wrong kept, reasons counted, order of arrival irrelevant."""

import pytest

from megatron_oreal.monitor.metrics import rollout_metrics
from megatron_oreal.oreal import Objective
from megatron_oreal.selection import Selector
from megatron_oreal.trajectory import Group, Prompt, Trajectory, Verdict


def group(name: str, rights: str, empty: bool = False) -> Group:
    """rights: one character a sample, + right, - wrong, ? undecided (wrong as well)."""
    prompt = Prompt(name, "q", "a", [1, 2])
    trajectories = [
        Trajectory(prompt, i, [] if empty else [3] * (i + 1), [], "", "stop" if r == "+" else "length", 4) for i, r in enumerate(rights)
    ]
    return Group(prompt, trajectories, [Verdict(r == "+", "", r != "?") for r in rights])


GROUPS = [group("a", "++-+"), group("b", "++++"), group("c", "----"), group("d", "-?-+")]


def test_pairs_with_the_advantages_of_the_whole_question():
    batch = Selector(Objective(), seed=0).select(GROUPS)
    assert [(s.prompt_id, s.reward, s.pass_rate) for s in batch.samples] == [
        ("a", 1, 0.75),
        ("a", -1, 0.75),
        ("d", 1, 0.25),
        ("d", -1, 0.25),
    ]
    assert [s.advantage for s in batch.samples] == pytest.approx([2 / 3, -2, 2, -2 / 3])
    assert all(s.version == 4 and s.prompt_ids == [1, 2] for s in batch.samples)
    counts = batch.counts
    assert (counts.questions, counts.kept, counts.dropped_all_right, counts.dropped_all_wrong) == (4, 2, 1, 1)


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_arrival():
    first = Selector(Objective(), seed=3)
    again = Selector(Objective(), seed=3)
    many = [group(f"q{i}", "+-+-+-") for i in range(20)]
    assert first.select(many) == again.select(list(reversed(many)))
    assert first.select(many) != Selector(Objective(), seed=4).select(many)


def test_all_keeps_everything_and_nothing_to_keep_gives_an_empty_batch():
    everything = Selector(Objective(keep="all"), seed=0).select(GROUPS)
    assert len(everything.samples) == 16
    assert Selector(Objective(), seed=0).select(GROUPS[1:3]).samples == []
    assert Selector(Objective(), seed=0).select([group("e", "+-", empty=True)]).counts.empty_responses == 2


def test_metrics_are_over_all_samples():
    metrics = rollout_metrics(GROUPS, Selector(Objective(), seed=0).select(GROUPS).counts)
    assert metrics["reward/pass_rate"] == 0.5
    assert metrics["reward/mean"] == 0
    assert metrics["verify/undecided"] == 1
    assert metrics["response/incomplete"] == 0.5
    assert metrics["response/length_max"] == 4
