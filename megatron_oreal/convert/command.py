"""Convert checkpoints between Hugging Face and Megatron, in the memory of one tensor:

    megatron-oreal convert hf-to-megatron --hf DIR --out DIR [--tp T] [--pp P] [--verify]
    megatron-oreal convert megatron-to-hf --megatron DIR [--hf-config DIR] --out DIR [--max-shard-size 5GB] [--verify]

Qwen2, Qwen2.5, DeepSeek-R1-Distill, Qwen3 (dense) and Llama 3; a token RM is transformers' token- or sequence-classification model with
one label. Megatron files are a torch_dist checkpoint that loads in any layout, with the Hugging Face config and tokenizer beside it (which
--hf-config defaults to). Input is checked before anything is written; the result is whole or absent. --verify reads both sides again and
compares every tensor, also of an --out that exists already. Training needs no conversion: model.path takes a Hugging Face folder.
Exit status: 0 done, 1 tensors differ or writing failed, 2 wrong input, 130 interrupted.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from megatron_oreal.command import Parser, end_with_parent, fail, guarded, local_path
from megatron_oreal.machine import give_back_what_is_freed
from megatron_oreal.model.config import ONE_RANK
from megatron_oreal.monitor.logs import quiet_libraries
from megatron_oreal.stop import REQUESTS

SMALLEST_GIVEN_BACK = 1 << 20  # bytes; else a model of 1.5B parameters takes 26 MB more with each layer


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line, as in this module's docstring."""
    parser = Parser(prog="megatron-oreal convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    to_megatron, to_hf = commands.add_parser("hf-to-megatron"), commands.add_parser("megatron-to-hf")
    to_megatron.add_argument("--hf", type=local_path, required=True, help="Hugging Face folder")
    to_megatron.add_argument("--tp", type=int, default=1, help="tensor parallel size that the files are made for")
    to_megatron.add_argument("--pp", type=int, default=1, help="pipeline parallel size that the files are made for")
    to_hf.add_argument(
        "--megatron", type=local_path, required=True, help="torch_dist folder, or policy/ or token_rm/ of a training checkpoint"
    )
    to_hf.add_argument("--hf-config", type=local_path, help="folder with config.json and tokenizer (default: the Megatron folder)")
    to_hf.add_argument("--max-shard-size", type=_size, help="largest file (default: 5GB)")
    for command in (to_megatron, to_hf):
        command.add_argument("--out", type=local_path, required=True, help="folder to write")
        command.add_argument("--verify", action="store_true", help="read both sides again and compare every tensor")
    return parser.parse_args(arguments)


def _size(text: str) -> int:
    from megatron_oreal.model.hf_writer import read_size

    try:
        return read_size(text)
    except ValueError as error:  # whose text argparse does not show
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Check, convert, compare; returns the exit status."""
    from megatron_oreal.convert import job as jobs  # here, because it takes seconds
    from megatron_oreal.convert.megatron_files import MegatronFolder
    from megatron_oreal.model.hf_files import HFFolder
    from megatron_oreal.model.hf_writer import MAX_SHARD_BYTES

    compares_only = arguments.verify and is_there(arguments.out)
    if arguments.command == "hf-to-megatron":
        job, layout = jobs.check_hf(arguments.hf), replace(ONE_RANK, tp=arguments.tp, pp=arguments.pp)
        write = lambda advance: jobs.to_megatron(job, arguments.out, layout, advance)  # noqa: E731
        reopen = MegatronFolder
    else:
        job = jobs.check_megatron(arguments.megatron, arguments.hf_config)
        write = lambda advance: jobs.to_hf(job, arguments.out, arguments.max_shard_size or MAX_SHARD_BYTES, advance)  # noqa: E731
        reopen = HFFolder
    if job.left_out:
        print(f"left out: {job.left_out}")
    if compares_only:
        print(f"{arguments.out} exists: nothing is converted, only compared")
    else:
        with watched("converted", job, arguments.out) as advance:
            write(advance)
    return verify(job, reopen(arguments.out), arguments.out) if arguments.verify else 0


def verify(job, other, out: Path) -> int:
    """Compare; returns the exit status."""
    from megatron_oreal.convert.job import compare

    with watched("compared", job, out) as advance:
        differ = compare(job, other, advance)
    for name in differ:
        print(f"differs: {name}")
    print(f"{len(set(job.specs) - set(differ))} of {len(job.specs)} tensors are equal bit for bit")
    return 1 if differ else 0


@contextmanager
def watched(what: str, job, out: Path) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and time left while the block runs (where there is a terminal), and a line when it is done."""
    started, console = time.perf_counter(), Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=job.nbytes)

        def advance(nbytes: int) -> None:
            progress.advance(task, nbytes)
            if asked:
                raise KeyboardInterrupt

        # Between two tensors: raised within torch.save, which writes from C++, an interrupt becomes any error.
        asked: list[int] = []
        before = {s: signal.getsignal(s) for s in (*REQUESTS, signal.SIGINT, signal.SIGHUP)}
        for number in [s for s, handler in before.items() if handler != signal.SIG_IGN]:  # as nohup has SIGHUP
            signal.signal(number, lambda number, frame: asked.append(number))
        try:
            yield advance
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if asked:  # while the files were closed
            raise KeyboardInterrupt
    seconds = time.perf_counter() - started
    rate = job.nbytes / seconds / 1e6
    print(f"{what} {len(job.specs)} tensors, {job.nbytes / 1e9:.2f} GB in {seconds:.1f} s ({rate:.0f} MB/s): {out}")


def is_there(out: Path) -> bool:
    """Whether a folder has been written, by this process or another."""
    return out.is_dir() and any(out.iterdir())


def remains(out: Path) -> str:
    """What is left after an error, for the end of its line."""
    return f"{out} is there, but was not compared" if is_there(out) else f"nothing is left of {out}"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    return guarded(lambda: convert(parse(arguments)))


def convert(parsed: argparse.Namespace) -> int:
    """Convert; what is left after an error is said with it. Returns the exit status."""
    quiet_libraries()
    end_with_parent()
    give_back_what_is_freed(SMALLEST_GIVEN_BACK)
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    try:
        return run(parsed)
    except OSError as error:
        return fail(1, f"convert: {error}; {remains(parsed.out)}")
    except KeyboardInterrupt:
        return fail(130, f"interrupted; {remains(parsed.out)}")


if __name__ == "__main__":
    sys.exit(main())
