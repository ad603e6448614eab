"""The bench's figures: FLOPs against a count by hand, a table that adds up, and a plain implementation that does the same work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.step_figures import SHAPES, STAGES, Asked, Measured, layers_that_fit, report, work_of

ROOT = Path(__file__).resolve().parents[2]
TINY = Asked("tiny", layers=2, tokens=256, micro_batches=2, recompute="none", dtype="float32", steps=1, warm_up=2)
# Of the tiny shape: hidden 64, feed-forward 128, 4 heads and 2 key-value heads of 16, 320 words.
LAYER_WEIGHTS = 64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128  # query, key, value; output; gate, up, down


def by_hand(lengths: list[int], responses: int) -> tuple[int, int, int]:
    """FLOPs of a forward pass: (2 layers' matrices and attention, attention alone, LM head)."""
    attention = sum(2 * (2 * 4 * 16 * n * n) for n in lengths)  # two products of half of n x n: 2 FLOPs x n x n / 2 x 2 x channels
    return 2 * 2 * LAYER_WEIGHTS * sum(lengths) + attention, attention, 2 * 64 * 320 * responses


def test_flops_are_those_of_a_count_by_hand():
    samples = TINY.samples
    layers, attention, head = by_hand([s.length for s in samples], sum(len(s.response_ids) for s in samples))
    mlp = 2 * 2 * 3 * 64 * 128 * sum(s.length for s in samples)
    for recompute, again in (("none", 0), ("core_attn", attention), ("mlp", mlp), ("full", layers)):
        work = work_of(samples, TINY.hf, recompute)
        assert work.needed == {"token_rm": 3 * layers, "reference": layers + head, "policy": 3 * layers + 3 * head}
        assert work.computed == {"token_rm": 3 * layers + again, "reference": layers + head, "policy": 3 * layers + again + 4 * head}


def test_samples_fill_the_micro_batches_and_are_right_and_wrong_in_turn():
    samples = TINY.samples
    assert 0.96 * 512 < sum(s.length for s in samples) <= 512
    assert max(s.length for s in samples) <= 256 and min(len(s.response_ids) for s in samples) >= 1
    assert [s.reward for s in samples[:4]] == [1, -1, 1, -1]
    assert samples == TINY.samples


def test_shares_and_ratios_follow_from_seconds():
    ours = Measured("CPU", {"token_rm": 3.0, "reference": 1.0, "policy": 4.0, "optimizer": 1.5, "else": 0.5}, 2, None, {}, ceiling=1e9)
    plain = Measured("CPU", {stage: 5.0 for stage in STAGES}, 7, None, {})
    found = report(TINY, ours, plain)
    samples, rows = TINY.samples, found["stages"]
    layers, _, head = by_hand([s.length for s in samples], sum(len(s.response_ids) for s in samples))
    assert found["plain_over_ours"] == 2.5
    assert rows["optimizer"]["share_of_step"] == 0.15 and rows["optimizer"]["flops"] is None
    assert rows["policy"]["flops_per_second"] == pytest.approx((3 * layers + 4 * head) / 4)
    assert rows["policy"]["of_ceiling_needed"] == pytest.approx((3 * layers + 3 * head) / 4 / 1e9)
    assert rows["step"]["of_ceiling_computed"] == pytest.approx((7 * layers + 5 * head) / 10 / 1e9)
    assert rows["step"]["tokens_per_second"] == found["tokens"] / 10


def test_an_eighth_of_the_32b_model_divides_whatever_tp_8_divides():
    whole, share = SHAPES["32b-layers"][0], SHAPES["32b-tp8"][0]
    for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
        assert whole[name] == 8 * share[name]
    assert share["hidden_size"] == whole["hidden_size"] and 8 * share["vocab_size"] == 152064


def test_where_not_one_layer_fits_it_is_said():
    with pytest.raises(ValueError, match="not one layer of 32b-layers fits"):
        layers_that_fit(Asked("32b-layers", 1, 10**9, 1, "none", "bfloat16", 1, 1))


@pytest.mark.slow
def test_ours_and_the_plain_implementation_do_the_same_work():
    command = [sys.executable, ROOT / "tools" / "bench_step.py", "--shape", "tiny", "--layers", "2", "--tokens", "256", "--json"]
    command += ["--micro-batches", "2", "--steps", "1", "--warm-up", "2", "--against-plain"]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, timeout=300, check=True)
    found = json.loads(done.stdout)
    ours, plain = found["ours"], found["plain"]
    assert ours["micro_batches"] == 2 and plain["micro_batches"] == found["trajectories"]
    assert min(*ours["seconds"].values(), *plain["seconds"].values()) >= 0
    assert ours["losses"]["loss/total"] != 0
    for name, value in plain["losses"].items():
        assert ours["losses"][name] == pytest.approx(value, rel=1e-3), name
