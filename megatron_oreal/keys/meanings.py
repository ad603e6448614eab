"""What keys mean: the comments of conf/*.yaml, where each stands behind its key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import yaml
from omegaconf import MISSING

from megatron_oreal.keys.compose import Source
from megatron_oreal.keys.files import LOADER, conf_dir


@dataclass(frozen=True)
class Key:
    """A key of a composed configuration that has a value of its own."""

    name: str  # dotted
    value: object
    meaning: str  # empty where no file says it

    @property
    def written(self) -> str:
        """As on a command line; a value that has to be given stands as `...`."""
        flow = yaml.safe_dump(self.value, default_flow_style=True, width=1 << 20, allow_unicode=True).removesuffix("\n...\n").strip()
        return f"{self.name}={'...' if self.value == MISSING else flow}"


def keys_with_meanings(composed: dict, files: Sequence[Source]) -> list[Key]:
    """All keys of a composed configuration; what an experiment says of a value follows what the key means."""
    said: dict[str, list[str]] = {}
    for source in files:
        for key, comment in _comments(source):
            said.setdefault(key, []).append(comment)
    return [Key(key, value, _together(said.get(key, []))) for key, value in _leaves(composed, "")]


def _together(comments: Sequence[str]) -> str:
    """The first is of the file that has the key; of those that change its value the last counts."""
    return "; here: ".join([*comments[:1], *comments[1:][-1:]])


def _leaves(section: dict, path: str) -> Iterator[tuple[str, object]]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _comments(source: Source) -> Iterator[tuple[str, str]]:
    """Dotted keys of a file, and the comment in the line of each that has one."""
    text = (conf_dir() / f"{source.file}.yaml").read_text(encoding="utf-8")
    root = yaml.compose(text, LOADER)
    if isinstance(root, yaml.MappingNode):
        yield from _comments_below(root, f"{source.package}." if source.package else "", text.splitlines())


def _comments_below(node: yaml.MappingNode, path: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key, value in node.value:
        end = value.end_mark if value.end_mark.line == key.end_mark.line else key.end_mark
        comment = lines[end.line][end.column :].partition("#")[2].strip()
        if comment:
            yield f"{path}{key.value}", comment
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _comments_below(value, f"{path}{key.value}.", lines)
