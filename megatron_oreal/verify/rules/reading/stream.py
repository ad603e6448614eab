"""The parser's view of its tokens: look, take, and go one level deeper within a bound."""

from megatron_oreal.verify.rules.reading.lexer import CannotRead, Token

MAX_DEPTH = 40
END = Token("end of text", "")


class TokenStream:
    """Tokens with a position, and what surrounds it: depth, open bars, and whether a colon is a ratio here."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.position, self.depth, self.bars = tokens, 0, 0, 0
        self.colon_free = False  # inside { x : ... } the colon is no ratio

    @property
    def next(self) -> Token:
        return self.tokens[self.position] if self.position < len(self.tokens) else END

    def peek(self, ahead: int) -> Token:
        return self.tokens[self.position + ahead] if self.position + ahead < len(self.tokens) else END

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

    def deeper(self, read, *arguments):
        """One level down; depth is bounded so that no answer exhausts the stack."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CannotRead("nested too deep")
        node = read(*arguments)
        self.depth -= 1
        return node
