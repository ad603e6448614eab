"""Checkpoints between Hugging Face and Megatron, streamed: see tools/convert.py."""

from megatron_oreal.convert.job import Job, check_hf, check_megatron, compare, to_hf, to_megatron
from megatron_oreal.convert.megatron_files import MegatronFolder
from megatron_oreal.model.hf_files import HFFolder

__all__ = ["HFFolder", "Job", "MegatronFolder", "check_hf", "check_megatron", "compare", "to_hf", "to_megatron"]
