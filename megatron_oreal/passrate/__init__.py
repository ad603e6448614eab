"""How often a model answers each question right (`megatron-oreal passrate`, done by measure), and supervised examples of its answers
(`megatron-oreal select`, done by rejection)."""
