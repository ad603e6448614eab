"""Every leaf of every command's configuration: a wrong value is a line with its name; it is read, and a test varies it."""

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache, partial
from pathlib import Path

import pytest

from megatron_oreal.config import EvaluateConfig, PassrateConfig, SelectConfig, SftConfig, TrainConfig
from megatron_oreal.keys.compose import compose, groups_of
from megatron_oreal.keys.typed import Reading

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "train": (TrainConfig, ["model.path=M", "data.train=D"]),
    "sft": (SftConfig, ["model.path=M", "data.train=D"]),
    "evaluate": (EvaluateConfig, ["model.path=M", "eval.data=E"]),
    "passrate": (PassrateConfig, ["model.path=M", "questions=Q", "out=O"]),
    "select": (SelectConfig, ["answers=A", "out=O"]),
}
WORKS = {  # what is no number, no switch and no choice, and what 0 and null are said to mean in conf/
    0: "judge.temperature threshold eta beta min_lr warmup_steps weight_decay freeze_steps eval.samples validation validation_samples "
    "seed keep_best hf_interval",
    None: "vpp dp router admin_key_file judge.model judge.key_file judge.cache importance_cap eval.data patience project experiment uri "
    "kind memory_gib sync_copy resume recorded replay_step split answers release_memory length longest bench_steps",
    "text": "path data.train system_prompt stop_word bind admin_key_file judge.model judge.key_file judge.cache eval.data project "
    "experiment uri run_dir sync_copy resume questions split out answers",
}
NEEDED = [("evaluate", "eval.data", None), ("select", "answers", None)]  # by these commands: others go without
UNTOUCHED = {  # by tests as by their names; why
    "parallel.control_timeout_s": "a rank waits for it an hour; tests/test_lost_rank.py ends runs before",
}


@cache
def composed(command: str) -> dict:
    schema, given = COMMANDS[command]
    return compose(command, given, [field.name for field in fields(schema)])


def leaves(values: dict, path: str = "") -> Iterator[str]:
    """Dotted keys, those of sections as well."""
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")


def wrong_with(command: str, key: str, value: object) -> list[str]:
    """The lines that config.load has for it."""
    values = section = copy.deepcopy(composed(command))
    *sections, name = key.split(".")
    for one in sections:
        section = section[one]
    section[name] = value
    reading = Reading(COMMANDS[command][0], partial(groups_of, command), [])
    try:
        reading.read(values)
    except ValueError as error:
        return str(error).splitlines()
    return reading.wrong


@pytest.mark.parametrize("value", [0, -1, None, "text", float("nan"), float("inf"), 10**30])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_value_is_a_line_with_its_key(command, value):
    # An evaluation without questions is wrong, a run without one is not.
    works = [re.escape(name) for name in WORKS.get(value, "").split()]
    for key in leaves(composed(command)):
        wrong = wrong_with(command, key, value)
        if (command, key, value) not in NEEDED and any(re.search(rf"(^|\.){name}$", key) for name in works):
            assert not wrong, (key, wrong)
        else:
            assert any(line.startswith(key) for line in wrong), (key, value, wrong)


def test_every_leaf_is_read():
    """Somewhere beside the dataclass that types it and says what is allowed."""
    read = set()
    for path in (ROOT / "megatron_oreal").rglob("*.py"):
        tree = ast.parse(path.read_text())
        checks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "check"]
        within = {id(node) for check in checks for node in ast.walk(check)} if path.name in ("config.py", "objective.py") else set()
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and id(node) not in within}
    unread = {key for command in COMMANDS for key in leaves(composed(command)) if key.rpartition(".")[2] not in read}
    assert not unread


def test_every_leaf_is_varied_by_a_test_or_it_is_said_why_not():
    tests = "\n".join(
        path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__) and path.parent.name != "trials"
    )
    keys = {key for command in COMMANDS for key in leaves(composed(command))}

    def varied(key: str) -> bool:
        name = re.escape(key.rpartition(".")[2])
        return bool(re.search(rf'\b{re.escape(key)}\b|\b{name}=|"{name}"', tests))

    assert {key for key in keys if not varied(key)} == set(UNTOUCHED)
