"""A proxy in the environment sees nothing of what is said to engines, nor their keys; it leads to a judge where that is asked for."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from megatron_oreal.engines.server import Server
from megatron_oreal.errors import ServerError
from megatron_oreal.verify import Verifier
from tests.settings import judge_config, rollout_config, verify_config


@pytest.fixture
def proxy(monkeypatch):
    """What came to it; it refuses everything."""
    with recording_proxy() as (url, came):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, url)
            monkeypatch.setenv(name.upper(), url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield came


@contextmanager
def recording_proxy():
    came = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            came.append((self.requestline, dict(self.headers)))
            self.send_error(503)

        do_GET = do_POST = do_CONNECT = answer

        def log_message(self, *_) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()


def test_an_engine_becomes_ready_and_answers_past_a_proxy(served_model, tmp_path, proxy, monkeypatch):
    """SGLang's own request to itself, before it says that it is ready, is one of them. A netrc would replace the key."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login nobody password nothing\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with Server(rollout_config(max_new_tokens=64, max_total_tokens=200, ready_timeout_s=300), served_model, "float32", tmp_path) as server:
        server.wait_ready()
        answer = server.endpoint.post("/generate", {"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 2}})
        assert answer["output_ids"] and not proxy
        assert requests.get(server.endpoint.url + "/health").status_code == 503 and proxy  # it does record what comes


@pytest.mark.parametrize("use_proxy", [False, True])
def test_a_judge_is_asked_through_the_proxy_where_that_is_wanted(proxy, use_proxy):
    """Nobody has this name, so there is no other way either."""
    judge = judge_config(urls=["http://judge.invalid"], model="m", start_timeout_s=20.0, use_proxy=use_proxy)
    with pytest.raises(ServerError, match="status 503" if use_proxy else "verify.judge.use_proxy=true"):
        Verifier(verify_config(mode="judge", judge=judge, workers=1))
    assert [line for line, _ in proxy] == (["GET http://judge.invalid/v1/models HTTP/1.1"] if use_proxy else [])
