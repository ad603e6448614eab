"""A checkpoint far larger than the memory that converting it takes."""

import shutil
import subprocess
import sys

import pytest

from tests.convert.test_round_trip import ROOT
from tools.bench_convert import timed

LIMIT_GB = 1.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(1, 1), (2, 2)], ids=lambda layout: "tp{}-pp{}".format(*layout))
def test_three_gigabytes_are_converted_both_ways_within_one_and_a_half(tmp_path, layout):
    hf, megatron, back = tmp_path / "hf", tmp_path / "megatron", tmp_path / "back"
    write = f"from tools.bench_convert import write_model; from pathlib import Path; write_model(Path({str(hf)!r}), '1.5b', 'bfloat16')"
    subprocess.run([sys.executable, "-c", write], cwd=ROOT, check=True, timeout=600)
    assert sum(f.stat().st_size for f in hf.glob("*.safetensors")) >= 3e9
    convert = (sys.executable, ROOT / "tools" / "convert.py")
    tp, pp = layout
    there = timed(*convert, "hf-to-megatron", "--hf", hf, "--out", megatron, "--tp", tp, "--pp", pp, "--verify")
    again = timed(*convert, "megatron-to-hf", "--megatron", megatron, "--out", back, "--verify")
    shutil.rmtree(tmp_path)
    assert there.peak_gb < LIMIT_GB
    assert again.peak_gb < LIMIT_GB
