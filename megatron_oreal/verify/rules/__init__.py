"""The rule check. equivalence: the ladder from equal strings to probing; text: its rungs that need no parser; syntax: an answer's tree.

Rooms: comparison asks whether two trees are the same answer, values what a tree is worth, reading makes it of LaTeX. comparison imports
from values; reading and values import from syntax alone.
"""
