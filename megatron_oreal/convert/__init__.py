"""Checkpoints between Hugging Face and Megatron, streamed: command is `megatron-oreal convert`, job does it."""
