"""A real pretrained model, where there is one: `bash tests/run.sh -m real --real-model DIR`, a folder of some 0.5 B parameters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GenerationConfig

from megatron_oreal import launcher
from megatron_oreal.data.tokenizer import Template, load_tokenizer
from megatron_oreal.trajectory import Prompt
from tests.forked import BY_HAND

QUESTIONS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.jsonl"
LONG = "Please reason step by step, and put your final answer within \\boxed{}."
SHORT = "Answer with the number alone, in \\boxed{}."
TINY = "tiny"


@pytest.fixture(scope="package", autouse=True)
def forked():
    """In place of the whole suite's: processes are started as users start them, with all cores, which a model of this size can use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "start_module", BY_HAND)
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield


@pytest.fixture(scope="session")
def is_tiny(pytestconfig) -> bool:
    """Whether the model is a random one, which neither ends its answers nor is ever right."""
    return str(pytestconfig.getoption("--real-model")) == TINY


@pytest.fixture(scope="session")
def real_model(pytestconfig, is_tiny, tiny_model) -> Path:
    if is_tiny:
        return _tiny(tiny_model)
    folder = pytestconfig.getoption("--real-model").resolve()
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}: --real-model=DIR names a Hugging Face folder of Qwen2.5-0.5B's kind")
    return folder


def _tiny(tiny_model) -> Path:
    """With a generation_config as that of Qwen2.5's instruction models, which must change nothing."""
    folder = Path(tiny_model(tokenizer=True, vocab_size=520, tie_word_embeddings=True, max_position_embeddings=1024))
    GenerationConfig(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    """Questions of GSM8K, the shortest first: seconds count here."""
    if not QUESTIONS.is_file():
        pytest.skip(f"no {QUESTIONS}: data sets are no part of the repository")
    return sorted(map(json.loads, QUESTIONS.open(encoding="utf-8")), key=lambda row: len(row["question"]))


@pytest.fixture(scope="session")
def questions(rows, tmp_path_factory) -> Callable[[int], Path]:
    """questions(n) -> a file with so many."""

    def write(count: int) -> Path:
        path = tmp_path_factory.mktemp("questions") / f"first{count}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        return path

    return write


@pytest.fixture(scope="session")
def prompts(real_model, rows) -> list[Prompt]:
    """Questions as the model's own chat template has them; two ask for many words, two for few."""
    templates = [Template(load_tokenizer(str(real_model)), system) for system in (LONG, LONG, SHORT, SHORT)]
    asked = [row["question"] for row in rows[: len(templates)]]
    answers = [row["gold_answer"] for row in rows]
    return [Prompt(f"q{i}", asked[i], answers[i], template.tokens(asked[i])) for i, template in enumerate(templates)]


@pytest.fixture(scope="session")
def short_answers(real_model) -> list[str]:
    """Overrides for whoever asks the model without training it."""
    return [f"model.path={real_model}", "model.dtype=float32", f"system_prompt='{SHORT}'", "rollout.max_total_tokens=384"]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """scratch(name) -> a folder that does not stay: checkpoints of a real model are gigabytes."""
    made = []

    def make(name: str) -> Path:
        made.append(tmp_path_factory.mktemp(name))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)
