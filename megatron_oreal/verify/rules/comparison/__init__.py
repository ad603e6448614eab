"""Whether two trees are the same answer. comparison: by their kinds; listings, sets, relations, ratios, families, piecewise: one kind
each, by its parts; forms, quantities, assignments, vectors, constants: one form for what is written in several ways; equations: the same up
to rearrangement; conventions: what another convention would make the same."""
