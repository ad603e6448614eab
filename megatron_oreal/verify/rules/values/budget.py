"""What cannot be decided, and how much work is done to decide it."""

STEPS = 30_000


class CannotDecide(Exception):
    """Neither equal nor different could be shown within the limits."""


class Inexact(CannotDecide):
    """Not a rational number (or not a rational function), or one too long to write."""


class Undefined(CannotDecide):
    """Division by zero, a logarithm of zero, ..."""


class Budget:
    """Steps of evaluation left to one comparison of two answers, so that no answer costs more than a second."""

    def __init__(self, steps: int = STEPS):
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise CannotDecide("too much work")
