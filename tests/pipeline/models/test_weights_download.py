"""Fetching weights from a real server on this machine: resumed, checked, pinned, atomic."""

import dataclasses
import hashlib
import io
import re
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows import cli
from pipeline.errors import WeightsError
from pipeline.models.weights import download as weights_pull
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import WeightsEntry

CONTENT = bytes(range(256)) * 1000
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site:
    """What the server offers, how it behaves, and what it was asked and sent."""

    def __init__(self):
        self.content = CONTENT
        self.tag = '"one"'
        self.ranges = True
        self.stop_after = None
        self.asked = []
        self.sent = 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def site():
    """A server with ranges, ETags and 416, as file hosts have them; each can be switched off."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range") if site.ranges else None
            same = self.headers.get("If-Range") in (None, site.tag)
            site.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and same else 0
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = site.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            if site.tag:
                self.send_header("ETag", site.tag)
            self.end_headers()
            cut = body if site.stop_after is None else body[: site.stop_after]
            self.wfile.write(cut)  # fewer bytes than announced: the connection breaks
            site.sent += len(cut)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/"
    yield site
    server.shutdown()


@pytest.fixture
def offer(site, folder, monkeypatch):
    """Make `toy` an entry whose file the server offers; returns how to do it with a digest."""

    def make(digest=f"sha256:{SHA256}", **more):
        toy = WeightsEntry(
            name="toy", purpose="test", stage="inpaint", file="toy.bin", megabytes=0.3,
            format="onnx", licence="MIT", digest=digest, url=site.url + "toy.bin",
        )  # fmt: skip
        monkeypatch.setattr(weights, "ENTRIES", (toy,))

    make()
    return make


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "pins.json")


@pytest.mark.parametrize(
    "digest",
    [
        f"sha256:{SHA256}",
        f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}",
        f"sha256-prefix:{SHA256[:8]}",
        "",
    ],
)
def test_pull_fetches_checks_renames_and_pins(offer, folder, digest):
    offer(digest)
    seen = []
    path = weights_pull.pull("toy", lambda done, total: seen.append((done, total)))
    assert path == folder / "toy.bin"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert leftovers(folder) == ["toy.bin"]
    assert weights_pins.read(folder) == {"toy.bin": SHA256}


def test_a_file_that_is_here_is_not_fetched_again(offer, site):
    weights_pull.pull("toy")
    weights_pull.pull("toy")
    assert site.sent == len(CONTENT)


def test_a_broken_connection_keeps_its_half_and_the_same_command_fetches_the_rest(
    offer, site, folder
):
    site.stop_after = HALF
    with pytest.raises(WeightsError, match="the same command goes on"):
        weights_pull.pull("toy")
    assert weights.find("toy") is None  # half a file never has the file's name
    assert (folder / "toy.bin.part").read_bytes() == CONTENT[:HALF]
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.asked[-1] == (f"bytes={HALF}-", '"one"')
    assert site.sent == len(CONTENT)  # no byte twice
    assert leftovers(folder) == ["toy.bin"]


def test_a_server_without_ranges_sends_it_all_again(offer, site, folder):
    site.ranges = False
    site.stop_after = HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.sent == HALF + len(CONTENT)
    assert leftovers(folder) == ["toy.bin"]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_a_server_that_does_not_name_its_file_is_not_trusted_with_a_rest(offer, site, tag):
    site.tag, site.stop_after = tag, HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.asked[-1] == (None, None)


def test_halves_of_two_files_are_never_joined(offer, site):
    """Without a digest nothing else would notice: the publisher changed the file in between."""
    offer("")
    site.stop_after = HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.content, site.tag, site.stop_after = CONTENT[::-1], '"two"', None
    assert weights_pull.pull("toy").read_bytes() == CONTENT[::-1]


def test_a_download_that_was_whole_before_the_power_went_is_only_renamed(offer, site, folder):
    (folder / "toy.bin.part").write_bytes(CONTENT)
    (folder / "toy.bin.part.tag").write_text('"one"')
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.sent == 0
    assert leftovers(folder) == ["toy.bin"]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(offer, site, folder):
    (folder / "toy.bin.part").write_bytes(CONTENT + b"more")
    (folder / "toy.bin.part.tag").write_text('"one"')
    assert weights_pull.pull("toy").read_bytes() == CONTENT


def test_other_bytes_are_refused_and_leave_nothing(offer, site, folder):
    site.content = b"something else"
    with pytest.raises(WeightsError, match="cut short"):
        weights_pull.pull("toy")
    assert leftovers(folder) == []
    assert weights_pins.read(folder) == {}


def test_a_file_fetched_anew_must_be_the_one_that_was_pinned(offer, site, folder):
    offer("")
    weights_pull.pull("toy").unlink()
    site.content = b"what the publisher offers today"
    with pytest.raises(WeightsError, match="as on first use"):
        weights_pull.pull("toy")
    assert leftovers(folder) == []


def test_without_a_network_it_says_where_to_put_the_file(offer, site, folder, monkeypatch):
    toy = weights.entry("toy")
    gone = WeightsEntry(
        name="toy", purpose="test", stage="inpaint", file="toy.bin", megabytes=0.3, format="onnx",
        licence="MIT", url=toy.url.replace("127.0.0.1", "127.0.0.1:1/"),
    )  # fmt: skip
    monkeypatch.setattr(weights, "ENTRIES", (gone,))
    with pytest.raises(WeightsError, match=f"copy the file to {folder / 'toy.bin'}"):
        weights_pull.pull("toy")


def test_the_command_fetches_several_with_a_bar_and_answers_with_paths(
    offer, folder, monkeypatch, capsys
):
    other = dataclasses.replace(weights.entry("toy"), name="other", file="other.bin")
    monkeypatch.setattr(weights, "ENTRIES", (*weights.ENTRIES, other))
    monkeypatch.setattr(sys, "argv", ["anomalysmith", "weights", "pull", "toy", "other"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    printed = capsys.readouterr()
    assert printed.out.split() == [str(folder / "toy.bin"), str(folder / "other.bin")]
    assert "toy: 100%" in printed.err


def test_a_slip_in_one_name_costs_no_download(offer, site, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anomalysmith", "weights", "pull", "toy", "toyy"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert site.asked == []
    assert "no weights are called 'toyy'" in capsys.readouterr().err


def test_a_folder_entry_is_not_fetched(folder):
    with pytest.raises(WeightsError, match="is a folder of your own and is not fetched") as error:
        weights_pull.pull("sd-inpainting")
    assert str(folder / "stable-diffusion-inpainting") in str(error.value)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for name, content in files.items():
            pack.writestr(name.replace("__", "/"), content)
        pack.writestr("../outside.bin", b"a name that leads out of the folder")
    return buffer.getvalue()


@pytest.fixture
def archive(site, folder, monkeypatch):
    """Two entries in one zip, as the EfficientAD teachers are published."""
    site.content = zipped(pack__small=b"small", pack__medium=b"medium", pack__readme=b"text")
    digest = "sha256:" + hashlib.sha256(site.content).hexdigest()
    pair = [
        WeightsEntry(
            name=size, purpose="test", stage="detectors", file=f"{size}.pth", megabytes=0.1,
            format="state-dict", licence="MIT", digest=digest, url=site.url + "pack.zip",
            member=f"pack/{size}",
        )
        for size in ("small", "medium")
    ]  # fmt: skip
    monkeypatch.setattr(weights, "ENTRIES", tuple(pair))
    return site


def test_files_of_an_archive_are_taken_out_by_name_and_all_at_once(archive, folder):
    assert weights_pull.pull("small").read_bytes() == b"small"
    assert weights_pull.pull("medium").read_bytes() == b"medium"
    assert len(archive.asked) == 1
    assert leftovers(folder) == ["medium.pth", "small.pth"]
    assert not (folder.parent / "outside.bin").exists()
    assert weights_pins.read(folder) == {
        "small.pth": hashlib.sha256(b"small").hexdigest(),
        "medium.pth": hashlib.sha256(b"medium").hexdigest(),
    }


def test_an_archive_with_other_bytes_is_refused_before_it_is_opened(archive, folder):
    archive.content = zipped(pack__small=b"evil", pack__medium=b"evil")
    with pytest.raises(WeightsError, match="expected sha256"):
        weights_pull.pull("small")
    assert leftovers(folder) == []
