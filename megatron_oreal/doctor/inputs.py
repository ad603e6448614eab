"""What the run is to read: model, tokenizer, questions, checkpoint; and whether its layout and its engines fit the nodes."""

from collections.abc import Callable
from pathlib import Path

from megatron_oreal.config import SftConfig, TrainConfig
from megatron_oreal.data.examples import reader_of
from megatron_oreal.data.prompts import PromptSource, fitting
from megatron_oreal.data.questions import balance
from megatron_oreal.data.tokenizer import Template, load_tokenizer, stop_token
from megatron_oreal.data.training import read_training
from megatron_oreal.doctor.findings import LEFT_OUT, OK, Findings
from megatron_oreal.evaluation.evaluator import askings
from megatron_oreal.evaluation.sets import read_sets
from megatron_oreal.evaluation.validation import hold_out
from megatron_oreal.model.architecture import check_positions
from megatron_oreal.model.blueprint import open_model
from megatron_oreal.model.compute import Compute
from megatron_oreal.model.hf_files import check_folder
from megatron_oreal.model.platform import Platform
from megatron_oreal.monitor.saved import find_checkpoint
from megatron_oreal.run_state import changed_since
from megatron_oreal.sync.deliver import check_way


def check_inputs(findings: Findings, config: TrainConfig | SftConfig):
    """All that a run reads at its start. Returns the transformers config of the model, None where it cannot be used."""
    path = config.model.path
    model = _noted(
        findings,
        "model",
        "copy the model folder again, or name another with model.path",
        lambda: _opened(config),
        lambda opened: f"{path}: {opened[0].model_type}, {len(opened[2])} tensors, all there",
    )
    _check_text(findings, config, model)
    _noted(
        findings,
        "checkpoint",
        "see megatron_oreal/learn/README.md, Runs that end, and go on",
        lambda: _goes_on(config),
        lambda found: "; ".join(found),
    )
    check_compute(findings, config)
    return model[0] if model else None


def check_compute(findings: Findings, config: TrainConfig | SftConfig) -> None:
    """What it asks to compute with is there."""
    find_compute = lambda: Compute.find(config.compute, config.model.dtype, Platform.detect())  # noqa: E731
    _noted(findings, "compute", "install it, or turn the setting off", find_compute, lambda found: found.line().removeprefix("compute: "))


def _check_text(findings: Findings, config: TrainConfig | SftConfig, model) -> None:
    """Tokenizer, chat template and questions, each by means of those before it."""
    path, word, system = config.model.path, config.rollout.stop_word, config.data.system_prompt
    advice = "copy the tokenizer's files and its chat template into the model folder"
    say = lambda loaded: f"{len(loaded)} tokens, with a chat template"  # noqa: E731
    tokenizer = _noted(findings, "tokenizer", advice, lambda: load_tokenizer(path), say)
    if not tokenizer:
        return
    advice = "set it to the token with which the chat template ends an answer"
    _noted(findings, "stop word", advice, lambda: (stop_token(tokenizer, word),), _stop_word(word))
    advice = "set data.system_prompt='', or mend chat_template.jinja"
    say = lambda _: "asks a question" + (" after the system prompt" if system else "")  # noqa: E731
    template = _noted(findings, "chat template", advice, lambda: Template(tokenizer, system), say)
    if template and isinstance(config, TrainConfig):
        _noted(findings, "questions", "correct that line", lambda: _prompts(config, template), _questions)
    elif template and model:
        positions = model[0].max_position_embeddings
        _noted(findings, "examples", "correct that line", lambda: _read_examples(config, tokenizer, positions), _examples)


def check_layout(findings: Findings, config: TrainConfig | SftConfig, ranks: int | None, ranks_per_node: int, nodes: int) -> None:
    """Whether the parallel layout divides the ranks, and the engines can be shared out among their nodes.

    Args:
        ranks: of the job; None where nobody said.
        ranks_per_node: of each node that has any.
        nodes: all of them; of a disaggregated run those beyond the ranks' have engines.
    """
    if ranks is None:
        findings.add(LEFT_OUT, "layout", "how many ranks there are to be is not known", "--ranks N --ranks-per-node M")
        return
    parallel = config.parallel
    dp = findings.try_out("layout", "change parallel.*, or sbatch --nodes", parallel.data_parallel, ranks)
    if dp is None:
        return
    hosts = max(ranks // ranks_per_node, 1)
    if not findings.try_out("layout", "see conf/rollout/sglang.yaml", lambda: _engines_fit(config, hosts, nodes - hosts) or True):
        return
    findings.add(OK, "layout", f"{ranks} ranks: TP {parallel.tp} x PP {parallel.pp} x CP {parallel.cp} x DP {dp}")


def _engines_fit(config: TrainConfig | SftConfig, rank_hosts: int, other_hosts: int) -> None:
    """Raises ValueError where they do not."""
    if not config.has_engines:
        return
    if config.rollout.placement == "colocated":
        check_way(config.rollout, rank_hosts, Platform.detect().is_cpu)
    elif config.rollout.placement == "disaggregated" and other_hosts > 0:
        config.rollout.engines_of(0, other_hosts)


def check_model_is_seen(findings: Findings, path: str) -> None:
    """Whether a further node sees the files that the first one has looked into."""
    folder = findings.try_out("model", "put it on a file system that all nodes share, or mount it in the container", check_folder, path)
    if folder:
        findings.add(OK, "model", f"{path} is seen from the other nodes")


def _noted(findings: Findings, check: str, advice: str, work: Callable, say: Callable[[object], str]):
    """What `work` returns, with a line that says so; None where it fails, with an error."""
    value = findings.try_out(check, advice, work)
    if value is not None:
        findings.add(OK, check, say(value))
    return value


def _opened(config: TrainConfig):
    if config.has_engines:
        check_positions(config.model.path, config.rollout.max_total_tokens)
    return open_model(config.model.path, "policy", config.parallel)


def _goes_on(config: TrainConfig) -> list[str]:
    """From where the run goes on, and what has changed since."""
    found = find_checkpoint(Path(config.run_dir) / "checkpoints", config.resume)
    return [f"goes on from {found}" if found else "a new run", *changed_since(found, config)]


def _stop_word(word: str) -> Callable[[tuple[int]], str]:
    return lambda found: f"{word!r} is token {found[0]}"


def _prompts(config: TrainConfig, template: Template) -> tuple[list[int], list[str]]:
    """Questions to train on, prompts of an epoch, questions held out and in test sets; and what is to be said of how they are read."""
    read, sets = read_training(config.data), read_sets(config.eval.resolved())
    template.check([q.question for q in read.questions])
    held_out = hold_out(read.questions, config.eval.validation, config.seed)
    prompts = fitting([template.prompt(q) for q in balance(held_out.train, config.data.balance)], config.rollout.max_total_tokens)
    PromptSource(prompts, config.seed, weights=config.data.weights)
    askings(sets, template, config.eval.max_new_tokens, config.rollout.max_total_tokens)
    tests = sum(len(one.problems) for one in sets)
    notes = read.notes + [note for one in sets for note in one.notes]
    return [len(held_out.train), len(prompts), len(held_out.validation), tests], notes


def _read_examples(config: SftConfig, tokenizer, positions: int) -> tuple[list[int], list[str]]:
    """Examples, questions held out and in test sets; and what is to be said of how they are read."""
    examples, notes = reader_of(config, tokenizer, positions).read(with_answers=config.eval.validation > 0)
    held_out, sets = hold_out([one.question for one in examples], config.eval.validation, config.seed), read_sets(config.eval.resolved())
    tests = sum(len(one.problems) for one in sets)
    return [len(held_out.train), len(held_out.validation), tests], notes + [note for one in sets for note in one.notes]


def _examples(found: tuple[list[int], list[str]]) -> str:
    (examples, validation, tests), notes = found
    return "; ".join([f"{examples} for training, {validation or 'none'} for validation, {tests or 'none'} in test sets", *notes])


def _questions(found: tuple[list[int], list[str]]) -> str:
    (questions, prompts, validation, tests), notes = found
    counts = f"{questions} for training, {prompts} prompts an epoch; {validation or 'none'} for validation, {tests or 'none'} in test sets"
    return "; ".join([counts, *notes])
