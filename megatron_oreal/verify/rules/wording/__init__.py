"""Answers in people's words, rewritten as LaTeX before they are read: labels, remarks, number words, families, units, other languages.

rewording is the one entrance and says in which order; vocabulary, what words do to a value; choices, clock, dates, measures and phrases
read whole answers that need no parser. Nothing here knows syntax trees, and a text that no pattern fits stays as it is.
"""
