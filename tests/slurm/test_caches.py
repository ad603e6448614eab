"""Where the jobs let libraries keep the kernels that they compile."""

import os
import subprocess
from pathlib import Path

from megatron_oreal.doctor.limits import JIT_CACHES

ROOT = Path(__file__).parents[2]


def test_every_cache_that_the_doctor_looks_at_is_kept_on_the_node_unless_it_was_set():
    environment = {name: value for name, value in os.environ.items() if name not in JIT_CACHES}
    environment |= {"JIT_CACHE": "/local/jit", "TRITON_CACHE_DIR": "/elsewhere"}
    script = "source launch/slurm/job.sh; keep_caches_local; env"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=30)
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert told["TRITON_CACHE_DIR"] == "/elsewhere"
    assert all(told[name].startswith("/local/jit") for name in JIT_CACHES if name != "TRITON_CACHE_DIR")
