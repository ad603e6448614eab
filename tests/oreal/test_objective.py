import pytest

from megatron_oreal.oreal.objective import Counts, Objective


def test_defaults_are_the_released_preset_and_paper_differs_in_four_values():
    assert Objective() == Objective.released()
    released, paper = vars(Objective.released()), vars(Objective.paper())
    assert {name for name in released if released[name] != paper[name]} == {
        "score_position",
        "weight_from",
        "positive_scale",
        "negative_scale",
    }


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("advantage", "gae", "rloo, grpo"),
        ("keep", "some", "pair, all"),
        ("score_position", "next", "previous, token"),
        ("weight_from", "mean", "cumulative_mean, score"),
        ("rescale", "top", "threshold, topk"),
        ("positive_scale", "two", "advantage, one"),
        ("negative_scale", "one", "advantage, one_minus_pass_rate"),
        ("kl", "k2", "k3, k1, mse"),
        ("loss", "ppo", "oreal, reinforce"),
        ("threshold", 1.0, "0 <= threshold < 1"),
        ("threshold", -0.1, "0 <= threshold < 1"),
        ("topk_ratio", 0.0, "0 < topk_ratio <= 1"),
        ("topk_ratio", 1.1, "0 < topk_ratio <= 1"),
        ("eta", -1.0, "0 <= eta"),
        ("beta", float("nan"), "0 <= beta"),
    ],
)
def test_a_wrong_value_is_one_line_with_field_and_allowed_values(field, value, allowed):
    with pytest.raises(ValueError, match=f"^{field} is .*allowed: {allowed}") as raised:
        Objective(**{field: value})
    assert "\n" not in str(raised.value)


def test_counts_from_rewards():
    assert Counts.from_rewards([1, -1, 1], [3, 5, 4]) == Counts(right_tokens=7, wrong_tokens=5, tokens=12, trajectories=3)
    with pytest.raises(ValueError, match="2 rewards for 1 response lengths"):
        Counts.from_rewards([1, -1], [3])
