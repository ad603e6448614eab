"""From conf/ and a command line's overrides to values, by Hydra; what is wrong with the overrides is said in lines of our own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_oreal.keys import quoting
from megatron_oreal.keys.files import choices, conf_dir, file_of, is_group, sets_keys
from megatron_oreal.keys.nearest import hint

WHOLE = ("experiment", "debug")
"""Groups whose files are about the whole configuration."""


@dataclass(frozen=True)
class Source:
    """A file of conf/ that took part."""

    file: str  # below conf/, without .yaml
    package: str  # where its keys stand: "policy.optimizer"; "" for the top


@dataclass(frozen=True)
class Taken:
    """What a configuration is made of."""

    files: list[Source]  # each after those whose values it may change
    choices: dict[str, str | None]  # group -> the file taken of it, in the order of conf/<name>.yaml


@contextmanager
def loader() -> Iterator[ConfigLoader]:
    """Hydra's, for conf/."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def compose(name: str, overrides: Sequence[str], keys: Sequence[str]) -> dict:
    """conf/<name>.yaml with overrides. `keys`: the uppermost ones that it may have.

    Raises:
        ValueError: a line, or several, for what is wrong with the overrides; not what is wrong with the values.
    """
    wrong = [*quoting.unreadable(given := [_at_home(override) for override in overrides])] or [*_wrong_choices(name, given, keys)]
    if wrong:
        raise ValueError("\n".join(wrong))
    try:
        with loader():
            composed = hydra_compose(name, overrides=[forced(override) for override in given])
        return OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(" ".join(str(error).split()) + _literally(error, given)) from error


def taken(name: str, overrides: Sequence[str]) -> Taken:
    """What `compose` made the same of. Raises as Hydra where that would raise."""
    with loader() as hydra:
        found = hydra.compute_defaults_list(name, [forced(_at_home(one)) for one in overrides], RunMode.RUN)
    files = [Source(one.config_path, one.package or "") for one in found.defaults if not one.config_path.startswith("hydra/")]
    choices = reversed(found.overrides.known_choices.items())
    return Taken(files, {group: choice for group, choice in choices if not group.startswith("hydra/")})


def groups_of(name: str) -> dict[str, str | None]:
    """The groups that conf/<name>.yaml is made of, and what is chosen of each by default."""
    return taken(name, []).choices


def forced(override: str) -> str:
    """`a.b=x` as `++a.b=x`: keys of the user's own (rollout.server_args, eval.sets) need no plus, and unknown ones are ours to refuse."""
    path, equals, _ = override.partition("=")
    return f"++{override}" if equals and path[:1].isalpha() and not is_group(path) else override


def _at_home(override: str) -> str:
    """A value that begins with ~ as the string that it is: nothing in Hydra's grammar begins so."""
    key, equals, value = override.partition("=")
    return f"{key}={quoting.quoted(value)}" if equals and value.startswith("~") else override


def _wrong_choices(name: str, overrides: Sequence[str], keys: Sequence[str]) -> Iterator[str]:
    """Files of a group that are not there, are not for this command, or would lose what they set without a word."""
    chosen = [one for one in overrides if "=" in one and is_group(one.lstrip("+").partition("=")[0])]
    known = groups_of(name) if chosen else {}
    for override in chosen:
        group, _, choice = override.lstrip("+").partition("=")
        if choice in ("null", "") or choice[:1] == "[":
            continue
        if group not in known and not override.startswith("+"):
            yield f"{override}: there is no such choice here{hint(group, known)}"
        elif not file_of(group, choice).is_file():
            yield f"{override}: there is no conf/{group}/{choice}.yaml{hint(choice, there := choices(group))} ({', '.join(there)})"
        elif group in WHOLE and (strange := sets_keys(group, choice).difference(keys)):
            fit = [one for one in choices(group) if sets_keys(group, one) <= set(keys)]
            yield f"{override} is for another command: it sets {', '.join(sorted(strange))}; for this one: {', '.join(fit)}"


def lost_choices(composed: dict, overrides: Sequence[str]) -> Iterator[str]:
    """A group chosen on the command line (parallel=tp2) is composed before the experiment, whose own values would win without a word."""
    given = [override.lstrip("+").partition("=")[0] for override in overrides]
    for group, _, choice in (override.partition("=") for override in overrides):
        if not is_group(group) or group in WHOLE or not (file := file_of(group, choice)).is_file():
            continue
        own = OmegaConf.to_container(OmegaConf.load(file))
        if "defaults" not in own:
            continue  # a whole group, which an experiment may well add to
        for key, value in own.items():
            has, path = composed[group].get(key), f"{group}.{key}"
            if key != "defaults" and not isinstance(value, dict) and has != value and path not in given:
                yield f"{group}={choice} sets {path}={value}, but the experiment sets {has}; give {path}=... as well"


def _literally(error: Exception, overrides: Sequence[str]) -> str:
    """Where an interpolation failed that an override has in its value: how to write it if none was meant."""
    given = dict(override.lstrip("+").partition("=")[::2] for override in overrides)
    key = getattr(error, "full_key", None)
    return f"; if no interpolation was meant, write {quoting.in_shell(key, given[key])}" if "${" in given.get(key, "") else ""
