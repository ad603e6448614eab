"""A machine without GPUs: what a run holds of its memory, what would fit, and the refusal at the start."""
