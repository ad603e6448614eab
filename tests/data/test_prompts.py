"""Balance and the drawing order are the spec's, and resumable; several sets have their shares of it exactly."""

import random
from collections import Counter
from fractions import Fraction
from itertools import pairwise

import pytest

from megatron_oreal.data.mixing import Turns
from megatron_oreal.data.prompts import PromptSource, fitting
from megatron_oreal.data.questions import Question, balance
from megatron_oreal.trajectory import Prompt


def test_balance_repeats_by_pass_rate_as_in_the_spec():
    rates = [0.0, 0.1999, 0.2, 0.5, 0.6, 0.79, 0.8, 1.0, None]
    questions = [Question(str(i), "q", "a", r) for i, r in enumerate(rates)]
    kept = balance(questions, [(0.2, 6), (0.4, 4), (0.6, 4), (0.8, 2)])
    assert [sum(k is q for k in kept) for q in questions] == [6, 6, 4, 4, 2, 2, 0, 0, 1]
    assert balance(questions, []) == questions


def test_drawing_passes_every_prompt_once_an_epoch_and_resumes_where_it_stopped():
    prompts = [Prompt(str(i), "q", "a", [i]) for i in range(5)]
    whole = PromptSource(prompts, seed=3).draw(15)
    assert len({p.id for p in whole}) == 15
    for epoch in range(3):
        assert sorted(p.token_ids[0] for p in whole[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    assert [p.token_ids for p in whole[:5]] != [p.token_ids for p in whole[5:10]]
    assert PromptSource(prompts, seed=3, drawn=7).draw(8) == whole[7:]


def test_a_prompt_that_leaves_no_room_is_left_out():
    prompts = [Prompt(str(n), "q", "a", [1] * n) for n in (3, 4, 5)]
    assert [p.id for p in fitting(prompts, longest=5)] == ["3", "4"]
    with pytest.raises(ValueError, match="data.train: no question is left"):
        PromptSource([], seed=0)


def mixed(weights: dict[str, float], sizes: dict[str, int]) -> PromptSource:
    prompts = [Prompt(f"{name}/{i}", "q", "a", [i], origin=name) for name, size in sizes.items() for i in range(size)]
    return PromptSource(prompts, 3, weights=weights)


def test_a_set_is_drawn_by_its_weight_whatever_its_size_and_each_has_epochs_of_its_own():
    source = mixed({"small": 3, "large": 1}, {"small": 4, "large": 30})
    drawn = source.draw(64)
    assert Counter(p.origin for p in drawn) == {"small": 48, "large": 16}
    small, large = ([p.token_ids[0] for p in drawn if p.origin == name] for name in ("small", "large"))
    assert all(sorted(small[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 48, 4)) and small[:4] != small[4:8]
    assert len(set(large)) == 16
    assert source.metrics() == {"data/small/epoch": 12, "data/large/epoch": 16 / 30}
    for stop in (1, 5, 63):
        again = mixed({"small": 3, "large": 1}, {"small": 4, "large": 30})
        again.drawn = stop
        assert again.draw(64 - stop) == drawn[stop:]
    with pytest.raises(ValueError, match="data.sets.large: no question is left"):
        mixed({"small": 3, "large": 1}, {"small": 4})


def test_at_any_time_each_set_is_less_than_one_draw_off_its_share():
    rng = random.Random(0)
    for _ in range(100):
        weights = [rng.choice((1, 2, 7, 100, round(rng.uniform(0.01, 3), 2))) for _ in range(rng.randint(1, 6))]
        turns, shares = Turns(weights), [Fraction(str(w)) / sum(Fraction(str(v)) for v in weights) for w in weights]
        counts = [turns.before(n) for n in range(400)]
        assert all(abs(count - share * n) < 1 for n, some in enumerate(counts) for count, share in zip(some, shares, strict=True)), weights
        assert all(sum(after) == sum(before) + 1 for before, after in pairwise(counts))
        far = rng.randint(10**6, 10**7)  # a run that goes on there need not count from the beginning
        assert Turns(weights).before(far) == turns.before(far)
        assert Turns(weights).at(250) == turns.at(250)
