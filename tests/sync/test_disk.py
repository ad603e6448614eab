"""Changed bytes over disk: bit for bit what was sent, in files alone and in real engines; a chain that does not hold begins anew."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from megatron_oreal.errors import ServerError
from megatron_oreal.learn.parallel import Ranks
from megatron_oreal.learn.step import Learner
from megatron_oreal.oreal.objective import Objective
from megatron_oreal.sync import delta
from megatron_oreal.sync.chain import STATE, Chain
from megatron_oreal.sync.delta import bits_of
from megatron_oreal.sync.disk import Disk
from megatron_oreal.sync.follower import Follower, Order, order, wait_for
from megatron_oreal.sync.host_copy import HostCopy
from megatron_oreal.sync.publisher import Publisher
from tests.settings import engines_at, optimizer, policy_config, rollout_config, tiny_run, write_hf
from tests.sync.test_sync import assert_serves

NOT_A_NUMBER = torch.tensor([0x7F81, 0x7FC0, -1, -32768, 0], dtype=torch.int16).view(torch.bfloat16)
"""Signalling and quiet, of both signs; and both zeros."""


def first_weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    weights = {"embedding": torch.randn(130, 64), "matrix": torch.randn(70, 64), "still": torch.randn(64)}
    weights = {name: tensor.bfloat16() for name, tensor in weights.items()} | {"single": torch.randn(33), "one": torch.ones(1)}
    return weights | {"head": weights["embedding"]}  # tied


def changed(weights: dict[str, Tensor], version: int) -> dict[str, Tensor]:
    """A few numbers of the embedding, all or some of the others, never those of `still`."""
    new = {name: tensor.clone() for name, tensor in weights.items()}
    new["embedding"].view(-1)[version :: 40 + version].mul_(1 + 2**-7)
    new["embedding"].view(-1)[-5:] = NOT_A_NUMBER.roll(version)
    new["matrix"].view(-1)[:: 1 + version % 2 * 20].neg_()
    new["single"][version] = -torch.nan if version % 2 else -0.0
    new["one"] += version % 2
    return new | {"head": new["embedding"]}


class Written:
    """Two senders and the copy of a host, over files alone."""

    def __init__(self, folder: Path, model: Path):
        self.chain = Chain("token", folder / "sync", folder / "copy", ("a", "b"))
        self.senders = [Disk([], rollout_config(), name, folder / "sync", model, self.chain) for name in self.chain.senders]
        self.copy = HostCopy(self.chain, model)

    def write(self, weights: dict[str, Tensor], version: int) -> int:
        """Bytes."""
        self.senders[0].begin()
        for sender, part in zip(self.senders, (list(weights.items())[:2], list(weights.items())[2:]), strict=True):
            for bucket in (part[:1], part[1:]):
                sender.send(bucket, version)
            sender.finish(version)
        return sum(sender.written[0] for sender in self.senders)

    def held(self) -> dict[str, Tensor]:
        return {name: tensor for path in self.chain.own.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.fixture
def written(tmp_path, served_model):
    return Written(tmp_path, Path(served_model))


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all((bits_of(a[name]) == bits_of(b[name])).all() for name in a)


@pytest.mark.parametrize("piece", [delta.PIECE, 100])
def test_a_copy_is_bit_for_bit_what_was_sent(written, monkeypatch, piece):
    monkeypatch.setattr(delta, "PIECE", piece)
    weights, sizes = first_weights(), []
    for version in (1, 2, 3, 3, 9):  # one is published twice, as when the last engine was lost
        sizes.append(written.write(weights, version))
        written.copy.follow(version)
        assert same_bits(written.held(), weights)
        weights = changed(weights, version)
    assert written.chain.own.stat().st_mode & 0o077 == 0
    assert max(sizes[1:]) < 0.6 * sizes[0]
    assert len(list(written.chain.folder.iterdir())) == 1  # no version outlives the next
    still = written.write(written.held(), 10)
    assert still < 100  # nothing changed


def spoil_changes(written: Written) -> None:
    path = next(written.chain.version(2).glob("a-*.changes"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_changes(written: Written) -> None:
    path = next(written.chain.version(2).glob("b-*.changes"))
    path.write_bytes(path.read_bytes()[:-1])


def of_another_chain(written: Written) -> None:
    path = written.chain.manifest(2, "b")
    path.write_text(path.read_text().replace("token", "other"))


BREAKS = [
    spoil_changes,
    cut_changes,
    of_another_chain,
    lambda w: w.chain.manifest(2, "a").unlink(),
    lambda w: (w.chain.own / STATE).unlink(),
]


@pytest.mark.parametrize("break_it", BREAKS)
def test_changes_that_do_not_fit_are_refused_and_leave_no_copy_to_build_upon(written, break_it):
    weights = first_weights()
    written.write(weights, 1)
    written.copy.follow(1)
    new = changed(weights, 1)
    written.write(new, 2)
    break_it(written)
    with pytest.raises(ServerError, match="rollout.sync=disk"):
        written.copy.follow(2)
    with pytest.raises(ServerError, match="rollout.sync=disk"):
        written.write(changed(new, 2), 3)


def test_a_copy_for_which_there_is_no_room_names_the_key(written, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    written.write(first_weights(), 1)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ServerError, match=r"rollout\.sync_copy.*No space left on device"):
        written.copy.follow(1)


def test_a_host_without_ranks_follows_orders_and_says_what_keeps_it(written, tmp_path, served_model):
    config = rollout_config(sync_copy=str(tmp_path / "there"))
    follower = Follower(str(tmp_path), config, served_model, range(4, 6), host=1)
    (tmp_path / "engines").mkdir()
    follower.start()

    def publish(weights: dict[str, Tensor], version: int) -> None:
        written.write(weights, version)
        wanted = Order("token", version - 1, version, written.chain.senders)
        order(tmp_path, wanted)
        written.copy.follow(version)
        wait_for(tmp_path, wanted, [4, 5], timeout_s=20)

    weights = first_weights()
    for version in (1, 2):
        publish(weights, version)
        there = {name: tensor for path in follower.folder.glob("*.safetensors") for name, tensor in load_file(path).items()}
        assert same_bits(there, weights)
        weights = changed(weights, version)
    shutil.rmtree(follower.folder)
    with pytest.raises(ServerError, match=r"copy of the weights is gone, .* \(on the host of engine 4\)"):
        publish(weights, 3)
    follower.stop()
    with pytest.raises(ServerError, match=r"no new copy of the weights on the host of engine 4 within rollout.sync_timeout_s=0 s"):
        wait_for(tmp_path, Order("token", 3, 4, ()), [4, 5], timeout_s=0.2)


def step(gpt) -> None:
    """One number of a hundred."""
    with torch.no_grad():
        for chunk in gpt:
            for parameter in chunk.parameters():
                parameter.view(-1)[::100].mul_(-1.5)


def lose_it(copy: Path) -> None:
    shutil.rmtree(copy)


def tear_it(copy: Path) -> None:
    (copy / STATE).unlink()


def touch_the_next(copy: Path) -> None:
    """After it was brought up to date: before, senders on the same host would put it right."""
    follow = HostCopy.follow

    def follow_and_touch(self, version):
        HostCopy.follow = follow
        follow(self, version)
        with open(next(copy.glob("stage1-*.safetensors")), "r+b") as file:
            file.seek(-64, 2)
            block = file.read(8)
            file.seek(-64, 2)
            file.write(bytes(byte ^ 1 for byte in block))

    HostCopy.follow = follow_and_touch


def publish_many(run, endpoint, harms: list[Callable[[Path], None] | None]) -> list[dict]:
    """Two stages publish, and once more after each harm to the copy of their host."""
    with Ranks(run.parallel, run.seed) as ranks:
        learner = Learner(run, ranks)
        engines = engines_at(endpoint) if ranks.conducts else None
        with Publisher(run, learner.models, ranks, engines) as publisher:
            metrics = [publisher.publish(learner.policy.gpt, 1)]
            for version, harm in enumerate(harms, 2):
                step(learner.policy.gpt)
                ranks.barrier()
                if harm and ranks.conducts:
                    (copy,) = Path(run.rollout.sync_copy).glob("megatron_oreal-*")
                    harm(copy)
                ranks.barrier()
                metrics.append(publisher.publish(learner.policy.gpt, version))
        write_hf(learner.policy.gpt, learner.models, run.run_dir, ranks, timeout_s=600)
    return metrics


def test_what_changed_is_written_and_all_of_it_where_the_copy_is_not_what_it_was(ranks, server, engines, served_model, tmp_path, restored):
    run = tiny_run(
        served_model,
        {"pp": 2},
        run_dir=str(tmp_path),
        rollout=rollout_config(max_new_tokens=24, max_total_tokens=60, sync="disk", sync_copy=str(tmp_path / "copies"), sync_bucket_mb=1),
        objective=Objective(token_rm=False),
        policy=policy_config(optimizer=optimizer(), freeze_steps=0),
    )
    endpoint = dataclasses.replace(server.endpoint, number=0)  # as one of the run's own
    metrics = ranks(2, publish_many, run, endpoint, [None, lose_it, None, tear_it, touch_the_next, None])[0]
    assert [(m["sync/full"], m["sync/attempts"]) for m in metrics] == [(1, 1), (0, 1), (1, 2), (0, 1), (1, 2), (1, 2), (0, 1)]
    sizes = [m["sync/written_bytes"] for m in metrics]
    assert max(sizes[i] for i in (1, 3, 6)) < 0.2 * sizes[0] == 0.2 * sizes[2]
    assert_serves(engines, str(tmp_path / "hf"))
    assert not list((tmp_path / "copies").iterdir())  # the room is given back
