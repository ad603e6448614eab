"""Tokens -> syntax tree, by recursive descent. Depth and length are bounded; nothing is evaluated."""

import re
from fractions import Fraction

from megatron_oreal.verify import syntax as s
from megatron_oreal.verify.lexer import CannotRead, Token, tokenize
from megatron_oreal.verify.units import CANONICAL, canonical_unit, is_unit
from megatron_oreal.verify.vocabulary import words

MAX_DEPTH = 40
MAX_EXPONENT_OF_TEN = 3000
RELATIONS = words("= < > ≤ ≥ ≠ ∈ ∉ ≈ ≡ ~ ≅ ⊂ ⊆ → ⇒ ⇔ ∝ ⊥ ∥")
_ORDER = frozenset("<>≤≥≠∈")
_NEGATED = {"=": "≠", "∈": "∉"}
_MATRICES = words("matrix pmatrix bmatrix Bmatrix smallmatrix array")
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sec": "arcsec", "csc": "arccsc"}
_TRIGONOMETRIC = words("sin cos tan cot sec csc")
_APPLIED = frozenset("fghpqFGHPQRST")
_MINUS = s.Num(Fraction(-1))
_BASED = re.compile(r"(-?)([0-9A-Z]+)_\s*(?:\{\s*)?(?:\\(?:text|mathrm)\s*\{\s*)?(\d{1,2})\s*\}*")
_END = Token("end of text", "")


def parse(text: str, thousands: bool = True):
    """Syntax tree of a normalised answer; raises CannotRead where the grammar has no place for it."""
    based = _BASED.fullmatch(text)
    if based and based.group(2)[-1:].isalnum() and any(c.isdigit() for c in based.group(2)):
        return s.Based(based.group(2).lstrip("0") or "0", int(based.group(3)), bool(based.group(1)))
    parser = _Parser(tokenize(text, thousands))
    tree = parser.stacked(parser.listing())
    if parser.next is not _END:
        raise CannotRead(f"{parser.next.text!r} is left over")
    return tree


def number(text: str) -> Fraction:
    """Exact value of a number token: 1,234  .5  2.  0.1\\overline{6}  1.6e-19."""
    text = text.replace(",", "").replace(" ", "")
    mantissa, _, exponent = text.lower().partition("e") if "\\" not in text else (text, "", "")
    if abs(int(exponent or 0)) > MAX_EXPONENT_OF_TEN:
        raise CannotRead("an exponent of ten beyond reading")
    repeating = re.fullmatch(r"(\d*)\.?(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?(?:\\dot(\d))?", mantissa)
    if repeating is None:
        return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
    whole, fixed, period = repeating.group(1) or "0", repeating.group(2), repeating.group(3) + (repeating.group(4) or "")
    if "." not in mantissa:
        raise CannotRead("a repeating number without a point")
    tail = Fraction(int(period), 10 ** len(period) - 1)
    return Fraction(int(whole)) + (Fraction(int(fixed or "0")) + tail) / 10 ** len(fixed)


class _Parser:
    def __init__(self, tokens: list[Token]):
        self.tokens, self.position, self.depth, self.bars = tokens, 0, 0, 0
        self.colon_free = False  # inside { x : ... } the colon is no ratio

    # -- reading tokens

    @property
    def next(self) -> Token:
        return self.tokens[self.position] if self.position < len(self.tokens) else _END

    def peek(self, ahead: int) -> Token:
        return self.tokens[self.position + ahead] if self.position + ahead < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.next
        self.position += 1
        return token

    def at(self, *texts: str) -> bool:
        return self.next.kind == "op" and self.next.text in texts

    def accept(self, *texts: str) -> bool:
        if self.at(*texts):
            self.position += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        if not self.at(*texts):
            raise CannotRead(f"{' or '.join(texts)} expected, not {self.next.text!r}")
        return self.take().text

    # -- lists, relations, sets

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
        items, separators = [self.item()], set()
        while self.at(",") or self.next.kind == "sep":
            while self.at(",") or self.next.kind == "sep":
                separators.add(self.take().text)
            if self.next is _END:
                raise CannotRead("a list that ends with a separator")
            items.append(self.item())
        if len(items) == 1:
            return items[0]
        if all(isinstance(item, s.Relation) and set(item.ops) <= _ORDER for item in items) and separators in ({"or"}, {"and"}):
            return s.SetOp("∪" if separators == {"or"} else "∩", tuple(items))
        return s.Listing(tuple(items), braced=False)

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
        while self.at(":") and not self.colon_free:
            self.take()
            parts.append(self.sum())
        if len(parts) == 1:
            return parts[0]
        last = parts[-1]
        if isinstance(last, s.Quantity):  # 3:15 p.m.
            return s.Quantity(s.Ratio((*parts[:-1], last.value)), last.unit)
        return s.Ratio(tuple(parts))

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
        factor = _MINUS if sign == "-" else s.Sign(1 if sign == "±" else -1)
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
                left, mixed = _times(left, self.factor()), self.could_be_mixed()
            elif self.at("/"):
                self.take()
                left, mixed = s.Div(left, self.factor()), False
            elif self.at("mod"):
                self.take()
                left, mixed = s.Func("mod", (left, self.factor())), False
            elif self.next.kind == "word" and not self.at_lone_letter():
                left, mixed = s.Quantity(left, self.unit()), False
            elif self.next.kind == "cur" and self.peek(1).kind != "num":
                left, mixed = s.Quantity(left, self.take().text), False
            elif self.next.kind == "num" and self.tokens[self.position - 1].text not in ("!", ")", "}"):
                left, mixed = self.mixed_number(left, mixed), False
            elif self.starts_factor():
                left, mixed = self.juxtaposed(left, mixed), False
            else:
                return left

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
        return _add_to_last(left, s.Div(s.Num(Fraction(top.text)), s.Num(Fraction(bottom.text))))

    def juxtaposed(self, left, mixed: bool):
        fraction = self.next == Token("cmd", "frac")
        right = self.factor()
        if fraction and mixed and isinstance(right, s.Div) and isinstance(right.top, s.Num) and isinstance(right.bottom, s.Num):
            top, bottom = right.top.value, right.bottom.value
            if 0 < top < bottom and top.denominator == bottom.denominator == 1:
                return _add_to_last(left, right)
        return _times(left, right)

    def starts_factor(self) -> bool:
        kind, text = self.next
        if kind == "op":
            return text in ("(", "[", "{", "⌊", "⌈") or (text == "|" and self.bars == 0 and not self.colon_free)
        return kind in ("num", "sym", "const", "fn", "cmd", "begin") or (kind == "word" and self.at_lone_letter())

    def unit(self) -> str:
        """Words after a value, with powers and quotients."""
        parts = []
        while True:
            if self.next.kind == "word":
                parts.append(self.take().text)
            elif parts and self.at("^"):
                self.take()
                parts.append(self.unit_power())
            elif parts and self.at("/", "*", "-") and self.peek(1).kind == "word":
                parts.append(self.take().text)
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

    # -- factors

    def factor(self):
        if self.accept("-"):
            return _times(_MINUS, self.deeper(self.factor))
        if self.accept("+"):
            return self.deeper(self.factor)
        if self.next.kind == "cur":
            unit = self.take().text
            return s.Quantity(self.deeper(self.factor), unit)
        return self.postfix(self.deeper(self.primary))

    def postfix(self, node):
        while self.next.kind == "op":
            if self.at("^"):
                self.take()
                node = self.power(node)
            elif self.at("!"):
                self.take()
                if self.at("!"):
                    raise CannotRead("a double factorial")
                node = s.Func("factorial", (node,))
            elif self.at("°"):
                self.take()
                if self.next.text in ("C", "F") and self.next.kind in ("sym", "word"):
                    self.take()
                node = s.Func("degrees", (node,))
            elif self.at("%"):
                self.take()
                node = s.Quantity(node, "percent")
            elif self.at("'") and isinstance(node, s.Sym):
                self.take()
                node = self.applied(node.name, s.Sym(node.name + "'"), "'")
            elif self.at("_"):
                self.take()
                node = self.subscripted(node)
            else:
                break
        return node

    def power(self, base):
        if self.accept("*"):
            return s.Sym(base.name + "*") if isinstance(base, s.Sym) else base
        exponent = self.argument(single_digit=False)
        if self.at("^"):  # a^b^c is a^(b^c)
            exponent = self.deeper(self.postfix, exponent)
        if exponent == s.Sym("'"):
            return s.Sym(base.name + "'") if isinstance(base, s.Sym) else base
        if isinstance(base, s.Quantity):
            return s.Quantity(s.Pow(base.value, exponent), base.unit)
        if isinstance(base, s.Sym) and exponent == _MINUS:
            return self.applied(base.name, s.Pow(base, exponent), "^-1")
        return s.Pow(base, exponent)

    def subscripted(self, node):
        start = self.position
        if self.accept("{"):
            level = 1
            while level:
                token = self.take()
                if token is _END:
                    raise CannotRead("an open subscript")
                level += (token.text == "{") - (token.text == "}")
            name = "".join(token.text for token in self.tokens[start + 1 : self.position - 1])
        else:
            name = self.take().text
        if isinstance(node, s.Num) and node.value.denominator == 1 and name.isdigit() and int(name) <= 99:
            return s.Based(str(node.value), int(name))
        if isinstance(node, (s.Sym, s.Const)) and name:
            return s.Sym(f"{node.name}_{name}")
        raise CannotRead("a subscript of what is no letter")

    def argument(self, single_digit: bool):
        """Of a command or of ^: a braced group, or the next thing (one digit of a number for \\frac12)."""
        if self.at("{"):
            return self.braces()
        kind, text = self.next
        if kind == "num" and single_digit and len(text) > 1:
            if not text.isdigit():
                raise CannotRead("\\frac before a decimal")
            self.tokens[self.position] = Token("num", text[1:])
            return s.Num(Fraction(text[0]))
        if kind == "op" and text == "-":
            self.take()
            return _times(_MINUS, self.argument(single_digit))
        if kind == "op" and text == "'":
            self.take()
            return s.Sym("'")
        return self.deeper(self.primary)

    def deeper(self, read, *arguments):
        """One level down; depth is bounded so that no answer exhausts the stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotRead("nested too deep")
        node = read(*arguments)
        self.depth -= 1
        return node

    def primary(self):
        kind, text = self.next
        if kind == "op":
            return self.opened(text)
        if kind == "word":
            return self.phrase()
        self.take()
        if kind == "num":
            return s.Num(number(text))
        if kind == "sym":
            return self.symbol(text)
        if kind == "const":
            return s.Const(text)
        if kind == "fn":
            return self.function(text)
        if kind == "cmd":
            return self.command(text)
        if kind == "begin":
            return self.environment(text)
        raise CannotRead(f"{text!r} is out of place")

    def opened(self, text: str):
        if text in ("(", "[", "]"):
            return self.brackets()
        if text == r"\{":
            return self.set_braces()
        if text == "{":
            return self.braces()
        if text == "|":
            self.take()
            self.bars += 1
            inner = self.sum()
            self.expect("|")
            self.bars -= 1
            return s.Func("abs", (inner,))
        if text in ("⌊", "⌈"):
            self.take()
            inner = self.sum()
            self.expect("⌋" if text == "⌊" else "⌉")
            return s.Func("floor" if text == "⌊" else "ceil", (inner,))
        raise CannotRead(f"{text!r} is out of place")

    def inside(self, colon_free: bool = False):
        """A listing in fresh brackets: bars and colons outside do not reach in."""
        bars, colon, self.bars, self.colon_free = self.bars, self.colon_free, 0, colon_free
        inner = self.listing()
        self.bars, self.colon_free = bars, colon
        return inner

    def brackets(self):
        left = "[" if self.take().text == "[" else "("  # ]a, b[ is open
        if left == "(" and self.tokens[self.position - 1].text == "(" and self.at(")"):
            raise CannotRead("empty brackets")
        inner = self.inside()
        right = self.expect(")", "]", "[")
        right = "]" if right == "]" else ")"
        if isinstance(inner, s.Listing) and not inner.braced:
            return s.Bracketed(left, inner.items, right)
        if (left, right) in (("(", ")"), ("[", "]")):
            return inner
        raise CannotRead("brackets that do not match")

    def set_braces(self):
        self.take()
        if self.accept(r"\}"):
            return s.Sym("emptyset")
        inner = self.inside(colon_free=True)
        if self.accept(":", "|"):
            inner = s.Condition(inner, self.inside())
            self.expect(r"\}")
            return inner
        self.expect(r"\}")
        return s.Listing(inner.items if isinstance(inner, s.Listing) and not inner.braced else (inner,), braced=True)

    def braces(self):
        self.expect("{")
        if self.accept("}"):
            return self.deeper(self.primary)  # { }26: an empty group before the value
        inner = self.stacked(self.inside())
        self.expect("}")
        if isinstance(inner, s.Listing) and not inner.braced:
            return s.Listing(inner.items, braced=True)
        return inner

    def stacked(self, upper):
        """n \\choose k, a \\over b."""
        if self.accept("choose"):
            return s.Func("binom", (upper, self.inside()))
        return s.Div(upper, self.inside()) if self.accept("over") else upper

    def symbol(self, name: str):
        return self.applied(name, s.Sym(name), "")

    def applied(self, name: str, plain, mark: str):
        """f(x), f'(x) or f^{-1}(x) where a bracket with a letter or number follows the name of a function."""
        simple = self.at("(") and self.peek(2).text in (")", ",") and self.peek(1).kind in ("sym", "num", "const", "word")
        if name not in _APPLIED or not simple:
            return plain
        inner = self.brackets()
        return s.Apply(name + mark, inner.items if isinstance(inner, s.Bracketed) else (inner,))

    def phrase(self):
        """Words where a value could stand: a name, a sentence, a label."""
        first = self.next.text
        if len(first) == 1 and self.peek(1).kind not in ("word", "num"):
            self.take()
            return s.Const(first) if first in "ei" else self.symbol(first)
        if CANONICAL.get(first.lower()) in ("dollar", "rupee", "euro") and self.peek(1).kind == "num":
            return s.Quantity((self.take(), self.factor())[1], CANONICAL[first.lower()])
        parts = []
        while self.next.kind in ("word", "num", "sym", "const"):
            parts.append(self.take().text.lower())
        return s.Sym(" ".join(parts), text=True)

    # -- commands

    def command(self, name: str):
        if name == "frac":
            return s.Div(self.argument(True), self.argument(True))
        if name == "binom":
            return s.Func("binom", (self.argument(True), self.argument(True)))
        degree = s.Num(Fraction(2))
        if self.accept("["):
            degree = self.inside()
            self.expect("]")
        return s.Func("root", (self.argument(single_digit=False), degree))

    def function(self, name: str):
        base = power = None
        for _ in range(2):
            if self.accept("_"):
                base = self.argument(single_digit=False)
            elif self.accept("^"):
                power = self.argument(single_digit=False)
        if power == _MINUS and name in _INVERSE:
            name, power = _INVERSE[name], None
        node = self.call(name, base, self.function_argument())
        return node if power is None else s.Pow(node, power)

    def call(self, name: str, base, argument):
        if name in ("max", "min", "gcd", "lcm"):
            return s.Func(name, argument.items if isinstance(argument, (s.Bracketed, s.Listing)) else (argument,))
        if name in ("log", "lg", "ln"):
            name, base = ("ln", base) if name == "ln" or base is not None else ("log", base)
            logarithm = s.Func(name, (argument,))
            return logarithm if base is None else s.Div(logarithm, s.Func("ln", (base,)))
        if name in _TRIGONOMETRIC and any(isinstance(n, s.Func) and n.name == "degrees" for n in s.walk(argument)):
            argument = _radians(argument)
        return s.Pow(s.Const("e"), argument) if name == "exp" else s.Func(name, (argument,))

    def function_argument(self):
        """A bracketed group, or the factors that follow up to the next sign, function or bracket."""
        if self.at("(", "[", "{", "|", r"\{"):
            if self.at("{") or self.at("|"):
                return self.postfix(self.deeper(self.primary))
            return self.brackets() if self.at("(", "[") else self.set_braces()
        node = self.factor()
        while self.next.kind in ("sym", "const", "cmd"):
            node = _times(node, self.factor())
        return node

    def environment(self, name: str):
        if name not in _MATRICES and name != "vmatrix":
            raise CannotRead(f"the environment {name!r}")
        rows, row = [], []
        while self.next.kind != "end":
            if self.accept("row"):
                rows, row = ([*rows, tuple(row)] if row else rows), []
            elif not self.accept("&"):
                row.append(self.inside())
        self.take()
        rows = [*rows, tuple(row)] if row else rows
        if not rows or len({len(row) for row in rows}) != 1:
            raise CannotRead("rows of different lengths")
        return s.Func("det", (s.Matrix(tuple(rows)),)) if name == "vmatrix" else s.Matrix(tuple(rows))


def _in_order(group):
    """`p = 5, q = 2` between semicolons is one solution: its values in order."""
    if not isinstance(group, s.Listing):
        return group
    assigned = all(isinstance(item, s.Relation) and item.ops == ("=",) for item in group.items)
    return s.Bracketed("(", tuple(item.sides[1] if assigned else item for item in group.items), ")")


def _times(left, right):
    if isinstance(left, s.Quantity) or isinstance(right, s.Quantity):
        units = [n.unit for n in (left, right) if isinstance(n, s.Quantity)]
        plain = [n.value if isinstance(n, s.Quantity) else n for n in (left, right)]
        return s.Quantity(_times(*plain), units[0] if len(units) == 1 else "")
    return s.Mul((*left.factors, right)) if isinstance(left, s.Mul) else s.Mul((left, right))


def _add_to_last(node, fraction):
    """Turn the last factor, a whole number, into a mixed number."""
    if isinstance(node, s.Mul):
        return s.Mul((*node.factors[:-1], s.Add((node.factors[-1], fraction))))
    return s.Add((node, fraction))


def _radians(node):
    if isinstance(node, s.Func) and node.name == "degrees":
        return s.Mul((node.args[0], s.Const("pi"), s.Num(Fraction(1, 180))))
    return s.rebuild(node, _radians)
