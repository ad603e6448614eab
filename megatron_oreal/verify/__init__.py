"""Verification of answers; README.md draws the way of one answer through the rooms.

verifier, round: trajectories in, groups of verdicts out; judge, pool: who is asked; rules: what is compared; extraction: the answer in a
response. Each imports only from those after it, and judge and pool not from each other.
"""

from megatron_oreal.verify.config import JudgeConfig, VerifyConfig
from megatron_oreal.verify.rules.equivalence import check, decide
from megatron_oreal.verify.verifier import Verifier

__all__ = ["JudgeConfig", "Verifier", "VerifyConfig", "check", "decide"]
