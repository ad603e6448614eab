"""Prompts in, trajectories out as they finish: who is asked what, what is cut and goes on."""
