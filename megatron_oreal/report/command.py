"""A run as one HTML file: curves, where a step's time goes, the ablation, and its trajectories with token-RM weights (record=true).

    megatron-oreal report work_dirs/demo

RUN is a run's folder (run_dir), or the folder of tools/bench_ablation.py. The file needs no network and no server: open it in a browser.
Exit status: 0 written, 2 wrong input, 1 the libraries of the page are not there and cannot be fetched.
"""

import sys
from pathlib import Path

from megatron_oreal.command import Parser, fail, guarded, local_path

MOST = 10_000


def write(run_dir: Path, out: Path, most: int) -> str:
    """Write the report; returns the line that says so.

    Raises:
        ValueError: no run's folder, or a damaged file in it.
        OSError: a library of the page cannot be fetched, or `out` not be written.
    """
    from megatron_oreal.report.page import render
    from megatron_oreal.report.run import read_run
    from megatron_oreal.report.trajectories import pack
    from megatron_oreal.report.vendor import vendored

    run, packed = read_run(run_dir), pack(run_dir, most)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(render(run, packed, vendored()), encoding="utf-8")
    partial.rename(out)
    index = packed.index
    shown = f"{len(index.of):,}" + (f" of {packed.recorded:,}" if packed.recorded > len(index.of) else "")
    return (
        f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB, {len(run.curves.steps)} steps, "
        f"{shown} trajectories, {sum(index.trained):,} with token weights"
    )


def report(arguments: list[str] | None) -> int:
    """Read the command line and write; returns the exit status."""
    parser = Parser(prog="megatron-oreal report", description=__doc__)
    parser.add_argument("run", type=local_path, metavar="RUN", help="a run's folder")
    parser.add_argument("--out", type=local_path, metavar="FILE", help="default: RUN/report.html")
    parser.add_argument(
        "--max-trajectories", type=int, default=MOST, metavar="N", help="by whole questions, of all steps alike (%(default)s)"
    )
    parsed = parser.parse_args(arguments)
    if parsed.max_trajectories < 0:
        raise ValueError(f"--max-trajectories {parsed.max_trajectories}: 0 or more")
    try:
        said = write(parsed.run, parsed.out or parsed.run / "report.html", parsed.max_trajectories)
    except OSError as error:
        return fail(1, error)
    print(said)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: report(arguments))


if __name__ == "__main__":
    sys.exit(main())
