"""The objective against golden vectors: values and gradients to 1e-9 in float64, for every *.npz of --golden-dir.

A file holds whole trajectories laid end to end (prompt_len + response_len positions each). logits[i] predicts tokens[i + 1] of the same
trajectory; rm_scores[i] is the score at position i; weights are over response tokens; loss_negative includes eta, loss_kl includes beta.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_oreal.oreal.advantage import advantages
from megatron_oreal.oreal.losses import policy_loss, token_rm_loss
from megatron_oreal.oreal.objective import Counts, Objective
from megatron_oreal.oreal.token_weights import response_positions, token_weights

CLOSE = {"rtol": 0, "atol": 1e-9}
PRESETS = {"released": Objective.released, "paper": Objective.paper}
FIELD_OF = {"kl_coef": "beta", "shaping": "advantage"}


@dataclass
class Golden:
    objective: Objective
    arrays: dict[str, Tensor]
    lengths: list[int]  # response lengths
    score_index: Tensor  # [response tokens] positions in rm_scores
    token_index: Tensor  # [response tokens] positions in tokens; logits are one before

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]


def objective_of(config: dict) -> Objective:
    """A file's config; keys are the objective's fields or the authors' names for them, anything else is an error."""
    changes = {FIELD_OF.get(key, key): value for key, value in config.items() if key != "mode"}
    unknown = set(changes) - {f.name for f in fields(Objective)}
    assert not unknown, f"the golden file's config has unknown keys {sorted(unknown)}"
    return PRESETS[config["mode"]](**changes)


def load(path: Path) -> Golden:
    with np.load(path, allow_pickle=False) as file:
        objective = objective_of(json.loads(str(file["config"])))
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "config"}
    prompts, responses = arrays["prompt_len"].tolist(), arrays["response_len"].tolist()
    starts = np.cumsum([0, *(p + r for p, r in zip(prompts, responses, strict=True))])[:-1].tolist()

    def index(position: str) -> Tensor:
        parts = zip(starts, prompts, responses, strict=True)
        return torch.tensor([start + i for start, p, r in parts for i in response_positions(p, r, position)])

    return Golden(objective, arrays, responses, index(objective.score_position), index("token"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_path" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--golden-dir")
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            raise pytest.UsageError(f"--golden-dir {folder} holds no *.npz file")
        metafunc.parametrize("golden_path", paths, ids=[path.stem for path in paths])


@pytest.fixture
def golden(golden_path: Path) -> Golden:
    return load(golden_path)


def golden_counts(golden: Golden) -> Counts:
    return Counts.from_rewards(golden["rewards"].tolist(), golden.lengths)


def golden_weights(golden: Golden):
    if not golden.objective.token_rm:
        return None
    return token_weights(golden["rm_scores"][golden.score_index], golden.lengths, golden.objective)


def golden_logprobs(golden: Golden, logits: Tensor) -> Tensor:
    rows = torch.log_softmax(logits, -1)[golden.token_index - 1]
    return rows.gather(-1, golden["tokens"][golden.token_index, None]).squeeze(-1)


def test_golden_advantages(golden: Golden):
    everything = advantages(golden["all_rewards"].view(-1, int(golden["k"])), golden.objective.advantage).flatten()
    torch.testing.assert_close(everything, golden["all_advantages"], **CLOSE)
    torch.testing.assert_close(everything[golden["kept"]], golden["advantages"], **CLOSE)


def test_golden_token_weights(golden: Golden):
    weights = golden_weights(golden)
    if weights is None:
        assert bool((golden["weight_pos"] == 1).all() and (golden["weight_neg"] == 1).all())
        return
    torch.testing.assert_close(weights.positive, golden["weight_pos"], **CLOSE)
    torch.testing.assert_close(weights.negative, golden["weight_neg"], **CLOSE)


def test_golden_policy_loss(golden: Golden):
    logits = golden["logits"].clone().requires_grad_()
    loss = policy_loss(
        golden_logprobs(golden, logits),
        golden_logprobs(golden, golden["ref_logits"]),
        golden_weights(golden),
        golden.lengths,
        golden["rewards"],
        golden["advantages"],
        golden["pass_rate"],
        golden_counts(golden),
        golden.objective,
    )
    loss.total.backward()
    for part in ("positive", "negative", "kl", "total"):
        torch.testing.assert_close(getattr(loss, part).detach(), golden[f"loss_{part}"], **CLOSE)
    torch.testing.assert_close(logits.grad, golden["grad_logits"], **CLOSE)


def test_golden_token_rm_loss(golden: Golden):
    if not golden.objective.token_rm:
        assert bool(golden["loss_token_rm"].isnan())
        return
    scores = golden["rm_scores"].clone().requires_grad_()
    loss = token_rm_loss(scores[golden.score_index], golden.lengths, golden["rewards"], golden_counts(golden))
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden["loss_token_rm"], **CLOSE)
    torch.testing.assert_close(scores.grad, golden["grad_rm"], **CLOSE)
