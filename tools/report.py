"""A run as one HTML file: `megatron-oreal report` by another door, `python tools/report.py`."""

import sys

from megatron_oreal.report.command import main

if __name__ == "__main__":
    sys.exit(main())
