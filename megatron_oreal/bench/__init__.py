"""`debug=bench`: what the training steps of a run take in its own layout, beside what the planner says of them."""
