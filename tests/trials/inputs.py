"""Trials of what a user gives: keys, models, questions."""

import gzip
import json
from pathlib import Path

from tests.trials.prepare import cut_off, file, lines, llama, model, removed, trained
from tests.trials.trial import RUN, SFT, TRAIN, Trial, refused, tested, works

ONE = f"{TRAIN} parallel.dp=1"  # a rank less to start
GIVEN = f"{ONE} model.path=model"
DOCTOR = "megatron-oreal doctor experiment=demo data.train=demo/train.jsonl run_dir=run"
PAIRS = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{L}{2}"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}
GENERATION = {"repetition_penalty": 1.5, "top_k": 1, "temperature": 0.01, "top_p": 0.01, "min_p": 0.9, "do_sample": True}


def key(words: str, says: str, name: str = "") -> Trial:
    return refused(name or f"train {words}", f"{TRAIN} {words}", says)


KEYS = [
    refused("a misspelt command", "megatron-oreal trian", "'trian' is no command; did you mean train"),
    refused("no such bench", "megatron-oreal bench pakcing", "did you mean packing"),
    refused("a misspelt option", "megatron-oreal plan --serach", "did you mean --search"),
    works("no more than the command's name", "megatron-oreal train --help", "usage: megatron-oreal train"),
    refused("train without a word", "megatron-oreal train", "model.path is missing"),
    key("lr=1", "unknown key lr; did you mean policy.optimizer.lr or token_rm.optimizer.lr"),
    key("rolout.samples=4", "did you mean rollout.samples"),
    key("experimnt=demo", "did you mean experiment"),
    key("experiment=oreal_33b", "did you mean oreal_32b"),
    key("experiment=demo_sft", "is for another command: it sets examples_per_step"),
    key("parallel=zzz", r"\(auto, dp2, pp2, tp2\)"),
    key("eval.set.x=demo/heldout.jsonl", "did you mean eval.sets"),
    key("model.path='/models (v2)/x'", r"write '"),
    key("model.path=/my own model", "write 'model.path=/my own model'"),
    key("model.path=/a=b", "write '"),
    key("'rollout.urls=[http://h:1,~x'", "error"),
    key("steps=0", "steps=0"),
    key("steps=-1", "steps"),
    key("steps=null", "steps"),
    key("steps=many", "steps"),
    key("steps=1.5", "steps"),
    key("policy.optimizer.lr=nan", r"policy\.optimizer\.lr"),
    key("policy.optimizer.lr=1e400", r"policy\.optimizer\.lr"),
    key("objective.keep=some", r"objective\.keep"),
    key("model.dtype=float8", r"model\.dtype"),
    key("data.questions_per_step=0", r"data\.questions_per_step"),
    key("rollout.samples=0", r"rollout\.samples"),
    key("rollout.sync=pigeon", r"rollout\.sync"),
    key("rollout.max_new_tokens=99999", r"rollout\.max_new_tokens"),
    key("parallel.dp=0", r"parallel\.dp"),
    key("verify.workers=-1", r"verify\.workers"),
    key("eval.interval=0 eval.data=demo/heldout.jsonl", r"eval\.interval"),
    key("seed=x", "seed"),
    key("resume=nowhere", "nowhere"),
    key("policy.warmup_counts_frozen=false policy.optimizer.warmup_steps=20", r"policy\.optimizer\.warmup_steps=20 must be below steps=30"),
    key(
        "rollout.max_total_tokens=1024", r"^error: rollout.max_total_tokens=1024 must be below the 1024 positions of the model in demo/base"
    ),
    *(
        refused(
            f"{command} beyond the model's positions",
            f"megatron-oreal {command} model.path=demo/base rollout.max_total_tokens=1024 {more}",
            "must be below the 1024 positions",
        )
        for command, more in (
            ("passrate", "experiment=demo_passrate questions=demo/train.jsonl out=rated.jsonl"),
            ("evaluate", "eval.data=demo/heldout.jsonl run_dir=run"),
        )
    ),
    tested("every leaf set to 0, -1, null, text, NaN, infinity, 1e30", "tests/test_leaves.py"),
]


def config(name: str, says: str, **changes) -> Trial:
    return refused(f"config.json: {name}", GIVEN, says, model(changes))


def template(name: str, text: str, says: str, system: str = "''") -> list[Trial]:
    """In training, and what the doctor says of it."""
    before = model(), file("model/chat_template.jinja", text)
    key = f"data.system_prompt={system}"
    return [
        refused(f"a chat template that {name}", f"{GIVEN} {key}", f"model.path: the chat template of model {says}", *before),
        refused(f"doctor: a chat template that {name}", f"{DOCTOR} model.path=model {key}", says, *before, status=1),
    ]


def spaced(folder: Path, names: str = "run") -> str:
    """Questions reached the engines with their spaces: what was asked, decoded by tokenizer.json, is what stands in the file."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    groups = [json.loads(line) for path in (folder / names / "trajectories").glob("step-*.jsonl") for line in path.open(encoding="utf-8")]
    asked = [(group["prompt"]["question"], own.decode(group["prompt"]["token_ids"], skip_special_tokens=False)) for group in groups]
    wrong = [text for question, text in asked if question not in text]
    return f"asked {wrong[0]!r}" if wrong else "" if groups else "nothing was recorded"


def same_trajectories(folder: Path) -> str:
    """Of two runs, `plain` and `run`."""
    one, other = ([path.read_text() for path in sorted((folder / name / "trajectories").glob("step-*.jsonl"))] for name in ("plain", "run"))
    tokens = [
        [[t["token_ids"] for t in json.loads(line)["trajectories"]] for text in each for line in text.strip().split("\n")]
        for each in (one, other)
    ]
    return "" if tokens[0] and tokens[0] == tokens[1] else "generation_config.json changed what was sampled"


SAMPLE = "rollout.deterministic=true rollout.concurrency=1 mode=rollout_only record=true data.questions_per_step=4"
MODELS = [
    works(
        "a LlamaTokenizer over a byte-level tokenizer.json",
        f"{RUN} model.path=model record=true",
        "step 2/2",
        llama,
        then=spaced,
    ),
    works(
        "a Qwen2Tokenizer whose tokenizer.json has another pre-tokenizer",
        f"{RUN} model.path=model record=true",
        "step 2/2",
        model(tokenizer={"pre_tokenizer": PAIRS}),
        then=spaced,
    ),
    works(
        "generation_config.json with penalties changes nothing",
        f"{RUN} {SAMPLE} run_dir=plain && {RUN} {SAMPLE} model.path=model",
        "step 2/2",
        model(),
        lines("model/generation_config.json", [GENERATION]),
        then=same_trajectories,
    ),
    refused(
        "a token without a row in the model",
        GIVEN,
        r"model.path: the tokenizer of model has a token \d+ \('<x9>'\), the model has \d+ rows",
        model(tokenizer_config={"extra_special_tokens": ["<|im_start|>", *(f"<x{i}>" for i in range(10))]}),
        file("model/chat_template.jinja", "<x9>{{ messages[0]['content'] }}"),
    ),
    *template("is broken", "{{ messages[0]['content'] }", "fails: TemplateSyntaxError"),
    *template(
        "refuses system messages",
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ messages[0].content }}",
        "takes no system message: it fails: TemplateError: System role not supported",
        "Think.",
    ),
    *template("drops the system message", "{{ messages[-1].content }}", "leaves the system message out", "Think."),
    *template("leaves the question out", "{{ messages[0].role }}", "leaves the question out"),
    refused("no chat template", GIVEN, "has no chat template", model(), removed("model/chat_template.jinja")),
    refused("a damaged tokenizer.json", GIVEN, "model.path: no tokenizer in model", model(), file("model/tokenizer.json", "{")),
    refused(
        "no tokenizer.json",
        GIVEN,
        "model.path: the tokenizer in model makes '' of .*there is no tokenizer.json",
        model(),
        removed("model/tokenizer.json"),
    ),
    config(
        "rope_theta as text",
        "rope_theta '10000.0' must be a number above 0",
        rope_parameters={"rope_type": "default", "rope_theta": "10000.0"},
    ),
    config("torch_dtype auto", "torch_dtype 'auto' must be what the weights are stored in", dtype=None, torch_dtype="auto"),
    config("quantization_config", "quantized weights cannot be trained", quantization_config={"quant_method": "gptq", "bits": 4}),
    config("rope_scaling as text", "rope_scaling|rope_parameters", rope_parameters=None, rope_scaling="yarn"),
    config("head_dim as text", "head_dim '32'", head_dim="32"),
    config("no heads", "num_attention_heads", num_attention_heads=0),
    config("layer_types as text", "layer_types", layer_types="full_attention"),
    config("another architecture", "is not one of", model_type="mamba", architectures=["MambaForCausalLM"]),
    config("more rows than weights", "has shape", vocab_size=1024),
    config("num_key_value_heads null beside weights that have fewer", "has shape", num_key_value_heads=None),
    works("config.json: head_dim null", f"{DOCTOR} model.path=model parallel.dp=1", "ok +model", model({"head_dim": None})),
    refused("config.json is a list", GIVEN, "config.json", model(), file("model/config.json", "[]")),
    refused("config.json is cut off", GIVEN, "config.json", model(), cut_off("model/config.json", 40)),
    refused("a model folder that is not there", f"{ONE} model.path=nowhere", "nowhere is no Hugging Face model folder"),
    refused("a model's name in place of a folder", f"{ONE} model.path=Qwen/Qwen2.5-7B", "is no Hugging Face model folder"),
    refused("no weights", GIVEN, "no .*safetensors", model(), removed("model/model.safetensors")),
    refused("weights that are cut off", GIVEN, "model: .* is damaged or cut off", model(), cut_off("model/model.safetensors", 5000)),
]
GOOD = json.dumps({"question": "1+1?", "gold_answer": "2"}) + "\n"


def data(name: str, content: str | bytes, says: str, path: str = "data.jsonl") -> Trial:
    """A second line, or the whole file."""
    return refused(f"questions: {name}", f"{ONE} data.train={path}", says, file(path, content))


def row(name: str, text: str | bytes, says: str) -> Trial:
    return data(name, GOOD.encode() + (text if isinstance(text, bytes) else text.encode()) + b"\n", rf"data\.jsonl:2: {says}")


def mixed(folder: Path) -> str:
    """Two sets were drawn from as their weights say."""
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open(encoding="utf-8")]
    drawn = [(r["data/lines/questions"], r["data/rows/questions"]) for r in rows if r["step"]]
    return trained(folder) or ("" if drawn == [(6, 2), (6, 2)] else f"drawn {drawn}")


def parquet(folder: Path) -> None:
    """Of verl's kind."""
    import pyarrow
    from pyarrow import parquet as files

    read = [json.loads(line) for line in (folder / "demo" / "train.jsonl").open(encoding="utf-8")]
    rows = [
        {"prompt": [{"role": "user", "content": r["question"]}], "reward_model": {"style": "rule", "ground_truth": r["gold_answer"]}}
        for r in read[:12]
    ]
    files.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")


def zipped(folder: Path) -> None:
    (folder / "lines.jsonl.gz").write_bytes(gzip.compress((folder / "demo" / "train.jsonl").read_bytes()))


SETS = "data.train=null data.sets.lines.data=lines.jsonl.gz data.sets.rows.data=rows.parquet"
DATA = [
    refused("questions: no such file", f"{ONE} data.train=nowhere.jsonl", "nowhere.jsonl: no such file"),
    data("an empty file", "", "no lines"),
    data("another kind of file", GOOD, "files are read", "data.txt"),
    data("UTF-16", GOOD.encode("utf-16"), "UTF-16, not UTF-8"),
    data("gzip that breaks off", gzip.compress(GOOD.encode() * 1000)[:60], "cannot be read", "data.jsonl.gz"),
    data("no gzip at all", GOOD, "cannot be read", "data.jsonl.gz"),
    data("no Parquet at all", b"PAR1 no", "cannot be read", "data.parquet"),
    data("an array without end", '[{"question": "x", "answer": 1}', "not JSON", "data.json"),
    row("Latin-1", b'{"question": "caf\xe9", "answer": "1"}', "field 'question': byte 0xE9 is not UTF-8"),
    row("half of a surrogate pair", '{"question": "a \\ud83d b", "answer": "1"}', r"field 'question': \\ud83d is half"),
    row("NaN", '{"question": "x", "answer": NaN}', "field 'answer': NaN is no number"),
    row("a number beyond all floats", '{"question": "x", "answer": 1e999}', "field 'answer': 1e999 is larger"),
    row(
        "a number of a million digits",
        '{"question": "x", "answer": %s}' % ("1" * 1_000_000),
        "field 'answer': a number of 1,000,000 digits",
    ),
    row("nesting without end", '{"question": "x", "answer": ' + "[" * 100_000, "field 'answer': lists and objects nested deeper"),
    row("no answer", '{"question": "x"}', "field 'gold_answer' is missing"),
    row("an empty question", '{"question": " ", "gold_answer": "1"}', "field 'question' must be a non-empty string"),
    row("a question that is a number", '{"question": 7, "gold_answer": "1"}', "field 'question' must be"),
    row("a key twice", '{"question": "x", "answer": "1", "answer": "2"}', "field 'answer': stands there twice"),
    row("a line that breaks off", '{"question": "x", ', "not JSON"),
    row("a list", '["x"]', "a JSON object is wanted"),
    row("a pass rate above 1", '{"question": "x", "answer": "1", "pass_rate": 1.5}', "field 'pass_rate' must be a number from 0 to 1"),
    refused(
        "questions: a name of data.fields that is not there",
        f"{ONE} data.fields.gold_answer=anser",
        r"train.jsonl:1: field 'anser' \(fields.gold_answer\) is missing",
    ),
    refused(
        "questions: all too long",
        f"{ONE} data.train=data.jsonl data.balance=[]",
        "no question is left",
        lines("data.jsonl", [{"question": "x " * 2000, "answer": 1}]),
    ),
    refused("questions: a weight below 0", f"{ONE} {SETS} data.sets.rows.weight=-1 data.sets.lines.weight=1", "weight", parquet, zipped),
    refused("questions: one of two sets without a weight", f"{ONE} {SETS} data.sets.rows.weight=1", "weight", parquet, zipped),
    works(
        "questions: two sets mixed, Parquet of verl's and gzipped lines",
        f"{RUN} {SETS} data.sets.lines.weight=3 data.sets.rows.weight=1",
        "rows: .* drawn|step 2/2",
        parquet,
        zipped,
        then=mixed,
    ),
    refused(
        "examples: Latin-1",
        f"{SFT} parallel.dp=1 data.train=data.jsonl",
        "byte 0xE9 is not UTF-8",
        file("data.jsonl", b'{"question": "caf\xe9", "response": "1"}\n'),
    ),
    refused(
        "examples: half of a surrogate pair",
        f"{SFT} parallel.dp=1 data.train=data.jsonl",
        "is half",
        file("data.jsonl", '{"question": "x", "response": "\\ud83d"}\n'),
    ),
    refused("test set: NaN", f"{ONE} eval.data=data.jsonl", "NaN is no number", file("data.jsonl", '{"question": "x", "answer": NaN}\n')),
]
TRIALS = [*KEYS, *MODELS, *DATA]
