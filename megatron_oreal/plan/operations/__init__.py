"""Seconds of the operations of a model: what each costs, measured or stated; and what engines and training make of them."""
