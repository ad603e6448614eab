"""Tokens -> syntax tree, by recursive descent. Depth and length are bounded; nothing is evaluated."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s
from megatron_oreal.verify.rules.reading.lexer import CannotRead, Token, tokenize
from megatron_oreal.verify.rules.reading.numerals import SCALES, SCALES_OF_PARTS, based
from megatron_oreal.verify.rules.reading.operands import Operands
from megatron_oreal.verify.rules.reading.stream import END
from megatron_oreal.verify.rules.reading.units import CANONICAL, canonical_unit, is_unit
from megatron_oreal.verify.rules.reading.vocabulary import words

RELATIONS = words("= < > ≤ ≥ ≠ ∈ ∉ ≈ ≡ ~ ≅ ⊂ ⊆ → ⇒ ⇔ ∝ ⊥ ∥")
_ORDER = frozenset("<>≤≥≠∈")
_THOUSANDS_OF_MONEY = words("k K m M B b bn mn mil")
_STATEMENTS = frozenset(map(s.Sym, "pqrPQ"))
_NEGATED = {"=": "≠", "∈": "∉"}


def parse(text: str, thousands: bool = True):
    """Syntax tree of a normalised answer; raises CannotRead where the grammar has no place for it."""
    digits = based(text)
    if digits:
        return digits
    parser = _Parser(tokenize(text, thousands))
    tree = parser.stacked(parser.listing())
    if parser.next is not END:
        raise CannotRead(f"{parser.next.text!r} is left over")
    return tree


class _Parser(Operands):
    """Lists, relations, sets, sums and products."""

    def listing(self):
        """group (; group)*"""
        groups = [self.deeper(self.group)]
        while self.accept(";"):
            groups.append(self.deeper(self.group))
        if len(groups) == 1:
            return groups[0]
        if any(isinstance(group, s.Listing) for group in groups):
            return s.Listing(tuple(map(_in_order, groups)), braced=False)
        return s.Listing(tuple(groups), braced=False)

    def group(self):
        """item (, item)*, the items of a listing between semicolons"""
        items, separators, alternatives = [self.item()], set(), []
        while self.at(",") or self.next.kind == "sep":
            between = set()
            while self.at(",") or self.next.kind == "sep":
                between.add(self.take().text)
            if self.next is END:
                raise CannotRead("a list that ends with a separator")
            if "or" in between:
                alternatives.append(len(items))
            separators |= between
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if separators <= {"and", "or"} and all(item in _STATEMENTS for item in items):
            return s.Func(" ".join(sorted(separators)), tuple(items))  # p \\land q
        solutions = _solutions(items, alternatives)
        if solutions:
            return s.Listing(solutions, braced=True)
        relations = [set(item.ops) for item in items if isinstance(item, s.Relation)]
        ordered = len(relations) == len(items) and set().union(*relations) <= {*_ORDER, "="} and any(ops & _ORDER for ops in relations)
        if ordered and separators in ({"or"}, {"and"}):
            return s.SetOp("∪" if separators == {"or"} else "∩", tuple(items))
        return s.Listing(tuple(items), braced=separators == {"or"})  # alternatives have no order

    def item(self):
        """side (relation side)*"""
        sides, ops = [None if self.next.text in RELATIONS or self.at("not") else self.union()], []
        while self.next.kind == "op" and (self.next.text in RELATIONS or self.next.text == "not"):
            op = self.take().text
            op = _NEGATED.get(self.take().text, "?") if op == "not" else op
            ops.append(op)
            sides.append(self.union())
        return s.Relation(tuple(ops), tuple(sides)) if ops else sides[0]

    def union(self):
        left = self.ratio()
        while self.at("∪", "∩", "∖"):
            op = self.take().text
            right = self.ratio()
            same = isinstance(left, s.SetOp) and left.op == op and op != "∖"
            left = s.SetOp(op, (*left.parts, right) if same else (left, right))
        return left

    def ratio(self):
        parts = [self.sum()]
        start = self.position - 1
        while (self.at(":") and not self.colon_free) or self.next == Token("word", "to"):
            self.take()
            parts.append(self.sum())
        if len(parts) == 1:
            return parts[0]
        clock = len(parts) == 2 and _is_clock(*(token.text for token in self.tokens[start : start + 3 : 2]))
        last = parts[-1]
        if isinstance(last, s.Quantity):  # 3:15 p.m.
            return s.Quantity(s.Ratio((*parts[:-1], last.value), clock), last.unit)
        return s.Ratio(tuple(parts), clock)

    # -- sums and products

    def sum(self):
        terms = [self.signed_term(first=True)]
        while self.at("+", "-", "±", "∓"):
            terms.append(self.signed_term(first=False))
        return terms[0] if len(terms) == 1 else s.Add(tuple(terms))

    def signed_term(self, first: bool):
        sign = self.take().text if self.at("+", "-", "±", "∓") else "+"
        term = self.term()
        if sign == "+":
            return term
        factor = s.MINUS_ONE if sign == "-" else s.Sign(1 if sign == "±" else -1)
        if isinstance(term, s.Quantity):
            return s.Quantity(s.Mul((factor, term.value)), term.unit)
        if isinstance(term, s.Num) and sign == "-":
            return s.Num(-term.value)
        if isinstance(term, s.Based) and sign == "-":
            return s.Based(term.digits, term.base, not term.negative)
        return s.Mul((factor, term))

    def term(self):
        left, mixed = self.factor(), self.could_be_mixed()
        while True:
            if self.at("*"):
                self.take()
                left, mixed = s.times(left, self.factor()), self.could_be_mixed()
            elif self.at("/") and not (isinstance(left, s.Quantity) and self.peek(1).kind in ("word", "unit")):
                self.take()
                left, mixed = s.Div(left, self.factor()), False
            elif self.at("mod"):
                self.take()
                left, mixed = s.Func("mod", (left, self.factor())), False
            elif self.next.kind == "word" and self.next.text.lower() in SCALES:
                left, mixed = s.times(left, s.Num(Fraction(SCALES[self.take().text.lower()]))), False
            elif self.next.kind == "word" and self.next.text.lower() in SCALES_OF_PARTS:
                left, mixed = s.times(left, s.Num(SCALES_OF_PARTS[self.take().text.lower()])), False
            elif self.at_unit():
                if isinstance(left, s.Quantity) and self.next.text in _THOUSANDS_OF_MONEY:
                    raise CannotRead("$5M, in millions or not")
                left, mixed = s.Quantity(left, self.unit()), False
            elif isinstance(left, s.Quantity) and self.at("/") and self.peek(1).kind == "word":
                left, mixed = self.rate(left), False
            elif self.next.kind == "cur" and self.peek(1).kind != "num":
                left, mixed = s.Quantity(left, self.take().text), False
            elif self.next.kind == "num" and self.tokens[self.position - 1].kind == "const":
                left, mixed = s.times(left, self.factor()), False  # i4
            elif self.next.kind == "num" and self.tokens[self.position - 1].kind == "sym" and self.peek(1).text == "^":
                left, mixed = s.times(left, self.factor()), False  # n2^{n-1}
            elif self.next.kind == "num" and self.tokens[self.position - 1].text not in ("!", ")", "}"):
                left, mixed = self.mixed_number(left, mixed), False
            elif self.starts_factor():
                left, mixed = self.juxtaposed(left, mixed), False
            else:
                return left

    def at_unit(self) -> bool:
        return self.next.kind == "unit" or (self.next.kind == "word" and not self.at_lone_letter() and self.next.text != "to")

    def rate(self, money: s.Quantity):
        """$5 / hour."""
        self.take()
        unit = self.unit()
        return s.Quantity(money.value, money.unit if money.unit else unit)

    def at_lone_letter(self) -> bool:
        """A letter in \\text that is no unit: a variable."""
        text = self.next.text
        return len(text) == 1 and text.lower() not in CANONICAL and self.peek(1).kind != "word"

    def could_be_mixed(self) -> bool:
        """The factor just read was a bare whole number."""
        token = self.tokens[self.position - 1]
        return token.kind == "num" and token.text.isdigit()

    def mixed_number(self, left, mixed: bool):
        """3 1/2: a whole number before a written fraction."""
        top, slash, bottom = self.take(), self.take(), self.take()
        if not (mixed and slash.text == "/" and top.text.isdigit() and bottom.text.isdigit() and 0 < int(top.text) < int(bottom.text)):
            raise CannotRead("two numbers side by side")
        return self.postfix(_add_to_last(left, s.Div(s.Num(Fraction(top.text)), s.Num(Fraction(bottom.text)))))

    def juxtaposed(self, left, mixed: bool):
        fraction = self.next == Token("cmd", "frac")
        right = self.factor()
        unit = isinstance(right, s.Quantity)
        part = right.value if unit else right
        if fraction and mixed and isinstance(part, s.Div) and isinstance(part.top, s.Num) and isinstance(part.bottom, s.Num):
            top, bottom = part.top.value, part.bottom.value
            if 0 < top < bottom and top.denominator == bottom.denominator == 1:
                whole = _add_to_last(left, part)
                return s.Quantity(whole, right.unit) if unit else whole
        words_per_words = _unit_fraction(right)
        return s.Quantity(left, words_per_words) if words_per_words is not None else s.times(left, right)

    def starts_factor(self) -> bool:
        kind, text = self.next
        if kind == "op":
            return text in ("(", "[", "{", "⌊", "⌈", "∑", "∏", "∫") or (text == "|" and self.bars == 0 and not self.colon_free)
        return kind in ("num", "sym", "const", "fn", "cmd", "begin") or (kind == "word" and self.at_lone_letter())

    def unit(self) -> str:
        """Words after a value, with powers and quotients."""
        parts = []
        while True:
            if self.next.kind == "word":
                parts.append(self.take().text)
            elif self.next.kind == "unit":
                parts.extend(self.take().text.split())
            elif parts and self.at("^"):
                self.take()
                parts.append(self.unit_power())
            elif parts and self.at("/", "*", "-") and self.peek(1).kind in ("word", "unit"):
                parts.append(self.take().text)
            elif parts and self.at("/") and self.peek(1).text == "(" and self.peek(2).kind in ("word", "unit"):
                parts.extend((self.take().text, self.take().text))
            elif parts and self.at(")") and "(" in parts:
                parts.append(self.take().text)
            elif parts and self.at("/") and self.peek(1).kind == "sym" and self.peek(1).text in CANONICAL:
                parts.extend((self.take().text, self.take().text))
            else:
                break
        if not is_unit(parts):
            raise CannotRead(f"{' '.join(parts)!r} is no unit")
        return canonical_unit(parts)

    def unit_power(self) -> str:
        braced = self.accept("{")
        sign = "-" if self.accept("-") else ""
        token = self.take()
        if token.kind != "num" or (braced and not self.accept("}")):
            raise CannotRead("the power of a unit")
        return sign + token.text


def _solutions(items: list, alternatives: list[int]) -> tuple | None:
    """`x = 1, y = 2 or x = 2, y = 1`, and systems joined by `or`: a tuple for each; None where the alternatives are no such solutions."""
    parts = [items[start:end] for start, end in zip([0, *alternatives], [*alternatives, len(items)], strict=True)] if alternatives else []
    groups = [part[0].items if len(part) == 1 and isinstance(part[0], s.Listing) else tuple(part) for part in parts]
    if not groups or any(len(group) < 2 or not all(map(_is_equation, group)) for group in groups):
        return None
    names = [sorted(repr(item.sides[0]) for item in group) for group in groups]
    if any(name != names[0] for name in names) or len(set(names[0])) < len(names[0]):
        return None
    ordered = [sorted(group, key=lambda item: repr(item.sides[0])) for group in groups]
    return tuple(s.Bracketed("(", tuple(item.sides[1] for item in group), ")") for group in ordered)


def _is_equation(node) -> bool:
    return isinstance(node, s.Relation) and node.ops == ("=",) and node.sides[0] is not None


def _is_clock(hours: str, minutes: str) -> bool:
    """What may be a time of day: 12:00 and 4:05, written with two digits."""
    return hours.isdigit() and int(hours) <= 24 and minutes.isdigit() and len(minutes) == 2 and int(minutes) < 60


def _unit_fraction(node) -> str | None:
    """\\frac{\\text{mi}}{\\text{h}} as a unit; None where the fraction is none of words."""
    if not isinstance(node, s.Div) or not all(isinstance(part, s.Sym) and part.text for part in (node.top, node.bottom)):
        return None
    parts = [*node.top.name.split(), "/", *node.bottom.name.split()]
    return canonical_unit(parts) if is_unit(parts) else None


def _in_order(group):
    """`p = 5, q = 2` between semicolons is one solution: its values in order."""
    if not isinstance(group, s.Listing):
        return group
    assigned = all(map(_is_equation, group.items))
    return s.Bracketed("(", tuple(item.sides[1] if assigned else item for item in group.items), ")")


def _add_to_last(node, fraction):
    """Turn the last factor, a whole number, into a mixed number."""
    if isinstance(node, s.Mul):
        return s.Mul((*node.factors[:-1], s.Add((node.factors[-1], fraction))))
    return s.Add((node, fraction))
