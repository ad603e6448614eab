"""The OREAL objective on plain tensors (arXiv 2502.06781): no Megatron, no process groups, no configuration files.

rewards -> advantages -> select -> token RM scores -> token_weights -> policy_loss, token_rm_loss

To be read first: reference.py, a whole iteration in plain torch and transformers, which nothing of the package imports.
"""

from megatron_oreal.oreal.advantage import advantages
from megatron_oreal.oreal.losses import PolicyLoss, policy_loss, token_rm_loss
from megatron_oreal.oreal.mismatch import Mismatch, importance_weights, mismatch
from megatron_oreal.oreal.objective import Counts, Objective
from megatron_oreal.oreal.selection import Selection, select
from megatron_oreal.oreal.token_weights import TokenWeights, response_positions, token_weights

__all__ = [
    "Counts",
    "Mismatch",
    "Objective",
    "PolicyLoss",
    "Selection",
    "TokenWeights",
    "advantages",
    "importance_weights",
    "mismatch",
    "policy_loss",
    "response_positions",
    "select",
    "token_rm_loss",
    "token_weights",
]
