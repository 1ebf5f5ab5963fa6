"""One jar over HTTP: right, missing, broken off, unreachable. The repository is a server in this test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.dev.kafka_jars import DownloadBroken, Jar, JarsUnavailable, fetch_jars, from_maven
from deploy.dev.ports import FreePort
from deploy.dev.terminal import Terminal

CONTENT = b"class files" * 10_000
WHOLE = Jar("org/kip/whole/1.0/whole-1.0.jar", "0" * 64, len(CONTENT))
HALF = Jar("org/kip/half/1.0/half-1.0.jar", "0" * 64, len(CONTENT))
ABSENT = Jar("org/kip/absent/1.0/absent-1.0.jar", "0" * 64, len(CONTENT))


class Repository(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = {WHOLE.path: CONTENT, HALF.path: CONTENT[:1000]}.get(self.path.lstrip("/"))
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", "0" if content is None else str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(content or b"")  # half of it, then the connection ends

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the standard library's name)
        pass


@pytest.fixture
def repositories() -> Iterator[dict[str, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield {"test": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_jar_is_found_by_its_coordinates(repositories: dict[str, str], tmp_path: Path) -> None:
    file = from_maven(WHOLE, tmp_path, repositories)

    assert file == tmp_path / WHOLE.path
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("jar", "told"),
    [(HALF, "the download broke off"), (ABSENT, "the Maven repository did not give it")],
    ids=["half", "absent"],
)
def test_a_failure_is_told_in_a_few_words(jar: Jar, told: str, repositories: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DownloadBroken, match=told):
        from_maven(jar, tmp_path, repositories)


def test_without_a_network_the_sentence_names_the_jar_and_what_to_look_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{FreePort().number}")

    with pytest.raises(
        JarsUnavailable,
        match=r"whole-1\.0\.jar: the Maven repository cannot be reached .* look at the network and the proxy",
    ):
        fetch_jars(tmp_path, (WHOLE,), Terminal(None), from_maven, pause_s=0)
