"""The preflight check: what it finds on one node, and what two nodes (two processes here) find together."""

import json
import os
import resource
import shutil
import socket
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import torch

from megatron_oreal.doctor import command as doctor
from megatron_oreal.doctor import links, network
from megatron_oreal.doctor.findings import ERROR, OK, WARNING, Findings
from megatron_oreal.doctor.limits import JIT_CACHES
from megatron_oreal.doctor.network import Absent, Meeting, rounds
from megatron_oreal.doctor.software import wrong_versions
from megatron_oreal.launcher import free_port
from tests import runs

NAMES = ["n1", "n2"]


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "train.jsonl"
    path.write_text(json.dumps({"question": "What is 1 + 1?", "gold_answer": "2"}) + "\n")
    return path


@pytest.fixture
def overrides(served_model, questions, tmp_path) -> list[str]:
    return ["experiment=demo", f"model.path={served_model}", f"data.train={questions}", f"run_dir={tmp_path / 'run'}"]


@pytest.fixture
def examined(capsys, overrides):
    """examined(*more) -> (exit status, {check: [lines]}) of a doctor alone on this node."""

    def run(*more: str) -> tuple[int, dict[str, list[str]]]:
        status = doctor.main([*overrides, *more])
        return status, by_check(capsys.readouterr().out)

    return run


def by_check(output: str) -> dict[str, list[str]]:
    lines = {}
    for line in output.splitlines()[:-1]:
        lines.setdefault(line[9:23].strip(), []).append(line)
    return lines


def test_engines_that_cannot_do_what_is_asked_are_an_error(examined):
    status, lines = examined("rollout.kv_cache_dtype=fp8_e4m3")
    assert status == 1 and lines["engines"][0].startswith("error    engines       rollout.kv_cache_dtype=fp8_e4m3: ")


def test_alone_it_does_what_one_node_can_says_what_it_left_out_and_leaves_nothing(examined, tmp_path):
    status, lines = examined("--ranks", "2", "--ranks-per-node", "2")
    assert status == 0, lines
    assert "this one is alone" in lines["nodes"][0] and lines["nodes"][0].startswith("left out")
    assert "2 ranks: TP 1 x PP 1 x CP 1 x DP 2" in lines["layout"][0]
    for check in ("versions", "model", "tokenizer", "stop word", "questions", "compute", "room", "disk speed"):
        assert lines[check][0].startswith("ok"), lines[check]
    assert not list(tmp_path.iterdir())


def test_of_a_supervised_start_it_reads_the_examples(capsys, served_model, tmp_path):
    data = tmp_path / "sft.jsonl"
    data.write_text("".join(json.dumps({"question": f"What is {i}?", "response": "7 + " * (i + 1)}) + "\n" for i in range(5)))
    given = ["--of", "sft", "experiment=demo_sft", f"model.path={served_model}", f"data.train={data}", f"run_dir={tmp_path / 'run'}"]
    assert doctor.main(given) == 0
    lines = by_check(capsys.readouterr().out)
    assert "5 for training, none for validation, none in test sets" in lines["examples"][0] and lines["room"][0].startswith("ok")
    assert doctor.main([*given, "learn.tokens_per_micro_batch=30"]) == 1
    error, *_ = by_check(capsys.readouterr().out)["examples"]
    assert error.startswith("error") and "sft.jsonl:" in error and "more than learn.tokens_per_micro_batch=30 holds" in error


def copy_of_model(served_model: str, folder: Path) -> Path:
    """In two files, with an index."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(served_model).save_pretrained(folder, max_shard_size="60KB")
    AutoTokenizer.from_pretrained(served_model).save_pretrained(folder)
    return folder


def test_a_missing_shard_is_named(examined, served_model, tmp_path):
    model = copy_of_model(served_model, tmp_path / "model")
    shard = sorted(model.glob("*.safetensors"))[1]
    shard.unlink()
    status, lines = examined(f"model.path={model}")
    assert status == 1
    assert lines["model"][0].startswith("error") and shard.name in lines["model"][0]


def test_a_chat_template_that_refuses_the_system_prompt(examined, served_model, tmp_path):
    model = copy_of_model(served_model, tmp_path / "model")
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{ messages[0].content }}"
    (model / "chat_template.jinja").write_text(refusing)
    status, lines = examined(f"model.path={model}", "data.system_prompt=Think.")
    (line,) = lines["chat template"]
    assert status == 1 and line.startswith("error") and "no system role; set the system prompt to ''" in line and "questions" not in lines
    assert examined(f"model.path={model}", "data.system_prompt=''")[0] == 0


@pytest.mark.parametrize(
    ("override", "check", "message"),
    [
        ("rollout.stop_word='<|im_end|>x'", "stop word", "it must be one; set it to the token with which the chat template ends an answer"),
        ("parallel.dp=3", "layout", "world size 4 is not TP 1 x PP 1 x CP 1 x DP 3"),
        ("rollout.engines=2", "layout", "rollout.bind=127.0.0.1 hides the engines of 2 hosts"),
        ("resume=nowhere", "checkpoint", "nowhere is no whole checkpoint"),
        ("data.train=nowhere.jsonl", "questions", "nowhere.jsonl"),
        ("rollout.max_total_tokens=2000", "model", "rollout.max_total_tokens=2000 must be below the 512 positions of the model"),
    ],
)
def test_what_a_run_would_stumble_over_is_an_error_with_advice(examined, override, check, message):
    status, lines = examined("--ranks", "4", "--ranks-per-node", "2", "parallel.dp=4", override)
    assert status == 1
    (line,) = lines[check]
    assert line.startswith("error") and message in line


def test_a_disk_without_room_for_the_checkpoints_and_a_port_that_is_taken(examined, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 1000, 1000))
    with socket.create_server(("", 0)) as taken:
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        status, lines = examined("rollout.sync=disk", "rollout.sync_copy=/tmp/not/yet")
    assert status == 1
    assert lines["room"][0].startswith("error") and "lower checkpoint.keep_last" in lines["room"][0]
    assert lines["weights' copy"][0].startswith("error") and "/tmp/not/yet" in lines["weights' copy"][0]
    assert lines["port"][0].startswith("error") and "Address already in use" in lines["port"][0]


def test_caches_on_a_shared_home_and_too_few_open_files_are_warned_of(examined, monkeypatch, tmp_path):
    part = namedtuple("part", "mountpoint fstype")
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [part("/", "ext4"), part(str(tmp_path / "home"), "nfs4")])
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in JIT_CACHES:  # SGLang, where a test of this process has imported it, sets some
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "local"))
    status, lines = examined()
    assert status == 0
    (line,) = lines["JIT caches"]
    assert line.startswith("warning") and "nfs4" in line and "FLASHINFER_WORKSPACE_BASE" in line and "TRITON_CACHE_DIR" not in line
    assert lines["open files"][0].startswith("warning") and "may open 256" in lines["open files"][0]


def test_the_slowest_link_between_devices_is_named(monkeypatch):
    host, nowhere = torch.device("cpu"), torch.device("meta")
    monkeypatch.setattr(links, "PAYLOAD_BYTES", 1 << 20)
    assert links.copied_gb_s(host, host) > 0
    speeds = {(0, 1): 243.0, (0, 2): 251.0, (1, 2): 239.0}
    for slowest, level, said in ((239.0, OK, "3 GPUs copy to each other at 200 GB/s"), (11.0, WARNING, "GPUs 1 and 2 copy")):
        found = Findings()
        by_pair = iter((speeds | {(1, 2): slowest}).values())
        with monkeypatch.context() as patch:
            patch.setattr(links, "copied_gb_s", lambda a, b, by_pair=by_pair: next(by_pair))
            links.compare(found, [host] * 3)
        assert found.all[0].level == level and said in found.all[0].text
    found = Findings()
    links.compare(found, [nowhere, host])
    assert found.all[0].level == ERROR and "meta" in found.all[0].text


def test_a_proxy_is_shown_without_its_password_and_what_does_not_use_it(examined, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    _, lines = examined()
    (line,) = lines["proxy"]
    assert line.startswith("ok") and "http_proxy=http://...@proxy:3128: calls to engines never use it" in line and "secret" not in line


class Models(BaseHTTPRequestHandler):
    """A judge that lists its models."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def log_message(self, *_) -> None:
        pass


def test_a_judge_of_which_some_or_no_hosts_answer(examined):
    dead = f"http://127.0.0.1:{free_port()}"
    asked = ["verify=rule_then_judge", "verify.judge.model=m"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        live = f"http://127.0.0.1:{host.server_port}"
        status, lines = examined(*asked, f"verify.judge.urls=[{live},{dead}]")
        host.shutdown()
    assert status == 0
    assert lines["judge"][0].startswith("warning") and f"1 of 2 hosts do not answer: {dead}" in lines["judge"][0]
    status, lines = examined(*asked, f"verify.judge.urls=[{dead}]")
    assert status == 1 and lines["judge"][0].startswith("error")


def two_nodes(overrides: list[str], *of_the_second: str) -> tuple[list[int], dict[str, list[str]]]:
    """A doctor on each of two "nodes", as srun starts them; their statuses, and what the first printed."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "SLURM_NTASKS": "2"}
    arguments = ["--nodes", ",".join(NAMES), *overrides]
    processes = [
        runs.start(
            *arguments,
            *(of_the_second if index else ()),
            module="megatron_oreal.doctor.command",
            env=os.environ | shared | {"SLURM_PROCID": str(index)},
            stderr=None,
        )
        for index in range(2)
    ]
    outputs = [runs.finish(process) for process in processes]
    return [process.returncode for process in processes], by_check(outputs[0])


def test_two_nodes_add_up_a_tensor_and_share_a_folder(overrides):
    statuses, lines = two_nodes(overrides)
    assert statuses == [0, 0], lines
    assert lines["all-reduce"][0].startswith("ok") and "1 pairs, slowest n1-n2: " in lines["all-reduce"][0]
    assert "is one folder on 2 nodes [all 2 nodes]" in lines["shared"][0]
    assert "seen from the other nodes [n2]" in lines["model"][1]
    assert len(lines["versions"]) == 1 and lines["same software"][0].startswith("ok")


def test_a_slow_pair_and_a_folder_that_is_not_shared_are_errors(overrides, tmp_path):
    statuses, lines = two_nodes([*overrides, "--slowest-allreduce", "1e6"], f"run_dir={tmp_path / 'elsewhere'}")
    assert statuses == [1, 0]
    assert lines["all-reduce"][0].startswith("error") and "below 1e+06 [n1]; drain the node" in lines["all-reduce"][0]
    assert len(lines["shared"]) == 2 and all(line.startswith("error") for line in lines["shared"])
    assert "the files of n2 are not seen here [n1]" in lines["shared"][0]


def test_a_node_that_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(network, "MEET_S", 1.0)
    with pytest.raises(Absent, match=r"n2 \(of 2 nodes\) did not come to 'here' within 1 s"):
        Meeting(0, NAMES, "127.0.0.1", free_port())


def test_versions_that_do_not_belong_together_are_named():
    declared = ["torch==1.0", "no-such-package", 'sglang==0.0.1; extra == "gpu"', 'other-package; extra == "gpu"', "numpy"]
    wrong = wrong_versions(declared, "cpu")
    assert len(wrong) == 3
    assert wrong[0].endswith("is installed, ==1.0 is needed") and wrong[1] == "no-such-package is not installed"
    assert wrong[2].startswith("sglang ")


@pytest.mark.parametrize("nodes", [1, 2, 3, 5, 16])
def test_every_pair_of_nodes_meets_once_and_nobody_twice_in_a_round(nodes):
    pairs = []
    for some in rounds(nodes):
        busy = [node for pair in some for node in pair]
        assert len(busy) == len(set(busy))
        pairs += some
    assert sorted(pairs) == [(a, b) for a in range(nodes) for b in range(a + 1, nodes)]
