"""Fetching published weights: resumed, checked, alone; from a server of our own."""

from __future__ import annotations

import fcntl
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from cohortvol.errors import InUseError, ModelError, TemporaryError
from cohortvol.models.weights import fetch, places
from cohortvol.store.files import sha256_of


class Release:
    """What a server publishes, and how it misbehaves."""

    def __init__(self):
        self.content = np.random.default_rng(0).bytes(300_000)
        self.cut_after = None
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        release = self.server.release
        if not self.path.endswith("/weights.zip"):
            self.send_error(404)
            return
        wanted = self.headers.get("Range")
        release.asked.append(wanted)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start >= len(release.content):
            self.send_error(416)
            return
        body = release.content[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            last = len(release.content)
            self.send_header("Content-Range", f"bytes {start}-{last - 1}/{last}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: release.cut_after])

    def log_message(self, *_args):
        pass


@pytest.fixture
def release():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = Release()
    server.release.url = f"http://127.0.0.1:{server.server_port}/v1/weights.zip"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.release
    server.shutdown()
    server.server_close()


def test_a_file_is_fetched_once_and_its_checksum_recorded(release, tmp_path):
    told = []
    path = fetch(release.url, tmp_path, tell=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == release.content
    assert (tmp_path / "weights.zip.sha256").read_text().split() == [sha256_of(path), "weights.zip"]
    assert told[-1] == (300_000, 300_000)
    assert fetch(release.url, tmp_path) == path
    assert release.asked == [None]


def test_a_cut_download_goes_on_where_it_stopped(release, tmp_path):
    release.cut_after = 100_000
    with pytest.raises(TemporaryError, match=r"100000 bytes.*200000 bytes missing"):
        fetch(release.url, tmp_path)
    assert not (tmp_path / "weights.zip").exists()
    release.cut_after = None
    assert fetch(release.url, tmp_path).read_bytes() == release.content
    assert release.asked == [None, "bytes=100000-"]


def test_bytes_other_than_the_ones_named_are_refused_and_removed(release, tmp_path):
    with pytest.raises(ModelError, match=r"\(MOD_CHECKSUM\)\n.*\n  expected 0000"):
        fetch(release.url, tmp_path, sha256="0" * 64)
    assert not list(tmp_path.glob("*.zip"))
    path = fetch(release.url, tmp_path)
    path.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="sha256"):  # against the record
        fetch(release.url, tmp_path)
    assert fetch(release.url, tmp_path).read_bytes() == release.content


def test_an_address_without_the_file_and_a_server_that_is_away_are_told_apart(release, tmp_path):
    with pytest.raises(ModelError, match="404"):
        fetch(release.url.replace("weights.zip", "other.zip"), tmp_path)
    with pytest.raises(TemporaryError, match="connection broke"):
        fetch("http://127.0.0.1:9/weights.zip", tmp_path)


def test_two_processes_do_not_fetch_one_file(release, tmp_path):
    with open(tmp_path / ".weights.zip.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InUseError, match="another process"):
            fetch(release.url, tmp_path)


def test_places_are_those_that_exist_in_their_order(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "home" / "nnunet" / "results").mkdir(parents=True)
    monkeypatch.setenv("COHORTVOL_WEIGHTS", str(tmp_path / "mine"))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    monkeypatch.delenv("MRSEG_WEIGHTS_PATH", raising=False)
    found = places("totalsegmentator")
    assert found == [tmp_path / "mine", tmp_path / "home" / "nnunet" / "results"]


def test_an_account_without_a_home_has_no_weights_there(monkeypatch):
    for name in ("HOME", "TOTALSEG_HOME_DIR", "TOTALSEG_WEIGHTS_PATH", "MRSEG_WEIGHTS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("COHORTVOL_WEIGHTS", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    for home in ("totalsegmentator", "mrsegmentator", "vibesegmentator", ""):
        assert places(home) == []
