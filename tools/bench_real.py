"""The same step with this project and with TRL's GRPOTrainer, one after the other on one machine without a GPU: parts, tokens, memory.

    python tools/bench_real.py --model DIR --questions FILE.jsonl [--layout tp2] [--trl-python ENV/bin/python]
    python tools/bench_real.py --demo                                  # the demo's own model and sizes; makes the model (a minute) first
    python tools/bench_real.py --model DIR --questions FILE.jsonl --only ours --ours compute.recompute=full

Wants TRL 1.16 (`pip install 'megatron-oreal[bench]'`), here or in an environment of its own, whose Python --trl-python names.

The work: the first questions of the file, the same in every step (default 4, with --demo 32), so many samples each (4; 16), all of them
trained on in one update, against a reference, without a token reward model; model, prompts, temperature, top-p, lengths and optimizer
are those of experiment=small (with --demo: demo) for both. Ours is `python -m megatron_oreal.train` itself, with nothing saved between the
steps. TRL samples all questions in one batch with transformers, and trains on --trl-batch trajectories at one time. Each side may use all
cores as it likes: OMP_NUM_THREADS is not handed on, but for --ours-threads (with --demo 1, as in launch/demo.sh) and --trl-threads.

A step lasts from the end of the one before to its own end; its parts are what the sides say of themselves (metrics.jsonl; TRL's profiling),
`rest` is what they do not name. The first step is warm-up and stands apart. The formula of the FLOPs: tools/real_figures.py; the peak is a
float32 product of 2048 x 2048 with all cores, measured in the same run. Memory: proportional set sizes of a side's processes together,
looked at each second (tools/process_tree.py). Answers differ, and so do lengths: compare tokens/s where the tokens sampled differ.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_oreal.config import TrainConfig, load
from megatron_oreal.monitor.logs import quiet_libraries
from tools.process_tree import Stage, run_watched
from tools.real_figures import END, FIRST, STEPS, Asked, Side, as_text, matmul_peak, our_steps, report, trl_steps

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 4 * 3600  # of a side
LAYOUTS = {"rank1": (1, 1), "tp2": (2, 1), "dp2": (1, 2)}  # name -> TP, DP
SIZES = {False: (4, 4, 200), True: (32, 16, 64)}  # --demo -> questions, samples, new tokens
RATE = "${policy.optimizer.lr}"


def environment(threads: int | None, **further: str) -> dict[str, str]:
    """Ours without what would limit a side to one core; threads: of each of its processes, where it is not to choose itself."""
    passed = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "TORCHDYNAMO_DISABLE")}
    return passed | further | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def make_demo(folder: Path) -> tuple[Path, Path]:
    """The model and the questions of launch/demo.sh after its supervised start; what is there already is taken as it is."""
    model, task = folder / "sft" / "hf", folder / "task"
    if not model.exists():
        sft = ["-m", "megatron_oreal.sft", "experiment=demo_sft", f"model.path={task / 'base'}", f"data.train={task / 'sft.jsonl'}"]
        for words in (["tools/make_demo.py", "--out", task], [*sft, f"run_dir={folder / 'sft'}", "resume=auto"]):
            command = [sys.executable, *words]
            run_watched(command, folder / "made.log", environment(1, TORCHDYNAMO_DISABLE="1"), lambda: "", ROOT, DEADLINE_S)
    return model, task / "train.jsonl"


def first_questions(source: Path, count: int, out: Path) -> Path:
    """A file of so many.

    Raises:
        ValueError: there are not so many.
    """
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()] if source.is_file() else []
    if len(lines) < count:
        raise ValueError(f"--questions {source}: {len(lines)} lines where {count} are wanted")
    out.write_text("\n".join(lines[:count]) + "\n", encoding="utf-8")
    return out


def overrides(arguments: argparse.Namespace, asked: Asked, model: Path, questions: Path, run_dir: Path) -> list[str]:
    """Of our run: the work as asked, and nothing saved before the end."""
    settings = {
        "experiment": "demo" if arguments.demo else "small",
        "model.path": model,
        "data.train": questions,
        "data.balance": "[]",
        "data.questions_per_step": asked.questions,
        "rollout.samples": asked.samples,
        "rollout.max_new_tokens": asked.new_tokens,
        "run_dir": run_dir,
        "steps": asked.steps,
        "checkpoint.interval": asked.steps + 1,
        "objective.token_rm": "false",
        "objective.keep": "all",
        "policy.freeze_steps": 0,
        "policy.optimizer.warmup_steps": 0,
        "policy.optimizer.min_lr": RATE,
    }
    settings |= dict(zip(("parallel.tp", "parallel.dp"), LAYOUTS[arguments.layout], strict=True)) | {"parallel.pp": 1}
    return [f"{name}={value}" for name, value in settings.items()] + arguments.ours


def trl_config(config: TrainConfig, asked: Asked, arguments: argparse.Namespace, out: Path) -> dict:
    """Arguments of GRPOConfig that say what `config` says.

    Raises:
        ValueError: --trl-batch does not divide the trajectories.
    """
    micro_batches, over = divmod(asked.trajectories, arguments.trl_batch)
    if over:
        raise ValueError(f"--trl-batch {arguments.trl_batch} does not divide the {asked.trajectories} trajectories of a step")
    batches = {
        "max_steps": asked.steps,
        "per_device_train_batch_size": arguments.trl_batch,
        "gradient_accumulation_steps": micro_batches,
        "steps_per_generation": micro_batches,
        "num_generations": asked.samples,
        "shuffle_dataset": False,
        "gradient_checkpointing": arguments.trl_checkpointing,
    }
    elsewhere = {"output_dir": str(out), "report_to": "none", "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    return batches | same_settings(config) | elsewhere | {"bf16": False, "use_cpu": True, "dataloader_pin_memory": False}


def same_settings(config: TrainConfig) -> dict:
    """Sampling, objective and optimizer, as TRL calls them."""
    optimizer, rollout = config.policy.optimizer, config.rollout
    return {
        "max_completion_length": rollout.max_new_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": 0,
        "beta": config.objective.beta,
        "seed": config.seed,
        "learning_rate": optimizer.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.eps,
        "max_grad_norm": optimizer.clip_grad,
        "model_init_kwargs": {"dtype": config.model.dtype},
    }


def rows_of(path: Path) -> list[dict]:
    """The whole lines so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]] if path.exists() else []


def run_side(
    name: str, command: Sequence[object], rows: Path, out: Path, env: dict[str, str], steps: int
) -> tuple[list[dict], dict[str, Stage]]:
    """Its rows, one a step, and what was seen of it while it started, in its steps, and after them.

    Raises:
        RuntimeError: it failed.
    """

    def stage() -> str:
        done = len(rows_of(rows))
        return FIRST if not done else STEPS if done < steps else END

    print(f"bench_real: {name} ...", file=sys.stderr, flush=True)
    try:
        stages = run_watched(command, out / f"{name}.log", env, stage, ROOT, DEADLINE_S)
    except RuntimeError as error:
        raise RuntimeError(f"{name}: {error}") from error
    found = rows_of(rows)
    if len(found) < steps:
        raise RuntimeError(f"{name}: {len(found)} of {steps} steps in {rows}")
    return found, stages


def run_ours(arguments: argparse.Namespace, asked: Asked, words: list[str], out: Path) -> Side:
    command, threads = [sys.executable, "-m", "megatron_oreal.train", *words], arguments.ours_threads
    env = environment(threads, TORCHDYNAMO_DISABLE="1")
    shutil.rmtree(out / "ours", ignore_errors=True)  # of an earlier bench: its rows would be counted
    rows, stages = run_side("ours", command, out / "ours" / "metrics.jsonl", out, env, asked.steps)
    return Side(f"ours, {arguments.layout}", our_steps(rows, asked), stages)


def run_trl(arguments: argparse.Namespace, asked: Asked, config: TrainConfig, version: str, out: Path) -> Side:
    spec, rows = out / "trl.json", out / "trl.jsonl"
    rows.unlink(missing_ok=True)
    settings = trl_config(config, asked, arguments, out / "trl")
    shared = {"model": config.model.path, "questions": config.data.train, "system_prompt": config.data.system_prompt}
    spec.write_text(json.dumps(shared | {"config": settings}, indent=1))
    command = [arguments.trl_python, ROOT / "tools" / "real_trl.py", spec, rows]
    found, stages = run_side("trl", command, rows, out, environment(arguments.trl_threads), asked.steps)
    return Side(f"TRL {version}", trl_steps(found, asked), stages)


def trl_version(python: str) -> str:
    """Of the TRL that this Python imports.

    Raises:
        ValueError: it has none.
    """
    command = [python, "-c", "import trl; from trl import GRPOTrainer; print(trl.__version__)"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"--trl-python {python}: {error.strerror}") from error
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        advice = "pip install 'megatron-oreal[bench]', name another Python with --trl-python, or measure --only ours"
        raise ValueError(f"{python} has no TRL ({why}): {advice}")
    return done.stdout.strip().splitlines()[-1]


def bench(arguments: argparse.Namespace, out: Path) -> dict:
    """The report. Raises ValueError and RuntimeError of one line."""
    version = trl_version(arguments.trl_python) if "trl" in arguments.only else ""
    made = make_demo(out / "demo") if arguments.demo and not arguments.model else (arguments.model, arguments.questions)
    asked = Asked(arguments.questions_per_step, arguments.samples, arguments.new_tokens, arguments.steps)
    words = overrides(arguments, asked, made[0].resolve(), first_questions(made[1], asked.questions, out / "questions.jsonl"), out / "ours")
    config, peak, sides = load(TrainConfig, "train", words), matmul_peak(), []
    if "ours" in arguments.only:
        sides.append(run_ours(arguments, asked, words, out))
    if "trl" in arguments.only:
        sides.append(run_trl(arguments, asked, config, version, out))
    quiet_libraries()
    from transformers import AutoConfig  # imported late, as in real_figures

    return report(asked, sides, AutoConfig.from_pretrained(config.model.path), peak, f"{made[0]}, {config.model.dtype}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--questions", type=Path, help="JSONL with question and gold_answer")
    parser.add_argument("--demo", action="store_true", help="the demo's sizes; without --model also its model and questions")
    parser.add_argument("--layout", choices=LAYOUTS, help="of our ranks (default: rank1, with --demo dp2)")
    parser.add_argument("--steps", type=int, default=3, help="the first is warm-up (default: 3)")
    for name in ("questions-per-step", "samples", "new-tokens", "ours-threads", "trl-threads"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--ours", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides of our run")
    parser.add_argument("--trl-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--trl-batch", type=int, help="trajectories of a micro-batch (default: 4, with --demo 64)")
    parser.add_argument("--trl-checkpointing", action="store_true", help="TRL recomputes activations: less memory, more time")
    parser.add_argument("--only", nargs="+", choices=("ours", "trl"), default=["ours", "trl"])
    parser.add_argument("--out", type=Path, help="folder for what the sides write (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all steps")
    arguments = parser.parse_args(words)
    if bool(arguments.model) != bool(arguments.questions) or not (arguments.model or arguments.demo):
        parser.error("--model and --questions go together; without them --demo")
    if arguments.steps < 2:
        parser.error("--steps: at least 2, the first is warm-up")
    return with_defaults(arguments)


def with_defaults(arguments: argparse.Namespace) -> argparse.Namespace:
    """What depends on --demo."""
    questions, samples, new_tokens = SIZES[arguments.demo]
    arguments.questions_per_step = arguments.questions_per_step or questions
    arguments.samples, arguments.new_tokens = arguments.samples or samples, arguments.new_tokens or new_tokens
    arguments.layout = arguments.layout or ("dp2" if arguments.demo else "rank1")
    arguments.trl_batch = arguments.trl_batch or (64 if arguments.demo else 4)
    arguments.ours_threads = arguments.ours_threads or (1 if arguments.demo else None)
    return arguments


def main() -> None:
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that it ends the side that runs
    with tempfile.TemporaryDirectory() as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        (out / "demo").mkdir(parents=True, exist_ok=True)
        try:
            found = bench(arguments, out)
        except (ValueError, RuntimeError) as error:
            raise SystemExit(f"bench_real: {error}") from error
    print(as_text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
