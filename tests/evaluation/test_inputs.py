"""What a run reads for its evaluations, and says of it at start."""

import json

import pytest

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.coordinator.inputs import read_inputs


@pytest.fixture
def overrides(served_model, tmp_path):
    rows = [{"question": f"What is {i}?", "gold_answer": "7", "pass_rate": i / 40} for i in range(40)]  # 8 of them above the last band
    rows += [{"question": f"what  is {i}?", "gold_answer": "7"} for i in range(40)]
    for name, some in (("train", rows), ("test", rows[5:8] + [{"question": "Something else", "gold_answer": "7"}])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return [f"model.path={served_model}", "model.dtype=float32", f"data.train={tmp_path / 'train.jsonl'}", f"run_dir={tmp_path / 'run'}"]


def test_test_sets_pick_no_checkpoint_and_may_be_in_the_training_data(overrides, tmp_path):
    given = [*overrides, f"eval.data={tmp_path / 'test.jsonl'}"]
    found = read_inputs(load(TrainConfig, "train", given))
    assert [one.name for one in found.sets] == ["test"]
    assert "checkpoint.keep_best=1 keeps none: test sets pick no checkpoint; see eval.validation" in found.notes
    assert any(note.startswith("eval: 3 questions of test are training questions as well") for note in found.notes)
    assert not any("keep_best" in note for note in read_inputs(load(TrainConfig, "train", [*given, "checkpoint.keep_best=0"])).notes)


def test_what_is_held_out_is_not_among_the_prompts(overrides, tmp_path):
    given = [*overrides, f"eval.data={tmp_path / 'test.jsonl'}", "eval.validation=10", "eval.validation_samples=4"]
    found = read_inputs(load(TrainConfig, "train", given))
    assert [(one.name, len(one.problems), one.asked.samples) for one in found.sets] == [("test", 4, 0), ("validation", 10, 4)]
    held = {p.question.question.casefold().replace(" ", "") for p in found.sets[1].problems}
    assert not held & {prompt.question.casefold().replace(" ", "") for prompt in found.prompts}
    assert len({prompt.id for prompt in found.prompts}) < 80 - 2 * len(held)  # some of the others were too easy as well
    assert any("80 questions, 10 held out for validation with 10 duplicates" in note for note in found.notes)
    assert not any("keep_best" in note for note in found.notes)
