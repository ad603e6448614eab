"""Rank 0 coordinates, the other ranks work: what rank 0 alone has (coordinator.py), and how its word reaches all (workers.py)."""
