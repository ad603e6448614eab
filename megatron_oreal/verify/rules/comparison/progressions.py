"""Lists with dots between their items: 1, 2, ..., 100 by its first, second and last."""

from megatron_oreal.verify.rules import syntax as s

_DOTS = s.Sym(s.ELLIPSIS)
MAX_WRITTEN_OUT = 24


def with_dots_filled(node):
    """The list written out, or with what stands right behind its first two items left out where it is long; all else as it is."""
    if not isinstance(node, s.Listing) or node.items.count(_DOTS) != 1:
        return node
    place = node.items.index(_DOTS)
    items = (*node.items[:place], *node.items[place + 1 :])
    if place < 2 or place != len(items) - 1 or not all(isinstance(item, s.Num) for item in items):
        return node
    first, second, *rest, last = (item.value for item in items)
    step = second - first
    if step == 0 or (last - first) % step or any(value != first + step * k for k, value in enumerate(rest, start=2)):
        return node
    count = (last - first) / step + 1
    if 2 < count <= MAX_WRITTEN_OUT:
        return s.Listing(tuple(s.Num(first + step * k) for k in range(int(count))), node.braced)
    return s.Listing((*items[:2], _DOTS, items[-1]), node.braced)
