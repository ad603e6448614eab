"""What a run needs, before it is queued: memory of each rank, seconds of a step, other layouts that fit."""
