"""Exports of the running policy: the weights of the moment they began at, written while training goes on, whole or absent."""

import dataclasses
import json
import shutil
import threading

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_oreal.errors import NotWritten
from megatron_oreal.learn import export
from megatron_oreal.learn.export import HFExports
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.model import hf_weights
from megatron_oreal.oreal.objective import Objective
from tests.convert.test_round_trip import assert_same_bits, change_config, tensors
from tests.learn.test_checkpoint import make_batch
from tests.settings import checkpoint_config, tiny_run

KEPT = checkpoint_config(hf_interval=1, hf_keep_last=2)


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
            assert not list(exports._run_dir.glob("hf-step-0000*/*")) or step == 3
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
    """Whatever lies in the run's folder: what a killed run left, and exports of later steps, which this run will come to again."""
    model, run_dir = tmp_path / "model", tmp_path / "run"
    shutil.copytree(tiny_model(kind="qwen3", tie_word_embeddings=True), model)
    change_config(model, dtype="bfloat16")  # but trained in float32
    for left in (".hf-step-00001.partial/left", ".hf-step-00007.partial", "hf-step-00002", "hf-step-00018", "hf-step-00019"):
        (run_dir / left).mkdir(parents=True)
    run = dataclasses.replace(tiny_run(str(model), parallel), run_dir=str(run_dir), checkpoint=KEPT)
    results = ranks(2, train_and_export, run)
    kept = ["hf", "hf-step-00002", "hf-step-00003", "hf-step-00018", "hf-step-00019"]  # the newest two, and the last
    assert sorted(p.name for p in run_dir.iterdir()) == kept
    for folder, step in (("hf-step-00002", 2), ("hf-step-00003", 3), ("hf", 3)):
        expected = {n: torch.from_numpy(w) for weights in results for n, w in weights[step].items()}
        assert_same_bits(tensors(run_dir / folder), expected)
        assert json.loads((run_dir / folder / "config.json").read_text())["dtype"] == "float32"
    assert not all((results[0][2][n] == results[0][3][n]).all() for n in results[0][2])
    assert AutoModelForCausalLM.from_pretrained(run_dir / "hf-step-00002").dtype == torch.float32


FAILURES = {  # which rank fails in which function, how, and what it says
    "a full disk": (1, "write_shards", OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    "any error": (1, "write_shards", RuntimeError("CUDA error\nand more of it"), "RuntimeError: CUDA error"),
    "at the end": (0, "complete", OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
}


def export_with_a_failure(run, where: int, function: str, error: Exception) -> str:
    """What a rank says when one of them cannot write."""
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)

    def fail(*arguments):
        raise error

    if ranks.placement.rank == where:
        setattr(export, function, fail)
    exports = HFExports(run.run_dir, run.checkpoint, learner.models, ranks)
    exports.begin(learner.policy.gpt, 1)
    with pytest.raises(NotWritten) as raised:
        exports.finish()
    ranks.stop()
    return str(raised.value)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_rank_that_cannot_write_is_one_line_on_every_rank_and_leaves_what_there_was(ranks, tiny_model, tmp_path, failure):
    where, function, error, reason = FAILURES[failure]
    before = tmp_path / "hf-step-00001" / "config.json"
    before.parent.mkdir()
    before.touch()
    run = dataclasses.replace(tiny_run(tiny_model(), {"pp": 2}), run_dir=str(tmp_path), checkpoint=KEPT)
    said = ranks(2, export_with_a_failure, run, where, function, error)
    assert said[where] == f"export: {tmp_path}/hf-step-00001 could not be written ({reason})"
    assert said[1 - where] == f"export: {tmp_path}/hf-step-00001 could not be written (by another rank)"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [before]
    assert not list(tmp_path.glob(".hf*"))


def test_a_run_folder_that_cannot_be_made_is_one_line(ranks, tiny_model, tmp_path):
    (tmp_path / "file").touch()
    run = dataclasses.replace(tiny_run(tiny_model()), run_dir=str(tmp_path / "file"), checkpoint=KEPT, objective=Objective(beta=0.0))
    [said] = ranks(1, begin_export, run)
    assert said.startswith(f"export: {tmp_path}/file/hf-step-00001 could not be written (NotADirectoryError: ")


def begin_export(run) -> str:
    ranks = Ranks(run.parallel, run.seed)
    learner = Learner(run, ranks)
    exports = HFExports(run.run_dir, run.checkpoint, learner.models, ranks)
    with pytest.raises(NotWritten) as raised:
        exports.begin(learner.policy.gpt, 1)
    ranks.stop()
    return str(raised.value)
