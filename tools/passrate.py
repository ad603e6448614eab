"""Pass rates of questions: `megatron-oreal passrate` by another door, `python tools/passrate.py`."""

import sys

from megatron_oreal.passrate.command import main

if __name__ == "__main__":
    sys.exit(main())
