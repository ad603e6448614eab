"""Exports of the running policy: the weights of the moment they began at, written while training goes on, whole or absent."""

import dataclasses
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.config import CheckpointConfig
from megatron_oreal.launcher import NotWritten
from megatron_oreal.learn import export
from megatron_oreal.learn.export import HFExports
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from tests.convert.test_round_trip import assert_same_bits, tensors
from tests.learn.test_checkpoint import make_batch
from tests.settings import tiny_run

KEPT = CheckpointConfig(hf_interval=1, hf_keep_last=2)


def weights_of(learner: Learner) -> dict:
    return {n: t.clone().numpy() for n, t in hf_weights.export(learner.policy.gpt, learner.models.dims)}


def train_and_export(run):
    """Three exports, one after each step; the first is written only after the second step's training. Weights by step."""
    ranks = Ranks(run.parallel, run.seed)
    learner, may_write, write = Learner(run, ranks), threading.Event(), export.write_shards

    def late(*arguments):
        assert may_write.wait(60)
        write(*arguments)

    export.write_shards = late
    exports, weights = HFExports(run.run_dir, run.checkpoint, learner.models, ranks), {}
    assert exports.due(1)
    for step in (1, 2, 3):
        learner.train(make_batch(step), step)
        exports.poll()
        if ranks.conducts:
            assert not list(exports._run_dir.glob("hf-step-*")) or step == 3
        ranks.barrier()
        if step == 2:
            may_write.set()
        exports.begin(learner.policy.gpt, step)  # waits for the one before
        weights[step] = weights_of(learner)
    exports.finish()
    exports.begin(learner.policy.gpt)
    exports.finish()
    ranks.stop()
    return weights


@pytest.mark.parametrize("parallel", [{"pp": 2}, {"tp": 2}, {"dp": 2}], ids=lambda p: next(iter(p)))
def test_an_export_has_the_weights_of_the_step_it_began_at(ranks, tiny_model, tmp_path, parallel):
    changes = {"run_dir": str(tmp_path), "checkpoint": KEPT}
    run = dataclasses.replace(tiny_run(tiny_model(kind="qwen3", tie_word_embeddings=True), parallel), **changes)
    results = ranks(2, train_and_export, run)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf", "hf-step-00002", "hf-step-00003"]  # the newest two, and the last
    for folder, step in (("hf-step-00002", 2), ("hf-step-00003", 3), ("hf", 3)):
        expected = {n: torch.from_numpy(w) for weights in results for n, w in weights[step].items()}
        assert_same_bits(tensors(tmp_path / folder), expected)
    assert not all((results[0][2][n] == results[0][3][n]).all() for n in results[0][2])
    AutoModelForCausalLM.from_pretrained(tmp_path / "hf-step-00002")


def export_to_a_full_disk(run) -> str:
    """What every rank says when one stage cannot write."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    if not ranks.conducts:
        export.write_shards = full
    exports = HFExports(run.run_dir, run.checkpoint, learner.models, ranks)
    exports.begin(learner.policy.gpt, 1)
    with pytest.raises(NotWritten) as raised:
        exports.finish()
    ranks.stop()
    return str(raised.value)


def test_a_stage_that_cannot_write_is_an_error_on_every_rank_and_leaves_no_folder(ranks, tiny_model, tmp_path):
    run = dataclasses.replace(tiny_run(tiny_model(), {"pp": 2}), run_dir=str(tmp_path), checkpoint=KEPT)
    first, second = ranks(2, export_to_a_full_disk, run)
    assert first == f"export: {tmp_path}/hf-step-00001 could not be written (by another rank)"
    assert second == f"export: {tmp_path}/hf-step-00001 could not be written ([Errno 28] No space left on device)"
    assert not (tmp_path / "hf-step-00001").exists()
