"""Families over an integer: 5k + 2, \\pi/6 + 2k\\pi, congruences; the same where they run through the same numbers."""

from fractions import Fraction
from math import lcm

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.comparison.parts import PartByPart
from megatron_oreal.verify.rules.values.budget import CannotDecide
from megatron_oreal.verify.rules.values.numeric import Numeric, close, context

PARAMETER = "integers 1"
MAX_RESIDUES = 400
MAX_RATIO = 60
"""Of two periods, in lowest terms: above and below."""
_PLACES = (0, 1, 2, 3, 4, 5, 9, 14)


def as_family(node):
    """x \\equiv 3 (mod 7) as x = 7k + 3, where the modulus is a whole number; all else as it is."""
    match node:
        case s.Relation(("≡",), (name, value)):
            rest, modulus = _rest_and_modulus(value)
            if not isinstance(modulus, s.Num) or modulus.value.denominator != 1 or modulus.value < 2:
                return node
            value = s.Add((s.Mul((modulus, s.Sym(PARAMETER))), rest))
            return value if name is None else s.Relation(("=",), (name, value))
        case s.Listing(items, braced) if any(_is_congruence(item) for item in items):
            return s.Listing(tuple(map(as_family, _with_modulus(items))), braced)
    return node


def _rest_and_modulus(node) -> tuple:
    """-4 mod 7 and k + 1 mod 7: what is written last carries the modulus of all."""
    match node:
        case s.Func("mod", (rest, modulus)):
            return rest, modulus
        case s.Mul((*parts, last)) | s.Add((*parts, last)):
            rest, modulus = _rest_and_modulus(last)
            return type(node)((*parts, rest)), modulus
    return node, None


def _is_congruence(node) -> bool:
    return isinstance(node, s.Relation) and node.ops == ("≡",)


def _with_modulus(items: tuple) -> list:
    """n \\equiv 1, 4 (mod 5): the modulus at the end, and the name at the beginning, stand for all."""
    named, modulus, out = None, None, []
    for item in items:
        if _is_congruence(item):
            named = item.sides[0]
        out.append(item if isinstance(item, s.Relation) else s.Relation(("≡",), (named, item)))
    for place in range(len(out) - 1, -1, -1):
        name, value = out[place].sides[0], out[place].sides[-1]
        rest, stated = _rest_and_modulus(value)
        modulus = stated or modulus
        if modulus is not None and _is_congruence(out[place]):
            out[place] = s.Relation(("≡",), (name, s.Func("mod", (rest, modulus))))
    return out


def rest_as_congruence(node, other):
    """3 (mod 7) beside a family: without its left side."""
    if isinstance(node, s.Func) and node.name == "mod" and has_parameter(other):
        return as_family(s.Relation(("≡",), (None, node)))
    return node


def has_parameter(node) -> bool:
    return any(isinstance(n, s.Sym) and n.name == PARAMETER for n in s.walk(node))


class Families(PartByPart):
    """Compares families over the integers."""

    def same_family(self, gold, answer) -> bool | None:
        """Whether two families run through the same numbers; None where one of them is not linear in its one parameter."""
        ours, theirs = _members(gold), _members(answer)
        names = {name for name, _ in (*ours, *theirs) if name is not None}
        if len(names) > 1:
            return None
        try:
            mine, others = (self.pieces([value for _, value in members]) for members in (ours, theirs))
        except (CannotDecide, ZeroDivisionError, OverflowError, ValueError):
            return None
        return None if not mine or not others else _same_numbers(mine, others)

    def pieces(self, values: list) -> list[tuple] | None:
        """Period and start of what each runs through; two for one with (-1)^k. None where one does not run so."""
        found = []
        for value in values:
            if s.symbols(value) != {PARAMETER}:
                return None
            at = [Numeric({PARAMETER: context().mpf(k)}, self.budget, complex_plane=False)(value) for k in _PLACES]
            pieces = _linear(dict(zip(_PLACES, at, strict=True)))
            if pieces is None:
                return None
            found.extend(pieces)
        return found


def _members(node) -> list[tuple]:
    """Name (or None) and value of each part, plus-minus signs written out."""
    items = node.items if isinstance(node, s.Listing) else (node,)
    members = []
    for item in items:
        if isinstance(item, s.Quantity):
            item = item.value
        name = None
        if isinstance(item, s.Relation) and item.ops == ("=",) and isinstance(item.sides[0], s.Sym):
            name, item = item.sides
        signs = (1, -1) if any(isinstance(n, s.Sign) for n in s.walk(item)) else (1,)
        members.extend((name, s.with_sign(item, sign)) for sign in signs)
    return members


def _linear(at: dict) -> list[tuple] | None:
    mp = context()
    for parts in ([_PLACES], [(0, 2, 4, 14), (1, 3, 5, 9)]):
        pieces = []
        for places in parts:
            step = (at[places[1]] - at[places[0]]) / (places[1] - places[0])
            straight = all(close(at[place], at[places[0]] + step * (place - places[0]), mp) for place in places)
            if not straight or close(step, mp.mpf(0), mp) or step.imag or at[places[0]].imag:
                break
            width = abs(step) * (2 if len(parts) == 2 else 1)
            pieces.append((width, at[places[0]]))
        else:
            return pieces
    return None


def _same_numbers(ours: list[tuple], theirs: list[tuple]) -> bool | None:
    """By the remainders modulo a common period; None where there is none, or too many of them."""
    mp = context()
    unit = min(width for width, _ in (*ours, *theirs))
    ratios = [_ratio(width / unit, mp) for width, _ in (*ours, *theirs)]
    if None in ratios:
        return None
    scale = lcm(*(ratio.denominator for ratio in ratios))
    period = lcm(*(int(ratio * scale) for ratio in ratios))
    if sum(Fraction(period, scale) / ratio for ratio in ratios) > MAX_RESIDUES:
        return None
    whole = unit * period / scale
    one, other = (_remainders(pieces, whole, mp) for pieces in (ours, theirs))
    return len(one) == len(other) and all(close(a + whole, b + whole, mp) for a, b in zip(one, other, strict=True))


def _ratio(value, mp) -> Fraction | None:
    for bottom in range(1, MAX_RATIO + 1):
        top = mp.nint(value * bottom)
        if close(top, value * bottom, mp):
            return Fraction(int(top), bottom) if top <= MAX_RATIO * bottom else None
    return None


def _remainders(pieces: list[tuple], period, mp) -> list:
    found = []
    for width, start in pieces:
        for k in range(int(mp.nint(period / width))):
            value = start + k * width
            rest = (value - period * mp.floor(value / period)).real
            found.append(mp.mpf(0) if close(rest, period, mp) or abs(rest) < period * mp.mpf(10) ** -70 else rest)
    found.sort()
    return [value for place, value in enumerate(found) if place == 0 or not close(value + period, found[place - 1] + period, mp)]
