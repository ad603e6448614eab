"""Trials of what goes on: runs taken up again, supervised starts, pass rates, and what is selected of their answers."""

import json
from pathlib import Path

from tests.trials.prepare import file, lines, model, trained
from tests.trials.trial import RUN, RUN_S, SFT, SFT_RUN, Trial, refused, tested, works

PASSRATE = "megatron-oreal passrate experiment=demo_passrate model.path=demo/base questions=demo/train.jsonl rollout.samples=2"
SELECT = "megatron-oreal select answers=answers.jsonl out=sft.jsonl"
SHORT = "rollout.max_new_tokens=8 questions=six.jsonl"
SAVED = f"{RUN} checkpoint.interval=1"
DOCTOR = "megatron-oreal doctor --of sft experiment=demo_sft model.path=demo/base data.train=demo/sft.jsonl run_dir=run"


def answered(texts: dict[str, bool], name: str = "q") -> dict:
    """A question of passrate's, with its answers and whether they are right."""
    answers = [{"text": text, "tokens": len(text), "right": right, "decided": True, "reason": ""} for text, right in texts.items()]
    return {"id": name, "question": f"Question {name}?", "gold_answer": "7", "pass_rate": 0.5, "undecided": 0, "answers": answers}


def select(words: str, says: str, *rows: dict, name: str = "") -> Trial:
    return refused(f"select: {name or words}", f"{SELECT} {words}", says, lines("answers.jsonl", rows))


def chosen(folder: Path) -> str:
    """Two right ones of the one question that has any."""
    got = [json.loads(line)["response"] for line in (folder / "sft.jsonl").open(encoding="utf-8")]
    return "" if got == ["aa", "bbbb"] else f"chosen {got}"


def both_written(folder: Path) -> str:
    """passrate's two files, in the order of the questions."""
    rated, answers = ([json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")] for name in ("rated", "answers"))
    asked = [json.loads(line)["question"] for line in (folder / "demo" / "train.jsonl").open(encoding="utf-8")]
    same = [row["question"] for row in rated] == [row["question"] for row in answers] == asked[: len(rated)]
    return "" if same and rated else "the files do not hold the questions in their order"


RESUME = [
    works(
        "resume with other steps and another lr",
        f"{SAVED} && {SAVED} resume=auto steps=3 policy.optimizer.lr=1e-4",
        r"what is given now counts: .*steps=3 \(was 2\)",
        then=lambda folder: trained(folder, steps=3),
    ),
    refused(
        "resume where model.path has other weights",
        f"{SAVED} model.path=model && python spoil.py && {SAVED} model.path=model resume=auto steps=3",
        "model.path: model holds other weights than those that the run of .* began with",
        model(),
        file("spoil.py", "from pathlib import Path\nfrom tests.trials.prepare import other_weights\nother_weights('model')(Path())\n"),
        deadline_s=RUN_S,
    ),
    refused(
        "a run_dir that holds a run already, without resume=auto",
        f"{SAVED} && {SAVED}",
        "run_dir: .*holds a run that came to step-00002; resume=auto, or take another run_dir",
        deadline_s=RUN_S,
    ),
    tested("killed twice while saving", "tests/test_resume.py -k killed_twice"),
    tested("asked to stop by SIGUSR1, and gone on with in another layout", "tests/test_resume.py -k 'asked_to_stop and launcher'"),
    tested("questions given up by oversampling come again", "tests/coordinator/test_sampler.py"),
    tested("a learning rate for every step, whether it trained or not", "tests/learn/test_optimizer.py -k every_step"),
    tested("generation_config.json of a judge", "tests/verify/test_judge_sglang.py -k generation_config"),
]
SUPERVISED = [
    refused(
        "sft: a row that is too long",
        f"{SFT} parallel.dp=1 learn.tokens_per_micro_batch=50",
        r"^error: demo/sft.jsonl:\d+: field 'response': \d+ tokens .*more than learn.tokens_per_micro_batch=50 holds.*select longest",
    ),
    refused(
        "sft: a row beyond the model's positions",
        f"{SFT} parallel.dp=1 data.train=data.jsonl",
        r"^error: data.jsonl:1: field 'response': .*more than the model's 1024 positions",
        lines("data.jsonl", [{"question": "1+1?", "response": "7 + " * 3000}]),
    ),
    refused(
        "sft: a question that is too long",
        f"{SFT} parallel.dp=1 data.train=data.jsonl",
        r"^error: data.jsonl:1: field 'question'",
        lines("data.jsonl", [{"question": "7 + " * 3000, "response": "2"}]),
    ),
    refused(
        "sft: questions held out that have no answers",
        f"{SFT} parallel.dp=1 eval.validation=5",
        "sft.jsonl:1: field 'gold_answer' is missing",
    ),
    refused(
        "sft: disaggregated", f"{SFT} parallel.dp=1 rollout.placement=disaggregated", "rollout.placement='disaggregated' is of OREAL runs"
    ),
    refused("sft: stop_word", f"{SFT} parallel.dp=1 stop_word=X", "unknown key stop_word; did you mean rollout.stop_word"),
    works("sft: to its end", SFT_RUN, "step 4/4", then=lambda folder: trained(folder, steps=4)),
    works(
        "sft: evaluated before and after",
        f"{SFT_RUN} steps=2 optimizer.warmup_steps=1 eval.data=demo/heldout.jsonl eval.interval=2 eval.max_new_tokens=8",
        "heldout: pass@1 at step 0",
        then=trained,
    ),
    refused(
        "sft: a run_dir that holds a run already",
        f"{SFT_RUN} checkpoint.interval=2 && {SFT_RUN} checkpoint.interval=2",
        "holds a run that came to step-00004; resume=auto, or take another run_dir",
        deadline_s=RUN_S,
    ),
    tested("sft: killed, asked to stop, and gone on with", "tests/test_sft.py -k killed_stopped_and_resumed"),
    tested("sft: sbatch, requeued on a Slurm", "tests/slurm/test_jobs.py -k supervised_start"),
    works("doctor: a supervised start", DOCTOR, "examples .*60 for training"),
    refused(
        "doctor: a supervised row that is too long",
        f"{DOCTOR} learn.tokens_per_micro_batch=50",
        "more than learn.tokens_per_micro_batch=50",
        status=1,
    ),
]
SELECTED = [
    works(
        "passrate with its answers",
        f"{PASSRATE} {SHORT} out=rated.jsonl answers=answers.jsonl",
        "pass rates",
        shell="head -6 demo/train.jsonl > six.jsonl",
        then=both_written,
    ),
    refused("passrate: answers in the same file", f"{PASSRATE} out=rated.jsonl answers=rated.jsonl", "must be another file than out"),
    tested("passrate: killed and gone on with", "tests/passrate/test_passrate.py -k killed_in_the_middle"),
    works(
        "select",
        f"{SELECT} per_question=2",
        "left out: 1 questions",
        lines("answers.jsonl", [answered({"aa": True, "bbbb": True, "cccccc": True, "d": False}), answered({"x": False}, "r")]),
        then=chosen,
    ),
    works(
        "select, and a supervised start with it",
        f"{SELECT} per_question=2 && {SFT_RUN} data.train=sft.jsonl examples_per_step=2",
        "step 4/4",
        lines("answers.jsonl", [answered({"It is 7.": True, "So 7.": True}, f"q{i}") for i in range(4)]),
    ),
    select(
        "", "answers.jsonl:1: no question with its answers .*passrate answers=FILE", {"id": "a", "question": "q"}, name="no answers in it"
    ),
    select("", "nothing to train on in 1 questions", answered({"x": False}), name="nothing right"),
    select("by=longest", "by='longest' is not one of shortest, nearest, random"),
    select("by=nearest", "length=None is given if and only if by=nearest"),
    select("per_question=0", "per_question=0 must be at least 1"),
    refused("select: no such file", SELECT, "answers.jsonl cannot be read"),
    refused("report: no run", "megatron-oreal report demo", "no run's folder"),
    refused(
        "convert: no checkpoint", "megatron-oreal convert megatron-to-hf --megatron demo --out x", "is no Megatron distributed checkpoint"
    ),
]
TRIALS = [*RESUME, *SUPERVISED, *SELECTED]
