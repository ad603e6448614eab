"""Questions in, prompts out: read strictly, balanced by difficulty, drawn in an order that can be resumed."""
