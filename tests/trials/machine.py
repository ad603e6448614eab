"""Trials of machines that lack something: disk, shared memory, open files, a locale, somebody who reads on."""

from tests.trials.prepare import file, lines, trained
from tests.trials.trial import RUN, SFT, SFT_RUN, TRAIN, refused, tested, works

PASSRATE = "megatron-oreal passrate experiment=demo_passrate model.path=demo/base questions=demo/train.jsonl"
ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
BEYOND_ASCII = [{"question": f"Kaç elma vardır – {i} + 1 ≟ {i + 1}? é😀", "gold_answer": str(i + 1)} for i in range(24)]


def disk(size: str) -> str:
    return f"mkdir run && mount -t tmpfs -o size={size} none run"


TRIALS = [
    refused(
        "a disk that is full at a checkpoint",
        f"{RUN} checkpoint.interval=1",
        "checkpoint: .*could not be written|No space left on device",
        status=1,
        shell=disk("4m"),
        own_mounts=True,
        deadline_s=900,
    ),
    refused(
        "a disk that is full from the start",
        RUN,
        "No space left on device|cannot be written",
        status=1,
        shell=f"{disk('64k')} && (cat /dev/zero > run/full 2>&1; true) 2>/dev/null",
        own_mounts=True,
        deadline_s=900,
    ),
    refused(
        "a disk that is full at a sync by files",
        f"{RUN} rollout.sync=disk checkpoint.interval=100",
        "No space left on device|written",
        status=1,
        shell=disk("5m"),
        own_mounts=True,
        deadline_s=900,
    ),
    refused(
        "a disk that is full at the export",
        f"{SFT_RUN} checkpoint.interval=100",
        "^error: .*hf.*(No space left on device|written)",
        status=1,
        shell=disk("2m"),
        own_mounts=True,
    ),
    refused(
        "sft: a disk that is full at a checkpoint",
        f"{SFT_RUN} checkpoint.interval=1",
        "checkpoint: .*could not be written|No space left on device",
        status=1,
        shell=disk("4m"),
        own_mounts=True,
        deadline_s=900,
    ),
    refused(
        "run_dir read-only",
        TRAIN,
        "^error: run_dir=run cannot be written to: run is on a read-only file system",
        status=1,
        shell="mkdir run && mount -t tmpfs -o ro none run",
        own_mounts=True,
    ),
    refused(
        "sft: run_dir read-only",
        SFT,
        "^error: run_dir=run cannot be written to: run is on a read-only file system",
        status=1,
        shell="mkdir run && mount -t tmpfs -o ro none run",
        own_mounts=True,
    ),
    refused(
        "run_dir below a file",
        f"{TRAIN} run_dir=file/run",
        "^error: run_dir=file/run cannot be written to: file is no folder",
        file("file", ""),
        status=1,
    ),
    refused(
        "run_dir is a file",
        f"{TRAIN} run_dir=file",
        "^error: run_dir=file cannot be written to: file is no folder",
        file("file", ""),
        status=1,
    ),
    refused(
        "passrate: answers below a file",
        f"{PASSRATE} out=rated.jsonl answers=file/a.jsonl",
        "answers: .*cannot be written",
        file("file", ""),
        status=1,
    ),
    refused(
        "/dev/shm too small",
        f"{RUN} rollout.sync=tensor",
        "shared memory .*enlarge /dev/shm, or use rollout.sync=distributed|/dev/shm",
        status=1,
        shell="mount -t tmpfs -o size=64k none /dev/shm",
        own_mounts=True,
        deadline_s=900,
    ),
    refused("100 open files", TRAIN, "a process may open 100 files here, and 256 are needed", shell="ulimit -n 100"),
    works("300 open files", RUN, "step 2/2", shell="ulimit -n 300", then=trained),
    works(
        "an ASCII locale, and questions beyond it",
        f"{RUN} data.train=soru.jsonl record=true",
        "step 2/2",
        lines("soru.jsonl", BEYOND_ASCII),
        environment=ASCII,
        then=trained,
    ),
    refused("an ASCII locale, and names beyond it", f"{TRAIN} run_dir=çıktı", "not ascii, .*; export LC_ALL=C.UTF-8", environment=ASCII),
    works(
        "LC_ALL=C, and names beyond ASCII",
        f"""{RUN} "data.train='Türkçe soru.jsonl'" "run_dir='çıktı'" """,
        "step 2/2",
        lines("Türkçe soru.jsonl", BEYOND_ASCII),
        environment={"LC_ALL": "C"},
        then=lambda folder: trained(folder, "çıktı"),
    ),
    refused(
        "an ASCII locale, and an error beyond it",
        f"{TRAIN} data.train=soru.jsonl",
        r"soru.jsonl:1: field 'gold_answer' is missing",
        lines("soru.jsonl", [{"question": "Kaç?", "cevap": "ş"}]),
        environment=ASCII,
    ),
    works(
        "paths with spaces, brackets, = and ~",
        f"""{RUN} "model.path='~/my model (v2)=x'" "data.train='~/soru [1].jsonl'" "run_dir='~/my run'" && ls "my run/hf" """,
        "model.safetensors",
        shell='export HOME=$PWD; cp -r demo/base "my model (v2)=x"; cp demo/train.jsonl "soru [1].jsonl"',
        then=lambda folder: trained(folder, "my run"),
    ),
    works("train | head -1", f"set -o pipefail; {RUN} | head -1", ".", then=trained),
    works("sft | head -1", f"set -o pipefail; {SFT_RUN} | head -1", ".", then=lambda folder: trained(folder, steps=4)),
    works("--help and --keys | head -1", "megatron-oreal --help | head -1; megatron-oreal train --keys | head -1", "usage"),
    works("a HOME that is not there", RUN, "step 2/2", environment={"HOME": "/nonexistent/home"}, then=trained),
    refused("output to a file on a full disk", f"{RUN} > /dev/full", "No space left on device", status=1),
    tested("a second start in a run_dir at work", "tests/test_resume.py -k second_start"),
    tested("the only engine killed in a rollout", "tests/test_engines_lost.py -k only_engine_killed"),
    tested(
        "a rank killed in a rollout, a step and a sync",
        "'tests/test_lost_rank.py::test_a_killed_rank_ends_the_job_and_is_named'",
        deadline_s=1800,
    ),
]
