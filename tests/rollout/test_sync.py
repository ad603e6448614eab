"""New weights in a real server, both ways: proven by checksum, by greedy output and by log-probabilities."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from megatron_oreal.model.hf_files import HFFolder
from megatron_oreal.prompts import load_tokenizer
from megatron_oreal.rollout.config import RolloutConfig
from megatron_oreal.rollout.generate import Rollout, Sampling
from megatron_oreal.rollout.server import ServerError
from megatron_oreal.rollout.sync import WeightSync
from megatron_oreal.trajectory import Prompt

CONFIG = RolloutConfig(max_new_tokens=24, max_total_tokens=60, sync_timeout_s=60, sync_bucket_mb=1)
PROMPT = Prompt("p", "q", "a", [7, 8, 9, 10])


def tensors(folder: str) -> dict[str, torch.Tensor]:
    source = HFFolder(folder)
    return {name: source[name][:] for name in source}


@pytest.fixture(scope="module")
def new_model(tiny_model):
    return tiny_model(seed=9, tokenizer=True, vocab_size=520, tie_word_embeddings=True)


@pytest.fixture
def connect(server, tmp_path):
    """connect(sender, **changes) -> WeightSync; disconnected at the end."""
    opened = []

    def make(sender: str = "test", **changes) -> WeightSync:
        config = dataclasses.replace(CONFIG, **changes)
        opened.append(WeightSync(server.endpoint, config, sender, tmp_path / "sync", torch.device("cpu")))
        return opened[-1]

    yield make
    for sync in opened:
        sync.disconnect()


def push(senders: list[tuple[WeightSync, dict]], version: int) -> None:
    senders[0][0].open()
    for sync, part in senders:
        sync.send(part.items(), version)
    senders[-1][0].close(version)


def assert_serves(server, folder: str) -> None:
    """Greedy output and its log-probabilities are transformers' for this folder."""
    rollout = Rollout(CONFIG, server.endpoint, load_tokenizer(folder))
    (got,) = rollout.generate([PROMPT], 0, Sampling(samples=1, temperature=0.0, top_p=1.0, max_new_tokens=16))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT.token_ids + got.token_ids])).logits[0, len(PROMPT.token_ids) - 1 : -1].log_softmax(-1)
    assert logits.argmax(-1).tolist() == got.token_ids
    torch.testing.assert_close(torch.tensor(got.logprobs), logits.amax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("way", ["distributed", "disk"])
def test_after_a_sync_the_server_has_the_new_weights(server, connect, served_model, new_model, way):
    sync = connect(sync=way)
    for version, folder in ((1, new_model), (2, served_model)):
        push([(sync, tensors(folder))], version)
        compared, held = sync.verify()
        assert compared == held
        assert server.endpoint.get("/model_info")["weight_version"] == str(version)
        assert_serves(server, folder)


@pytest.mark.parametrize("way", ["distributed", "disk"])
def test_two_senders_share_an_update(server, connect, served_model, new_model, way):
    first, second = connect("stage0", sync=way), connect("stage1", sync=way)

    def halves(folder):
        every = tensors(folder)
        late = {n: t for n, t in every.items() if "layers.2." in n or "layers.3." in n or n == "model.norm.weight"}
        return {n: t for n, t in every.items() if n not in late}, late

    for version, folder in ((3, new_model), (4, served_model)):
        push(list(zip((first, second), halves(folder), strict=True)), version)
        (a, held), (b, _) = first.verify(), second.verify()
        assert a + b == held
        assert_serves(server, folder)


def test_a_tensor_that_differs_after_the_sync_is_named(server, connect, served_model, new_model):
    sync = connect()
    push([(sync, tensors(served_model))], 5)
    other = connect("other")
    part = {n: t for n, t in tensors(new_model).items() if "layers.1.self_attn" in n}
    push([(other, part)], 6)
    with pytest.raises(ServerError, match=r"after the weight update model\.layers\.1\.self_attn\.(qkv_proj|o_proj)\.(weight|bias) differs"):
        sync.verify()
    push([(sync, tensors(served_model))], 7)
    sync.verify()


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


def send_half(endpoint, folder: str, run_dir: str) -> tuple[int, int, float]:
    """One pipeline stage of two: its half of the tensors, in its turn. Returns verify()'s counts and a sum over the ranks."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    late = (".layers.2.", ".layers.3.", "model.norm.")
    mine = {name: tensor for name, tensor in tensors(folder).items() if any(part in name for part in late) == bool(rank)}
    for turn in range(2):
        if turn == rank:
            sync = WeightSync(endpoint, CONFIG, f"rank{rank}", Path(run_dir), torch.device("cpu"))
        dist.barrier()
    for turn in range(2):
        if turn == rank:
            if turn == 0:
                sync.open()
            sync.send(mine.items(), version=1)
            if turn == 1:
                sync.close(version=1)
        dist.barrier()
    compared, held = sync.verify()
    sync.disconnect()
    total = torch.tensor([float(compared)])
    dist.all_reduce(total)  # the ranks' own group still works
    dist.destroy_process_group()
    return compared, held, total.item()


def test_two_ranks_with_a_group_of_their_own_share_an_update(ranks, server, served_model, tmp_path):
    (first, held, total), (second, _, _) = ranks(2, send_half, server.endpoint, served_model, str(tmp_path))
    assert first and second
    assert first + second == held == total


def test_an_engine_on_several_ranks_is_refused_at_once(tmp_path):
    class TwoRanks:
        url = "http://engine"

        def get(self, path, timeout_s):
            return {"tp_size": 2, "pp_size": 1}

    with pytest.raises(ValueError, match="rollout.server_args: .* tp_size=2"):
        WeightSync(TwoRanks(), CONFIG, "test", tmp_path, torch.device("cpu"))
