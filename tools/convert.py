"""Checkpoints between Hugging Face and Megatron: `megatron-oreal convert` by another door, `python tools/convert.py`."""

import sys

from megatron_oreal.convert.command import main

if __name__ == "__main__":
    sys.exit(main())
