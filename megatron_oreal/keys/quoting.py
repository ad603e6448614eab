"""Overrides that Hydra's grammar cannot read, and how to write them so that it does.

https://hydra.cc/docs/1.3/advanced/override_grammar/basic: a value with =, ~, brackets, braces, parentheses, commas, quotes or whatever
is no ASCII letter must be quoted for Hydra, and those quotes once more for the shell.
"""

import re
import shlex
import sys
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from megatron_oreal.keys.files import choices


def unreadable(overrides: Sequence[str]) -> Iterator[str]:
    """What is wrong with the way in which overrides are written: a line each, with a way that works."""
    for number, override in enumerate(overrides):
        key, equals, value = override.partition("=")
        if not _decoded(override):
            advice = "export LC_ALL=C.UTF-8, or rename what is called so"
            yield f"{override!r} holds bytes that are not {sys.getfilesystemencoding()}, which is what this locale has; {advice}"
        elif not equals and not override.startswith("~"):
            if number + 1 == len(overrides) or "=" in overrides[number + 1]:  # the last of several such words
                yield f"{override!r} is no key=value{_meant(overrides[:number], override)}"
        elif key.strip("+~") == "" or parsed(f"{key}=1" if equals else override) is None:
            yield f"{override!r}: Hydra can read no such key as {key!r}"
        elif equals and ((read := parsed(override)) is None or read.is_sweep_override()):
            listed = f", or {pasted(f'{key}=[{value}]')} for a list" if read and getattr(read.value(), "simple_form", False) else ""
            yield f"{override!r}: Hydra cannot read this value; in a shell write {in_shell(key, value)}{listed}"


def _decoded(override: str) -> bool:
    """Python keeps as surrogates what the locale could not decode of a command line."""
    return not any("\udc80" <= one <= "\udcff" for one in override)


def parsed(override: str) -> Override | None:
    """None where Hydra cannot read it."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quoted(value: str) -> str:
    """As Hydra's grammar has it for a string: in quotes, and no part of it an interpolation."""
    plain = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", value)
    return QuotedString(plain, Quote.single if '"' in value and "'" not in value else Quote.double).with_quotes()


def pasted(argument: str) -> str:
    """An argument as it is written on a line of bash; what cannot be printed is escaped."""
    if argument.isprintable():
        return shlex.quote(argument)
    return "$'" + "".join(one if one.isprintable() and one not in "\\'" else f"\\U{ord(one):08x}" for one in argument) + "'"


def in_shell(key: str, value: str) -> str:
    """How `key` is given this value in bash: of a list or a dictionary each string in it as it stands."""
    written = next((one for one in _elements_quoted(value) if parsed(f"{key}={one}")), quoted(value))
    return pasted(f"{key}={written}")


def _elements_quoted(value: str) -> Iterator[str]:
    """What a list or a dictionary may be with quotes around those of its strings that need them; nothing for any other value."""
    if (value[:1], value[-1:]) not in (("[", "]"), ("{", "}")):
        return

    def element(found: re.Match) -> str:
        key, text = found[1] or "", found[2].strip()
        return key + (text if parsed(f"key={text}") else quoted(text))

    yield re.sub(r"([^\[\]{},:]+:\s+)?([^\[\]{},]+)", element, value)
    yield f"{value[0]}{re.sub(r'([^{},:]+:[ ]+)?([^,]+)', element, value[1:-1])}{value[-1]}"  # brackets that belong to a string: http://[::1]


def _meant(before: Sequence[str], word: str) -> str:
    """Of a word without =: the rest of a value with a space in it, or an experiment."""
    if word in choices("experiment"):
        return f"; did you mean experiment={word}?"
    start = next((i for i in reversed(range(len(before))) if "=" in before[i]), None)
    if start is None:
        return ""
    key, _, value = " ".join([*before[start:], word]).partition("=")
    whole = pasted(f"{key}={value}") if parsed(f"{key}={value}") else in_shell(key, value)
    return f"; if it belongs to the value before it, write {whole}"
