"""A run as one HTML file: curves, where the time goes, trajectories with their token weights."""
