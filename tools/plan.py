"""What a run will need: `megatron-oreal plan` by another door, `python tools/plan.py`."""

import sys

from megatron_oreal.plan.command import main

if __name__ == "__main__":
    sys.exit(main())
