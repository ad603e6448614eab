"""A shell's Tab: Hydra's own completion (https://hydra.cc/docs/1.3/tutorials/basic/running_your_app/tab_completion), a command at a time.

Hydra's plugin for a shell writes the function that the shell calls (`-sc install=bash`), and completes groups, keys, values and paths for
one configuration (`-sc query=bash`). What it does not know are commands: they are completed and taken out of the line here, and of its
answers only those are passed on that the command can take.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from importlib import import_module
from io import StringIO

from hydra.core.plugins import Plugins
from hydra.plugins.completion_plugin import CompletionPlugin

from megatron_oreal.cli import bench
from megatron_oreal.command import Command
from megatron_oreal.keys.compose import WHOLE, forced, groups_of, loader
from megatron_oreal.keys.files import sets_keys

LINE = "COMP_LINE"  # where the shell's function leaves what has been typed


def answer(asked: str, modules: Mapping[str, str]) -> None:
    """Print what `-sc` was asked for: "install=bash", "uninstall=bash", "query=bash". `modules`: of the commands.

    Raises:
        ValueError: it is none of these, or of a shell that Hydra does not know.
    """
    what, _, shell = asked.partition("=")
    with loader() as hydra:
        plugins = {plugin.provides(): plugin(hydra) for plugin in Plugins.instance().discover(CompletionPlugin)}
        if what not in ("install", "uninstall", "query") or shell not in plugins:
            raise ValueError(f"-sc {asked!r}: install=SHELL, uninstall=SHELL or query=SHELL; SHELL is one of {', '.join(sorted(plugins))}")
        if what != "query":
            getattr(plugins[shell], what)()
            return
    print("\n".join(candidates(os.environ[LINE], shell, modules)))


def candidates(line: str, shell: str, modules: Mapping[str, str]) -> list[str]:
    """What the last word of the line may become."""
    app, *words = line.split()
    last = "" if line.endswith(" ") or not words else words.pop()
    if not words:
        return [name for name in modules if name.startswith(last)]
    command = getattr(import_module(modules[words[0]]), "COMMAND", None) if words[0] in modules else None
    if command:
        return list(_fit(command, _of_hydra(command, shell, app, words[1:], last)))
    return [name for name in bench.names() if name.startswith(last)] if words == ["bench"] else []


def _of_hydra(command: Command, shell: str, app: str, overrides: Sequence[str], last: str) -> list[str]:
    """Its plugin's candidates. It reads the line from the environment, and prints."""
    given = [forced(one) for one in overrides if not one.startswith("-")]
    os.environ[LINE] = " ".join([app, *given, last])
    with loader() as hydra, redirect_stdout(StringIO()) as said:
        (plugin,) = (plugin for plugin in Plugins.instance().discover(CompletionPlugin) if plugin.provides() == shell)
        plugin(hydra).query(command.config)
    return said.getvalue().split()


def _fit(command: Command, words: Sequence[str]) -> Iterator[str]:
    """Those that this command can take: nothing of Hydra's own, and no group or experiment of another command."""
    known, groups = {field.name for field in fields(command.schema)}, groups_of(command.config)
    for word in words:
        name, equals, choice = word.lstrip("+~").partition("=")
        if name.split(".")[0] in known or (name in groups and not (choice and name in WHOLE and sets_keys(name, choice) - known)):
            yield word
