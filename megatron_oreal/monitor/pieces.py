"""What each token of a response stands for, so that the pieces end to end are its text."""

from collections.abc import Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""Decoded from bytes that are no whole character; a character may be spread over several tokens."""
LONGEST = 8
"""Tokens after which bytes are taken to be no character at all: one has at most four bytes."""


class Pieces:
    """Decodes token by token, each kind of token once. The tokenizer is a Hugging Face one."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, token_ids: Sequence[int]) -> list[str]:
        """[tokens] -> [tokens] strings. A character spread over tokens stands with its last one, the others get "".

        Tokenizers that write a token differently at a text's start (SentencePiece) are decoded in context, which is slower.
        """
        pieces, run = [], []
        for token in token_ids:
            run.append(token)
            piece = self._single(token) if len(run) == 1 else self._decode(run)
            if INCOMPLETE in piece and len(run) < LONGEST:
                pieces.append("")
                continue
            pieces.append(piece)
            run = []
        if run:
            pieces[-1] = self._decode(run)
        return pieces if "".join(pieces) == self._decode(token_ids) else self._in_context(token_ids)

    def _single(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = self._decode([token])
        return self._known[token]

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _in_context(self, token_ids: Sequence[int]) -> list[str]:
        """Each token after the few before it: what it adds to their text, once that ends with a whole character."""
        pieces, before, shown = [], 0, 0
        for end in range(1, len(token_ids) + 1):
            known, text = self._decode(token_ids[before:shown]), self._decode(token_ids[before:end])
            if text.endswith(INCOMPLETE) and end - shown < LONGEST and end < len(token_ids):
                pieces.append("")
                continue
            pieces.append(text[len(known) :])
            before, shown = shown, end
        return pieces
