"""Verification of answers: the rule check, the pool of worker processes that runs it, and the judge."""

from megatron_oreal.verify.config import JudgeConfig, VerifyConfig
from megatron_oreal.verify.rules.equivalence import check, decide
from megatron_oreal.verify.verifier import Verifier

__all__ = ["JudgeConfig", "Verifier", "VerifyConfig", "check", "decide"]
