"""What happens in a run: console, metrics and trackers, costs of a step, traces, recorded trajectories."""
