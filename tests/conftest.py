"""Options of the whole test suite, real Megatron ranks over gloo, engines and whole runs that start at once, and tiny models."""

import os
import traceback
from pathlib import Path

import pytest

from megatron_oreal import launcher

SHIPPED_GOLDEN = Path(__file__).parent / "oreal" / "golden"
SHARED_GOLDEN = Path(__file__).parents[2] / "shared" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=SHARED_GOLDEN if SHARED_GOLDEN.is_dir() else SHIPPED_GOLDEN,
        help="folder of *.npz files that the OREAL objective is run against (default: ../shared/golden, else the shipped copies)",
    )
    parser.addoption(
        "--engine-args",
        nargs="+",
        default=["mem-fraction-static=0.3"],
        metavar="FLAG=VALUE",
        help="flags of SGLang for the tests on a GPU, as in rollout.server_args",
    )
    parser.addoption(
        "--real-model",
        type=Path,
        default=Path(__file__).parents[1] / "work_dirs" / "real_model",
        help="for the tests marked real: Hugging Face folder of a pretrained model of some 0.5 B parameters; or `tiny`: a random model, "
        "to try these tests themselves",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first: where several files are run at a time, none of it is left for the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


LONG = ("test_jobs", "test_demo", "test_train", "test_oreal_step", "test_megatron_ranks", "test_engines_lost", "test_lost_rank")
DEADLINE_S = 180
SERVED_VOCAB = 520  # no multiple of 64


def _rank_main(rank: int, world: int, port: int, function, arguments, results) -> None:
    import faulthandler

    import torch

    faulthandler.dump_traceback_later(DEADLINE_S - 10)  # a rank that hangs says where
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        results.put((rank, function(*arguments), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def run_ranks(world: int, function, *arguments, context=None) -> list:
    """function(*arguments) in `world` processes; their results in rank order, or the first failure's traceback.

    `context`: of multiprocessing; None: that of tests.forked.
    """
    from tests.forked import rank_context

    context = context or rank_context()
    results = context.Queue()
    port = launcher.free_port()
    processes = [context.Process(target=_rank_main, args=(r, world, port, function, arguments, results)) for r in range(world)]
    for process in processes:
        process.start()
    try:
        answers = {}
        while len(answers) < world:
            rank, value, failure = results.get(timeout=DEADLINE_S)
            assert failure is None, f"rank {rank} of {world}:\n{failure}"
            answers[rank] = value
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    return [answers[r] for r in range(world)]


@pytest.fixture(scope="session")
def ranks():
    """run_ranks(world, function, *arguments, context=None)."""
    return run_ranks


@pytest.fixture(scope="session", autouse=True)
def forked():
    """All engines and whole runs that are started through launcher.start_module: their imports are paid once, see forked.py."""
    from tests.forked import ForkServers

    servers = ForkServers()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "start_module", servers.start_module)
        yield
    servers.stop()


@pytest.fixture
def by_hand(monkeypatch):
    """Processes are started as users start them."""
    from tests.forked import BY_HAND

    monkeypatch.setattr(launcher, "start_module", BY_HAND)


@pytest.fixture(scope="session")
def task(tmp_path_factory) -> Path:
    """The demo's small model with random weights, and a few questions."""
    from tools import make_demo

    folder = tmp_path_factory.mktemp("task")
    make_demo.main(["--out", str(folder), "--train", "24", "--heldout", "16", "--sft", "16"])
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """make(name, seed, tokenizer, **config) -> folder of a small random model in Hugging Face form, whose logits differ widely."""
    made = {}

    def make(kind: str = "qwen2", seed: int = 5, tokenizer: bool = False, **changes):
        key = (kind, seed, tokenizer, repr(sorted(changes.items())))
        if key not in made:
            made[key] = _write_model(tmp_path_factory.mktemp(kind), kind, seed, changes)
            if tokenizer:
                from tools.make_demo import make_tokenizer

                make_tokenizer().save_pretrained(made[key])
        return str(made[key])

    return make


def _write_model(folder, kind: str, seed: int, changes: dict):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": 97,  # odd, so that TP 2 pads it
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": False,
            **changes,
        },
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            center = 1.0 if "norm" in name else 0.0
            parameter.copy_(center + 0.25 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served_model(tiny_model):
    """The model that the session's server starts with: a vocabulary that SGLang pads, tied embeddings, a tokenizer."""
    return tiny_model(tokenizer=True, vocab_size=SERVED_VOCAB, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def server(served_model, tmp_path_factory):
    """A real SGLang server on CPU, for all tests that need one."""
    from megatron_oreal.engines.server import Server
    from tests.settings import rollout_config

    config = rollout_config(max_new_tokens=64, max_total_tokens=200, ready_timeout_s=400)
    with Server(config, served_model, "float32", tmp_path_factory.mktemp("server")) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def engines(server):
    """The session's server as a run sees it that was given its address."""
    from tests.settings import engines_at

    return engines_at(server.endpoint)


@pytest.fixture
def asking(server, served_model, tmp_path):
    """Overrides that point a command at the session's server."""
    key = tmp_path / "key"
    key.write_text(server.endpoint.key + "\n")
    return [
        f"model.path={served_model}",
        "model.dtype=float32",
        "rollout.placement=external",
        f"rollout.urls=[{server.endpoint.url}]",
        f"rollout.admin_key_file={key}",
        "rollout.max_total_tokens=120",
        "rollout.max_new_tokens=16",
        "rollout.samples=4",
        "verify.workers=1",
    ]
