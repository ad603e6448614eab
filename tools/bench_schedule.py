"""Schedules of sampling and training against simulated engines; see megatron_oreal/simulated/README.md. The tokenizer is the demo's."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_oreal.simulated.command import main  # noqa: E402
from tools.make_demo import make_tokenizer, write_base  # noqa: E402

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_base(Path(folder), 0, make_tokenizer())
        main(Path(folder))
