"""What of the models is in host memory: between their turns (resting), or always, where the CPU updates it (adam)."""
