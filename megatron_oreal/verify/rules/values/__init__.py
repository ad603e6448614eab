"""What a tree is worth. scalars: equality of expressions, by rational, prime_field or probing (with numeric); realsets: equality of sets of
reals, with polynomials; matrices: written out; budget: how much of all this one comparison may cost."""
