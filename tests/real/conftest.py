"""A real pretrained model, where there is one: `bash tests/run.sh -m real --real-model DIR`, a folder of some 0.5 B parameters."""

import json
from pathlib import Path

import pytest

from megatron_oreal.data.prompts import Template, load_tokenizer
from megatron_oreal.trajectory import Prompt

QUESTIONS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.jsonl"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@pytest.fixture(scope="session")
def real_model(pytestconfig) -> Path:
    folder = pytestconfig.getoption("--real-model")
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}: --real-model=DIR names a Hugging Face folder of Qwen2.5-0.5B's kind")
    return folder


@pytest.fixture(scope="session")
def prompts(real_model) -> list[Prompt]:
    """Questions of GSM8K as the model's own chat template has them."""
    if not QUESTIONS.is_file():
        pytest.skip(f"no {QUESTIONS}: data sets are no part of the repository")
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()[:4]]
    template = Template(load_tokenizer(str(real_model)), SYSTEM)
    return [Prompt(f"q{i}", row["question"], row["gold_answer"], template.tokens(row["question"])) for i, row in enumerate(rows)]
