"""LaTeX -> syntax tree: normalize -> lexer -> parser, which derives from operands, these from functions, blocks, brackets and stream.

vocabulary, numerals and units: what the words and signs are.
"""
