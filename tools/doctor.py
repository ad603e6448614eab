"""The preflight check: `megatron-oreal doctor` by another door, `python tools/doctor.py`."""

import sys

from megatron_oreal.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
