"""Answers of models that were not taught to box: in tags, behind "the answer is", or the last formula or number of the last sentence."""

import re

TAIL_CHARS = 4_000
"""Of the end of a response; a final answer is stated there, in whichever way."""
MAX_ANSWER = 400
MAX_SENTENCES = 3

_TAGGED = re.compile(r"<answer>\s*(.*?)\s*</answer>|<\|begin_of_box\|>\s*(.*?)\s*<\|end_of_box\|>", re.DOTALL)
_STATED = re.compile(
    r"(?:\b(?:final |correct )?(?:answer|solution)(?: to (?:this|the) (?:problem|question))?\**\s*(?:is|was|would be|equals|[:=])"
    r"|####|\b(?:so|hence|therefore|thus),? (?:we get|the result is)"
    r"|(?:所以|因此|最终|正确)?(?:答案|结果)\s*(?:是|为|[:：=])|故?选\s*[:：]?(?=\s*[A-J$\\(])|答え\s*(?:は|[:：])"
    r"|\b(?:la )?réponse(?: finale)?\s*(?:est|[:：])|\b(?:la )?respuesta(?: final)?\s*(?:es|:)"
    r"|\b(?:die )?(?:endgültige )?antwort\s*(?:ist|lautet|:)"
    r"|\b(?:a )?resposta(?: final)?\s*(?:é|:)|\b(?:la )?risposta(?: finale)?\s*(?:è|:)"
    r"|\bответ\s*[:—-])\s*\**\s*[:：]?\s*\**\s*",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\*\*([^*\n]{1,80})\*\*", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_END = re.compile(r"(?:\.|。|!)(?=\s|$)|\n|,\s(?=[a-z]{2})|\s(?=I hope|because|since\b)")
_OPEN_BOX = re.compile(r"\\+(?:boxed|fbox)\s*\{?")
_JOINING = re.compile(r"[\s,;.:]*(?:and|or|和|或|et|und|y|и)?[\s,;.:]*", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?。])\s+|\n+")
_CHOICE = re.compile(r"\(?\*{0,2}([A-J])\*{0,2}\)?(?=[\s.,)*:]|$)")


def answer_anywhere(text: str) -> str | None:
    """The answer in a text without a box: the last that is tagged or stated, else what ends the last sentence; None where none is there."""
    tail = text[-TAIL_CHARS:]
    tagged = list(_TAGGED.finditer(tail))
    if tagged:
        return _cleaned(tagged[-1].group(1) or tagged[-1].group(2) or "")
    for stated in reversed(list(_STATED.finditer(tail))):
        answer = _statement(tail[stated.end() : stated.end() + MAX_ANSWER])
        if answer:
            return answer
    return _last_of(tail)


def _statement(text: str) -> str | None:
    """What a statement of the answer says, up to the end of its sentence."""
    formulas = []
    position = 0
    for match in _FORMULA.finditer(text):
        if not _JOINING.fullmatch(text[position : match.start()]):
            break
        formulas.append(text[position : match.end()])
        position = match.end()
    if formulas:
        return _cleaned("".join(formulas))
    choice = _CHOICE.match(text)
    if choice:
        return choice.group(1)
    end = _END.search(text)
    return _cleaned(text[: end.start()] if end else text)


def _last_of(text: str) -> str | None:
    """The last formula, else the last number, of the last sentence that has one of them."""
    text = text.strip()
    masked = _FORMULA.sub(lambda match: "\0" * len(match.group()), text)  # a full stop in a formula ends no sentence
    starts = [0, *(match.end() for match in _SENTENCE.finditer(masked))][-MAX_SENTENCES:]
    for start, end in zip(reversed(starts), reversed([*starts[1:], len(text)]), strict=True):
        formulas = list(_FORMULA.finditer(text, start, end))
        if formulas:
            return _cleaned(next(group for group in formulas[-1].groups() if group))
        numbers = list(_NUMBER.finditer(text, start, end))
        if numbers:
            return _cleaned(numbers[-1].group())
    return None


def _cleaned(text: str) -> str | None:
    """Without delimiters, Markdown, the beginning of a box that never ends, and the full stop."""
    text = _OPEN_BOX.sub("", text)
    text = re.sub(r"\$\$?|\\[\[\]()]|\*\*", " ", text) if "\\$" not in text else text
    return " ".join(text.strip().strip("*`").rstrip(".。").split()) or None
