"""The weights registry: where files are looked for, what is refused, and how one is fetched."""

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import models, weights
from pipeline.errors import WeightsError
from pipeline.settings import ModelSettings
from pipeline.weights import WeightsEntry

CONTENT = b"no real weights, but bytes with a digest" * 1000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: str(tmp_path / "user"))
    return tmp_path


@pytest.fixture
def served(folder, monkeypatch):
    """An entry `toy` whose file a real server on this machine offers."""
    site = folder / "site"
    site.mkdir()
    (site / "toy.bin").write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    toy = WeightsEntry(
        "toy", "inpaint", "toy.bin", 0.04, "MIT",
        "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest(),
        f"http://127.0.0.1:{server.server_port}/toy.bin",
    )  # fmt: skip
    monkeypatch.setattr(weights, "ENTRIES", (*weights.ENTRIES, toy))
    yield site / "toy.bin"
    server.shutdown()


def test_a_missing_file_is_named_with_place_licence_and_command(folder):
    with pytest.raises(WeightsError) as error:
        weights.require("sam-vit-b")
    for part in ("sam-vit-b", str(folder / "sam_vit_b_01ec64.pth"), "Apache-2.0", "weights pull"):
        assert part in str(error.value)


def test_the_chosen_folder_comes_before_the_users_own(folder):
    user = folder / "user" / "weights"
    user.mkdir(parents=True)
    (user / "big-lama.pt").write_bytes(b"user")
    assert weights.find("big-lama") == user / "big-lama.pt"
    (folder / "big-lama.pt").write_bytes(b"chosen")
    assert weights.find("big-lama") == folder / "big-lama.pt"


def test_an_explicit_path_wins_and_must_exist(folder):
    mine = folder / "mine.pt"
    with pytest.raises(WeightsError, match="no file"):
        weights.require("big-lama", mine)
    mine.write_bytes(b"mine")
    assert weights.require("big-lama", mine) == mine


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="bundled-u2netp"):
        weights.entry("u3net")


def test_pull_fetches_checks_and_renames(served, folder):
    seen = []
    path = weights.pull("toy", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not list(folder.glob("*.part"))


def test_pull_refuses_other_bytes_and_leaves_nothing(served, folder):
    served.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="cut short"):
        weights.pull("toy")
    assert not list(folder.glob("toy*"))


def test_pull_without_network_says_where_to_put_the_file(served, folder, monkeypatch):
    served.unlink()
    with pytest.raises(WeightsError, match="copy the file to"):
        weights.pull("toy")


@pytest.mark.parametrize("name", ["bundled-u2netp", "bundled-sam", "bundled-lama"])
def test_the_bundled_files_are_whole(name):
    weights.check(name, weights.require(name))
    assert weights.bundled_digest(weights.entry(name)).startswith("sha256:")


def test_auto_takes_the_bundled_models_until_official_ones_are_there(folder):
    found = models.resolve(ModelSettings())
    assert (found.foreground[0], found.proposals[0], found.inpaint[0]) == (
        "bundled", "small", "small_lama",
    )  # fmt: skip
    (folder / "u2net.onnx").write_bytes(b"official")
    assert models.resolve(ModelSettings()).foreground[0] == "u2net"
    assert set(found.digests()) == {
        "foreground/bundled", "proposals/small", "inpaint/small_lama",
    }  # fmt: skip
