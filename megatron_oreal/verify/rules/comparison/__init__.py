"""Whether two trees are the same answer. comparison: by their kinds; listings, sets, relations, ratios: one kind each, by its parts;
forms, quantities, assignments: one form for what is written in several ways; equations: the same up to rearrangement."""
