"""`megatron-oreal` as a person starts it: every command's help, the nearest command, a pipe that is closed, a shell's Tab."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_oreal.cli import complete, main
from tests import runs

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "megatron_oreal.cli.main"]
CONFIGURED = [name for name in main.COMMANDS if name not in ("convert", "report", "bench")]
WITH_MODEL = [name for name in CONFIGURED if name != "select"]


def test_no_help_needs_torch():
    """Nor any configuration: half a second is what a person waits."""
    asked = "".join(f"run([{name!r}, '--help'])\n" for name in CONFIGURED)
    program = f"import sys\nfrom megatron_oreal.cli.main import run\nrun(['--help'])\n{asked}assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", WITH_MODEL)
def test_help_has_examples_main_keys_and_the_way_to_all(capsys, name):
    assert main.main([name, "--help", "model.path=MINE"]) == 0
    said = capsys.readouterr().out
    assert f"usage: megatron-oreal {name}" in said and f" megatron-oreal {name} " in said.partition("\n\n")[2]
    assert "  model.path=MINE " in said and "a Hugging Face folder" in said and f"megatron-oreal {name} --keys" in said
    assert main.main([name, "--keys"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 40


def test_help_of_select_has_examples_and_all_of_its_keys(capsys):
    assert main.main(["select", "--help", "by=nearest", "length=600"]) == 0
    said = capsys.readouterr().out
    assert "usage: megatron-oreal select" in said and "megatron-oreal select answers=ANSWERS.jsonl out=SFT.jsonl" in said
    assert "  by=nearest " in said and "  length=600 " in said and "the most responses to one question" in said


def test_help_is_of_the_experiment_that_is_given(capsys):
    assert main.main(["train", "experiment=demo", "--help"]) == 0
    said = capsys.readouterr().out
    assert "  steps=30 " in said and "  experiment=oreal_7b " in said and "demo_sft" not in said
    assert main.main(["sft", "--help"]) == 0
    assert "  experiment=demo_sft " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "'trian' is no command; did you mean train?"),
        (["plan", "--serach"], "unrecognized arguments: --serach; did you mean --search?"),
        (["plan", "experiment=oreal7b"], "did you mean oreal_7b?"),
        (["bench", "pakcing"], "'pakcing' is no bench; did you mean packing?"),
        (["report"], "the following arguments are required: RUN"),
        (["convert", "hf-to-megatro"], "invalid choice: 'hf-to-megatro'"),
        (["-sc", "install=tcsh"], "one of bash, fish, zsh"),
    ],
)
def test_wrong_commands_and_options_are_one_line(capsys, arguments, said):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_tools_are_doors_to_the_same_code(tmp_path):
    """From any folder, and with relative paths."""
    (tmp_path / "m").mkdir()
    for arguments in (["plan", "experiment=small", "--cfg"], ["doctor", "--help"], ["passrate", "--cfg"], ["report", "m"], ["convert"]):
        door = [sys.executable, str(ROOT / "tools" / f"{arguments[0]}.py"), *arguments[1:]]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        one, other = (
            subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
            for command in (door, [*COMMAND, *arguments])
        )
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr), arguments
        assert one.stdout or one.stderr.startswith("error: "), arguments


@pytest.mark.parametrize("arguments", ["--help", "plan experiment=small", "train --keys", "bench --help"])
def test_a_closed_pipe_ends_what_only_prints_without_a_word(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *arguments.split()], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert done.returncode in (0, 141) and done.stderr == ""


def first_line_of(*overrides: str, module: str) -> tuple[str, int, str]:
    """Of a run whose output nobody reads after that, as with `| head -1`; its status, and what it still said."""
    with runs.start(*overrides, module=module, stderr=subprocess.PIPE) as run:
        line = run.stdout.readline()
        run.stdout.close()
        error = run.stderr.read()
        return line, run.wait(runs.RUN_DEADLINE_S), error


def test_a_supervised_start_whose_output_nobody_reads_goes_on_to_its_end(task, tmp_path):
    given = [
        f"model.path={task / 'base'}",
        f"data.train={task / 'sft.jsonl'}",
        f"run_dir={tmp_path}",
        "steps=20",
        "optimizer.warmup_steps=2",
        "log_interval=1",
    ]
    line, *ended = first_line_of("experiment=demo_sft", "parallel=auto", "parallel.dp=1", *given, module="megatron_oreal.sft")
    assert line.startswith("compute: ") and ended == [0, ""]
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_a_training_run_whose_output_nobody_reads_goes_on_to_its_end(task, tmp_path):
    given = [f"model.path={task / 'base'}", f"data.train={task / 'train.jsonl'}", f"run_dir={tmp_path}", "data.balance=[]", "steps=3"]
    line, *ended = first_line_of("experiment=demo", "debug=fast", *given, module="megatron_oreal.train")
    assert line and ended == [0, ""]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) >= 3


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", set(main.COMMANDS)),
        ("pl", {"plan"}),
        ("train exp", {"experiment="}),
        ("train experiment=oreal_3", {"experiment=oreal_32b", "experiment=oreal_32b_64gpu"}),
        ("sft experiment=demo_s", {"experiment=demo_sft"}),
        ("sel", {"select"}),
        ("select per", {"per_question="}),
        ("train objective=", {"objective=paper", "objective=released"}),
        ("train experiment=demo steps=", {"steps=30"}),
        ("train rollout.server_args.own=1 policy.opt", {"policy.optimizer."}),
        ("plan plan.leng", {"plan.lengths."}),
        ("plan --json experiment=small plan.gpus_per", {"plan.gpus_per_host="}),
        ("train plan.leng", set()),
        ("train hydr", set()),
        ("bench pac", {"packing"}),
        ("report x", set()),
    ],
)
def test_what_a_word_may_become(line, expected):
    modules = {name: module for name, (module, _) in main.COMMANDS.items()}
    assert set(complete.candidates(f"megatron-oreal {line}", "bash", modules)) == expected
