"""megatron_oreal: outcome-reward reinforcement learning (OREAL, arXiv 2502.06781) on Megatron-Core and SGLang."""

__version__ = "0.1.0"
