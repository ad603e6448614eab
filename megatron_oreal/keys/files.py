"""Where the Hydra configs are, and what there is to choose."""

from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's is ten times as fast, where PyYAML has it."""


def conf_dir() -> Path:
    """The Hydra configs: beside the package in a checkout, inside it in an installed wheel."""
    inside = Path(__file__).resolve().parents[1] / "conf"
    return inside if inside.is_dir() else inside.parents[1] / "conf"


def is_group(name: str) -> bool:
    """Whether a file of conf/<name>/ is chosen by name=FILE (or name@PACKAGE=FILE)."""
    return bool(name) and (conf_dir() / name.partition("@")[0]).is_dir()


def file_of(group: str, choice: str) -> Path:
    """There may be no such file."""
    return conf_dir() / group.partition("@")[0] / f"{choice}.yaml"


def choices(group: str) -> list[str]:
    """The files of a group, without .yaml."""
    return sorted(path.stem for path in file_of(group, "").parent.glob("*.yaml"))


def sets_keys(group: str, choice: str) -> set[str]:
    """The uppermost keys that a file for the whole configuration (an experiment) sets, with those of the files that it changes."""
    content = yaml.load(file_of(group, choice).read_text(encoding="utf-8"), LOADER) or {}
    changed = [one for one in content.pop("defaults", []) if isinstance(one, str) and one != "_self_"]
    return set(content).union(*(sets_keys(group, one) for one in changed))


def what_it_is(group: str, choice: str) -> str:
    """The first sentence of the comment that a file begins with; empty where it has none."""
    lines = file_of(group, choice).read_text(encoding="utf-8").splitlines()
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comments.append(line.lstrip("# "))
    return " ".join(comments).partition(". ")[0].rstrip(".")
