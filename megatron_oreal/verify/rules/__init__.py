"""The rule check. equivalence: the ladder from equal strings to probing; text: its rungs that need no parser; syntax: an answer's tree.

Rooms: comparison asks whether two trees are the same answer, values what a tree is worth, reading makes it of LaTeX, and wording makes
LaTeX of people's words. comparison imports from values, and from wording the words that change a value; wording imports from reading;
reading and values import from syntax alone.
"""
