"""What users ask of a plan: what each number of GPUs buys, what costs most and what would change it, a picture."""
