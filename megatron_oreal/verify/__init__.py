"""Verification of answers: the rule check, and the pool of worker processes that runs it."""

from megatron_oreal.verify.equivalence import check, decide
from megatron_oreal.verify.pool import Verifier, VerifyConfig

__all__ = ["Verifier", "VerifyConfig", "check", "decide"]
