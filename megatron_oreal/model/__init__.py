"""What is trained: Hugging Face config -> Megatron GPT, the one table of weight names, log-probabilities over a split vocabulary."""
