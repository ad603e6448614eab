"""Golden vectors as the tests read them.

A file holds whole trajectories laid end to end (prompt_len + response_len positions each). logits[i] predicts tokens[i + 1] of the same
trajectory; rm_scores[i] is the score at position i; weights are over response tokens; loss_negative includes eta, loss_kl includes beta.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megatron_oreal.oreal.objective import Objective
from megatron_oreal.oreal.token_weights import response_positions

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
