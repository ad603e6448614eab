"""Matrices that an answer adds, multiplies or takes the determinant of, worked out entry by entry."""

from fractions import Fraction

from megatron_oreal.verify.rules import syntax as s

MAX_SIDE = 6
MAX_DETERMINANT = 4
MAX_INVERTED = 3
MAX_POWER = 6
MAX_NODES = 4_000
"""An entry of a product of products grows with every factor."""


def worked_out(node):
    """The tree with its sums, products, multiples and determinants of matrices written out; as it is where they do not fit."""
    if not any(isinstance(n, s.Matrix) for n in s.walk(node)):
        return node
    node = s.rebuild(node, worked_out)
    if sum(1 for _ in s.walk(node)) > MAX_NODES:
        return node
    match node:
        case s.Add(terms) if all(isinstance(term, s.Matrix) for term in terms):
            return _sum(terms) or node
        case s.Mul(factors):
            return _product(factors) or node
        case s.Pow(s.Matrix(rows), s.Sym("T" | "\\top" | "\\intercal")):
            return s.Matrix(tuple(zip(*rows, strict=True)))
        case s.Pow(s.Matrix() as matrix, s.Num(power)) if power.denominator == 1 and 1 <= abs(power) <= MAX_POWER:
            return _power(matrix, int(power)) or node
        case s.Func("det", (s.Matrix(rows),)) if len(rows) == len(rows[0]) <= MAX_DETERMINANT:
            return _determinant(rows)
    return node


def _sum(matrices: tuple):
    shapes = {(len(matrix.rows), len(matrix.rows[0])) for matrix in matrices}
    if len(shapes) != 1:
        return None
    return s.Matrix(
        tuple(tuple(s.Add(cells) for cells in zip(*rows, strict=True)) for rows in zip(*(m.rows for m in matrices), strict=True))
    )


def _product(factors: tuple):
    matrices = [factor for factor in factors if isinstance(factor, s.Matrix)]
    scalars = tuple(factor for factor in factors if not isinstance(factor, s.Matrix))
    if not matrices or any(isinstance(n, (s.Bracketed, s.Listing, s.Relation, s.Sign)) for scalar in scalars for n in s.walk(scalar)):
        return None
    product = matrices[0].rows
    for matrix in matrices[1:]:
        if len(product[0]) != len(matrix.rows) or max(len(product), len(matrix.rows), len(matrix.rows[0])) > MAX_SIDE:
            return None
        columns = tuple(zip(*matrix.rows, strict=True))
        if sum(1 for row in product for cell in row for _ in s.walk(cell)) * len(columns) > MAX_NODES:
            return None
        product = tuple(tuple(s.Add(tuple(map(_times, row, column))) for column in columns) for row in product)
    return s.Matrix(tuple(tuple(s.Mul((*scalars, cell)) if scalars else cell for cell in row) for row in product))


def _power(matrix: s.Matrix, power: int):
    """Of a square matrix; a negative one of its inverse."""
    if len(matrix.rows) != len(matrix.rows[0]):
        return None
    base = matrix if power > 0 else _inverse(matrix)
    if base is None or power in (1, -1):
        return base
    product = worked_out(s.Mul((base,) * abs(power)))
    return product if isinstance(product, s.Matrix) else None


def _inverse(matrix: s.Matrix):
    """By cofactors, over the determinant."""
    rows, size = matrix.rows, len(matrix.rows)
    if size > MAX_INVERTED:
        return None
    determinant = _determinant(rows)
    if size == 1:
        return s.Matrix(((s.Div(s.Num(Fraction(1)), determinant),),))
    cells = [[s.Div(_cofactor(rows, column, row), determinant) for column in range(size)] for row in range(size)]
    return s.Matrix(tuple(map(tuple, cells)))


def _cofactor(rows: tuple, row: int, column: int):
    minor = tuple(line[:column] + line[column + 1 :] for place, line in enumerate(rows) if place != row)
    return _determinant(minor) if (row + column) % 2 == 0 else s.Mul((s.MINUS_ONE, _determinant(minor)))


def _times(left, right):
    return s.Mul((left, right))


def _determinant(rows: tuple):
    """By the first row."""
    if len(rows) == 1:
        return rows[0][0]
    terms = []
    for column, cell in enumerate(rows[0]):
        minor = tuple(tuple(row[:column] + row[column + 1 :]) for row in rows[1:])
        terms.append(s.Mul((cell, _determinant(minor)) if column % 2 == 0 else (s.MINUS_ONE, cell, _determinant(minor))))
    return s.Add(tuple(terms))
