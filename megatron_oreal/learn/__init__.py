"""Batch in, new weights out: ranks and groups, packing, pipeline schedules, the OREAL step, checkpoints."""
