"""The rule check in worker processes. worker: the process, within its limits; channel: what it hears and says; process: the parent's side
of it; pool: all workers, and what they said before."""
