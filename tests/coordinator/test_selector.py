"""From groups to a batch: advantages over all K, one right and one wrong kept, reasons counted, order of arrival irrelevant."""

import math

import pytest

from megatron_oreal.coordinator.selector import Selector
from megatron_oreal.monitor.metrics import rollout_metrics
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.trajectory import Group, Prompt, SelectionCounts, Trajectory, Verdict


def group(name: str, rights: str, empty: bool = False) -> Group:
    """rights: one character a sample, + right, - wrong, ? undecided and wrong, 0 undecided and left out."""
    prompt = Prompt(name, "q", "a", [1, 2])
    trajectories = [
        Trajectory(prompt, i, [] if empty else [3] * (i + 1), [], "", "stop" if r == "+" else "length", 4) for i, r in enumerate(rights)
    ]
    return Group(prompt, trajectories, [Verdict(r == "+", "rule: x" if r in "?0" else "", r not in "?0", r == "0") for r in rights])


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


def test_what_nobody_could_tell_is_neither_right_nor_wrong():
    """As if the undecided samples had never been drawn: K, pass rate, advantages and the choice are those of the others."""
    undecided = [group("a", "+0-0+"), group("b", "0+0++"), group("c", "0000-"), group("d", "00000"), group("e", "--0--")]
    batch = Selector(Objective(), seed=0).select(undecided)
    assert [(s.prompt_id, s.reward, s.pass_rate) for s in batch.samples] == [("a", 1, 2 / 3), ("a", -1, 2 / 3)]
    assert [s.advantage for s in batch.samples] == pytest.approx([1, -2])  # of K = 3: 1 - 0 and -1 - 1
    counts = batch.counts
    assert (counts.questions, counts.kept) == (5, 1)
    assert (counts.dropped_all_right, counts.dropped_all_wrong, counts.dropped_undecided) == (1, 1, 2)
    everything = Selector(Objective(keep="all", advantage="grpo"), seed=0).select(undecided)
    assert [(s.prompt_id, s.reward) for s in everything.samples if s.prompt_id == "a"] == [("a", 1), ("a", -1), ("a", 1)]
    assert len(everything.samples) == 3 + 3 + 4 and everything.counts.dropped_undecided == 2
    nothing = Selector(Objective(), seed=0).select(undecided[2:4])
    assert nothing.samples == [] and (nothing.counts.questions, nothing.counts.dropped_undecided) == (2, 2)


def test_metrics_leave_out_what_is_undecided():
    groups = [group("a", "+0-0+"), group("b", "0?0-0")]
    metrics = rollout_metrics(groups, Selector(Objective(), seed=0).select(groups).counts)
    assert metrics["reward/pass_rate_hist/3"] == metrics["reward/pass_rate_hist/0"] == 0.5  # 2 of 3 are nearest to 3 of 5
    assert metrics["reward/pass_rate"] == 2 / 5 and metrics["reward/mean"] == -1 / 5
    assert (metrics["verify/undecided"], metrics["verify/left_out"], metrics["verify/undecided/rule"]) == (6, 5, 6)
    assert math.isnan(rollout_metrics([group("c", "00")], SelectionCounts())["reward/pass_rate"])


def test_metrics_are_over_all_samples():
    metrics = rollout_metrics(GROUPS, Selector(Objective(), seed=0).select(GROUPS).counts)
    assert metrics["reward/pass_rate"] == 0.5
    assert metrics["reward/mean"] == 0
    assert metrics["verify/undecided"] == 1
    assert metrics["response/incomplete"] == metrics["response/truncated"] == 0.5
    assert (metrics["response/length_max"], metrics["response/length_median"], metrics["response/length_mean"]) == (4, 2.5, 2.5)
    histogram = {name: value for name, value in metrics.items() if name.startswith("reward/pass_rate_hist/")}
    assert histogram == {f"reward/pass_rate_hist/{right}": 0 if right == 2 else 0.25 for right in range(5)}
    assert list(rollout_metrics([group("e", "+" * 12)], SelectionCounts()))[2] == "reward/pass_rate_hist/00"
