"""Questions in, prompts out: sets in any usual form read strictly, mixed, balanced by difficulty, drawn in an order that can be resumed."""
