"""New weights in a real server, both ways: proven by checksum, by greedy output and by log-probabilities."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from megatron_oreal.data.tokenizer import load_tokenizer
from megatron_oreal.errors import ServerError
from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.sync.broadcast import TicketLock
from megatron_oreal.sync.carry import Origin, WeightSender
from megatron_oreal.trajectory import Prompt
from tests.settings import rollout_config

KV_HEADS = 2
CONFIG = rollout_config(max_new_tokens=24, max_total_tokens=60, sync_timeout_s=60, sync_bucket_mb=1)
PROMPT = Prompt("p", "q", "a", [7, 8, 9, 10])


def tensors(folder: str) -> dict[str, torch.Tensor]:
    source = HFFolder(folder)
    return {name: source[name][:] for name in source}


@pytest.fixture(scope="module")
def new_model(tiny_model):
    return tiny_model(seed=9, tokenizer=True, vocab_size=520, tie_word_embeddings=True)


@pytest.fixture
def connect(server, served_model, tmp_path):
    """connect(sender, **changes) -> WeightSender; disconnected at the end."""
    opened, turns = [], TicketLock(dist.HashStore())

    def make(sender: str = "test", **changes) -> WeightSender:
        config = dataclasses.replace(CONFIG, **changes)
        folders = tmp_path / "sync", Path(served_model)
        opened.append(WeightSender([server.endpoint], config, Origin(sender, torch.device("cpu"), turns, *folders, KV_HEADS)))
        return opened[-1]

    yield make
    for sync in opened:
        sync.disconnect()


def push(senders: list[tuple[WeightSender, dict]], version: int) -> None:
    senders[0][0].pause()
    for sync, part in senders:
        sync.send(part.items(), version)
    senders[-1][0].commit(version)
    senders[-1][0].resume(version)


def assert_serves(engines, folder: str) -> None:
    """Greedy output and its log-probabilities are transformers' for this folder."""
    rollout = Rollout(CONFIG, engines, load_tokenizer(folder))
    (got,) = rollout.generate([PROMPT], 0, Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=16))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT.token_ids + got.token_ids])).logits[0, len(PROMPT.token_ids) - 1 : -1].log_softmax(-1)
    assert logits.argmax(-1).tolist() == got.token_ids
    torch.testing.assert_close(torch.tensor(got.logprobs), logits.amax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["distributed", "tensor", "disk"])
def test_after_a_sync_the_server_has_the_new_weights(server, engines, connect, served_model, new_model, tmp_path, way):
    sync = connect(sync=way)
    for version, folder in ((1, new_model), (2, served_model)):
        push([(sync, tensors(folder))], version)
        compared, held = sync.compare(sync.checksums())
        assert compared == held
        assert server.endpoint.get("/model_info")["weight_version"] == str(version)
        assert_serves(engines, folder)
    assert [f.name for f in tmp_path.glob("sync/*")] == (["version-00002"] if way == "disk" else [])  # no version outlives the next


def test_an_engine_that_slept_serves_the_weights_that_it_got_when_it_woke(server, engines, connect, served_model, new_model):
    server.endpoint.post("/flush_cache")
    server.endpoint.post("/release_memory_occupation")
    server.endpoint.post("/resume_memory_occupation")
    sync = connect()
    push([(sync, tensors(new_model))], 3)
    sync.compare(sync.checksums())
    assert_serves(engines, new_model)
    push([(sync, tensors(served_model))], 4)  # as the other tests want it


@pytest.mark.parametrize("way", ["distributed", "tensor", "disk"])
def test_two_senders_share_an_update(engines, connect, served_model, new_model, way):
    first, second = connect("stage0", sync=way), connect("stage1", sync=way)

    def halves(folder):
        every = tensors(folder)
        late = {n: t for n, t in every.items() if "layers.2." in n or "layers.3." in n or n == "model.norm.weight"}
        return {n: t for n, t in every.items() if n not in late}, late

    for version, folder in ((3, new_model), (4, served_model)):
        push(list(zip((first, second), halves(folder), strict=True)), version)
        (a, held), (b, _) = first.compare(first.checksums()), second.compare(second.checksums())
        assert a + b == held
        assert_serves(engines, folder)


def test_a_tensor_that_differs_after_the_sync_is_named(server, connect, served_model, new_model):
    sync = connect()
    push([(sync, tensors(served_model))], 5)
    other = connect("other")
    part = {n: t for n, t in tensors(new_model).items() if "layers.1.self_attn" in n}
    push([(other, part)], 6)
    with pytest.raises(ServerError, match=r"after the weight update model\.layers\.1\.self_attn\.(qkv_proj|o_proj)\.(weight|bias) differs"):
        sync.compare(sync.checksums())
    push([(sync, tensors(served_model))], 7)
    sync.compare(sync.checksums())


def test_an_engine_that_refuses_raises_instead_of_hanging(server, connect, served_model):
    sync = connect()
    with pytest.raises(ServerError, match=r"/update_weights_from_distributed: status 400"):
        sync.send(tensors(served_model).items(), 8)  # without open(): the engine refuses, nobody joins the broadcast
    with pytest.raises(ServerError, match=r"/update_weights_from_disk: status 400"):
        server.endpoint.post("/update_weights_from_disk", {"model_path": "no/such/folder"})


def test_control_calls_need_the_key(server):
    stranger = dataclasses.replace(server.endpoint, key=None)
    with pytest.raises(ServerError, match="status 401"):
        stranger.post("/pause_generation", {"mode": "retract"})
