"""What a report is made of: the run's files, the libraries, the pieces of a response; and what is said where something is wrong."""

import base64
import functools
import gzip
import http.server
import json
import threading

import pytest

from megatron_oreal.monitor.pieces import Pieces
from megatron_oreal.monitor.recorded import FOLDER, Marked, Weighted, file_of, write_marks, write_step
from megatron_oreal.report import command as report
from megatron_oreal.report import vendor
from megatron_oreal.report.run import Ablation, read_run
from megatron_oreal.report.trajectories import pack, share_out
from tests.report import synthetic
from tools.make_demo import make_tokenizer


def test_pieces_of_a_response_are_its_text():
    tokenizer = make_tokenizer()
    text = "First 12-5=7. Héllo, 你好 🙂🙂 ∑ \\boxed{19}"
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.convert_tokens_to_ids("<|im_end|>")]
    pieces = Pieces(tokenizer).of(ids)
    assert "".join(pieces) == text + "<|im_end|>" and len(pieces) == len(ids)
    assert "" in pieces, "no character was spread over tokens: the test says nothing"
    assert "🙂" in pieces and pieces[:2] == ["First", " "]
    torn = tokenizer.encode("a🙂", add_special_tokens=False)[:-1]
    assert "".join(Pieces(tokenizer).of(torn)) == tokenizer.decode(torn), "an answer may be cut within a character"


def test_pieces_in_context_where_a_token_is_written_differently_at_the_start():
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁two": 0, "▁words": 1, "s": 2, "<unk>": 3}, unk_token="<unk>"))
    words.decoder = tokenizers.decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert Pieces(tokenizer).of([0, 1, 2, 0]) == ["two", " words", "s", " two"]


def unpacked(block: str) -> list[dict]:
    return json.loads(gzip.decompress(base64.b64decode(block)))


def test_every_step_is_shown_and_trained_questions_go_first(tmp_path):
    answers = [("a \\boxed{1}", ["a", " ", "1"], True), ("b", ["b"], False)]
    for step in (1, 2, 3):
        write_step(tmp_path / FOLDER, step, [synthetic.group(f"{q}#{step}", "?", "1", answers) for q in range(4)])
        synthetic.write_weights(tmp_path, step, [Weighted(f"3#{step}", 0, ["a", " ", "1"], [0.25, 0.0, 1.0])])
        write_marks(tmp_path / FOLDER, step, [Marked(f"3#{step}", 1, 0, 1)])
    everything, some = pack(tmp_path, 100), pack(tmp_path, 6)
    assert (len(everything.index.of), everything.recorded, sum(everything.index.trained)) == (24, 24, 3)
    assert everything.index.reward == [1, -1] * 12 and everything.index.answer == ["1", ""] * 12
    assert some.index.id == ["3#1", "3#2", "3#3"] and some.recorded == 24
    first, second = unpacked(some.blocks[0])[:2]
    assert second == {"text": "b", "wrong": [0, 1]}, "marked where somebody knew it"
    assert first == {"text": "a \\boxed{1}", "pieces": ["a", " ", "1"], "weights": [0.25, 0.0, 1.0], "logprobs": [0.0, -0.25, -0.5]}
    assert pack(tmp_path, 0).index.of == [] and len(pack(tmp_path, 4).index.id) == 2
    assert share_out([5, 1, 5], 9) == [4, 1, 4] and sum(share_out([8] * 100, 7)) == 7


def test_a_seed_of_the_ablation_shows_its_table(tmp_path):
    synthetic.write_metrics(tmp_path / "seed7", 2)
    (tmp_path / "ablation.json").write_text('{"start": {"7": 0.5}, "REINFORCE": {"7": 0.75}}')
    assert read_run(tmp_path / "seed7").ablation == read_run(tmp_path).ablation == Ablation(["7"], {"start": [0.5], "REINFORCE": [0.75]})


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    def fails(*arguments) -> str:
        assert report.main([str(a) for a in arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "no run's folder, it holds neither metrics.jsonl nor ablation.json" in fails(tmp_path)
    synthetic.write_metrics(tmp_path, 2)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "loss/total"')
    assert report.main([str(tmp_path)]) == 0, "a row that is still being written"
    assert "3 steps, 0 trajectories" in capsys.readouterr().out
    write_step(tmp_path / FOLDER, 1, [synthetic.group("q", "?", "1", [("a", ["a"], True)])])
    with open(file_of(tmp_path / FOLDER, 1), "a") as file:
        file.write('{"prompt": 3}\n')
    assert "step-00001.jsonl, line 2: " in fails(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("\n")
    assert "metrics.jsonl, line 4: no row of metrics" in fails(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "ablation.json").write_text("{}")
    assert "ablation.json: no ablation table" in fails(tmp_path)


@pytest.fixture
def registry(tmp_path):
    """A registry whose packages are not those of the lock file."""
    for name in vendor.FILES:
        folder = tmp_path / "registry" / name / "-"
        folder.mkdir(parents=True)
        version = json.loads(vendor.LOCK.read_text())["packages"][f"node_modules/{name}"]["version"]
        (folder / f"{name}-{version}.tgz").write_bytes(gzip.compress(b"not what it says"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "registry")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_libraries_of_another_hash_are_refused(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(vendor, "VENDOR", tmp_path / "vendor")
    with pytest.raises(ValueError, match="uplot-.*its sha512 is not that of package-lock.json"):
        vendor.vendored(registry)
    with pytest.raises(OSError, match="uplot .* of the report cannot be fetched from http://127.0.0.1:1/"):
        vendor.vendored("http://127.0.0.1:1")
    assert not (tmp_path / "vendor").exists()


def test_the_lock_file_names_no_address():
    """It would be that of the mirror where the file was made."""
    assert '"integrity": "sha512-' in vendor.LOCK.read_text() and '"resolved"' not in vendor.LOCK.read_text()
