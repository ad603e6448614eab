"""How often a model answers each question right: command is `megatron-oreal passrate`, measure does it."""
