"""What is there before a command is typed: models that differ from the demo's, files, listeners, proxies."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Prepared = Callable[[Path], None]


def model(
    config: Mapping | None = None, tokenizer_config: Mapping | None = None, tokenizer: Mapping | None = None, name: str = "model"
) -> Prepared:
    """A copy of the demo's model with other fields in its files."""

    def write(folder: Path) -> None:
        copy = folder / name
        shutil.copytree(folder / "demo" / "base", copy, dirs_exist_ok=True)
        for file, changes in (("config", config), ("tokenizer_config", tokenizer_config), ("tokenizer", tokenizer)):
            path = copy / f"{file}.json"
            if changes:
                path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return write


def llama(folder: Path) -> None:
    """The demo's model as a Llama, which has no biases, with the class of tokenizer that R1-Distill-Llama names."""
    from safetensors.torch import load_file, save_file

    named = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False}
    model(named, {"tokenizer_class": "LlamaTokenizerFast"})(folder)
    path = folder / "model" / "model.safetensors"
    kept = {key: value for key, value in load_file(path).items() if not key.endswith("proj.bias")}
    save_file(kept, path, metadata={"format": "pt"})


def file(name: str, content: str | bytes) -> Prepared:
    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return write


def lines(name: str, rows: Sequence[object]) -> Prepared:
    return file(name, "".join(json.dumps(row) + "\n" for row in rows))


def removed(name: str) -> Prepared:
    return lambda folder: (folder / name).unlink()


def cut_off(name: str, size: int) -> Prepared:
    """A file of which only the first bytes came."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def other_weights(name: str) -> Prepared:
    """In a model's folder, of the same shapes."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / name / "model.safetensors"
        save_file({key: value * 1.5 for key, value in load_file(path).items()}, path, metadata={"format": "pt"})

    return write


@contextmanager
def listener(_: Path) -> Iterator[Mapping[str, str]]:
    """Somebody who listens at PORT and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield {"PORT": str(taken.getsockname()[1])}


@contextmanager
def free_port(_: Path) -> Iterator[Mapping[str, str]]:
    """PORT, at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    yield {"PORT": str(port)}


@contextmanager
def proxy(folder: Path) -> Iterator[Mapping[str, str]]:
    """One that refuses everything, and what came to it is in the file `proxy`."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            with open(folder / "proxy", "a") as came:
                came.write(self.requestline + "\n")
            self.send_error(503)

        do_GET = do_POST = do_CONNECT = answer

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {name: url for lower in ("http_proxy", "https_proxy", "all_proxy") for name in (lower, lower.upper())}
        server.shutdown()


def nothing_came(folder: Path) -> str:
    """To the proxy."""
    came = folder / "proxy"
    return f"the proxy was asked {came.read_text().splitlines()[0]!r}" if came.exists() else ""


def trained(folder: Path, run: str = "run", steps: int = 2) -> str:
    """The run in there came to its end, and all of its figures are numbers."""
    path = folder / run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    if [row["step"] for row in rows if row["step"]] != list(range(1, steps + 1)):
        return f"{path} has the steps {[row['step'] for row in rows]}"
    odd = [key for row in rows for key, value in row.items() if isinstance(value, float) and value != value]
    return f"{path}: {odd[0]} is no number" if odd else "" if (folder / run / "hf" / "model.safetensors").exists() else f"no {run}/hf"
