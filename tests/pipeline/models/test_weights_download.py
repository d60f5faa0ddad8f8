"""Downloading weights from a real server on this machine: resumed, checked, pinned, atomic."""

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
    """What the server offers, how it behaves, and the requests that it got."""

    def __init__(self):
        self.content = CONTENT
        self.tag = '"one"'
        self.ranges = True
        self.stop_after = None
        self.requests = []
        self.sent = 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def site():
    """A server with ranges, ETags and status 416, like file hosts; each can be switched off."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range") if site.ranges else None
            same = self.headers.get("If-Range") in (None, site.tag)
            site.requests.append((self.headers.get("Range"), self.headers.get("If-Range")))
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
            # Fewer bytes than announced look like a broken connection.
            self.wfile.write(cut)
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
    """Make `toy` an entry whose file the server offers; returns a function that sets its digest."""

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
def test_pull_downloads_checks_renames_and_pins(offer, folder, digest):
    offer(digest)
    seen = []
    path = weights_pull.pull("toy", lambda done, total: seen.append((done, total)))
    assert path == folder / "toy.bin"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert leftovers(folder) == ["toy.bin"]
    assert weights_pins.read(folder) == {"toy.bin": SHA256}


def test_an_existing_file_is_not_downloaded_again(offer, site):
    weights_pull.pull("toy")
    weights_pull.pull("toy")
    assert site.sent == len(CONTENT)


def test_a_broken_download_is_resumed_by_the_same_command(offer, site, folder):
    site.stop_after = HALF
    with pytest.raises(WeightsError, match="run the same command to resume"):
        weights_pull.pull("toy")
    # A partial file never has the final name.
    assert weights.find("toy") is None
    assert (folder / "toy.bin.part").read_bytes() == CONTENT[:HALF]
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.requests[-1] == (f"bytes={HALF}-", '"one"')
    # No byte was sent twice.
    assert site.sent == len(CONTENT)
    assert leftovers(folder) == ["toy.bin"]


def test_a_server_without_ranges_sends_everything_again(offer, site, folder):
    site.ranges = False
    site.stop_after = HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.sent == HALF + len(CONTENT)
    assert leftovers(folder) == ["toy.bin"]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_no_resume_without_a_strong_etag(offer, site, tag):
    site.tag, site.stop_after = tag, HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.stop_after = None
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.requests[-1] == (None, None)


def test_parts_of_two_files_are_never_joined(offer, site):
    """The publisher replaced the file in between, and there is no digest that would show it."""
    offer("")
    site.stop_after = HALF
    with pytest.raises(WeightsError):
        weights_pull.pull("toy")
    site.content, site.tag, site.stop_after = CONTENT[::-1], '"two"', None
    assert weights_pull.pull("toy").read_bytes() == CONTENT[::-1]


def test_a_complete_download_is_only_renamed(offer, site, folder):
    (folder / "toy.bin.part").write_bytes(CONTENT)
    (folder / "toy.bin.part.tag").write_text('"one"')
    assert weights_pull.pull("toy").read_bytes() == CONTENT
    assert site.sent == 0
    assert leftovers(folder) == ["toy.bin"]


def test_a_part_longer_than_the_file_is_discarded(offer, site, folder):
    (folder / "toy.bin.part").write_bytes(CONTENT + b"more")
    (folder / "toy.bin.part.tag").write_text('"one"')
    assert weights_pull.pull("toy").read_bytes() == CONTENT


def test_wrong_bytes_are_rejected_and_deleted(offer, site, folder):
    site.content = b"something else"
    with pytest.raises(WeightsError, match="cut short"):
        weights_pull.pull("toy")
    assert leftovers(folder) == []
    assert weights_pins.read(folder) == {}


def test_a_second_download_must_match_the_pin(offer, site, folder):
    offer("")
    weights_pull.pull("toy").unlink()
    site.content = b"what the publisher offers today"
    with pytest.raises(WeightsError, match="as on first use"):
        weights_pull.pull("toy")
    assert leftovers(folder) == []


def test_without_a_network_the_error_names_the_target(offer, site, folder, monkeypatch):
    toy = weights.entry("toy")
    gone = WeightsEntry(
        name="toy", purpose="test", stage="inpaint", file="toy.bin", megabytes=0.3, format="onnx",
        licence="MIT", url=toy.url.replace("127.0.0.1", "127.0.0.1:1/"),
    )  # fmt: skip
    monkeypatch.setattr(weights, "ENTRIES", (gone,))
    with pytest.raises(WeightsError, match=f"copy the file to {folder / 'toy.bin'}"):
        weights_pull.pull("toy")


def test_the_command_downloads_several_files_and_prints_their_paths(
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


def test_a_typo_in_one_name_downloads_nothing(offer, site, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anomalysmith", "weights", "pull", "toy", "toyy"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert site.requests == []
    assert "no weights are called 'toyy'" in capsys.readouterr().err


def test_a_folder_entry_is_not_downloaded(folder):
    with pytest.raises(WeightsError, match="is a folder of your own and is not fetched") as error:
        weights_pull.pull("sd-inpainting")
    assert str(folder / "stable-diffusion-inpainting") in str(error.value)


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        for name, content in files.items():
            pack.writestr(name.replace("__", "/"), content)
        pack.writestr("../outside.bin", b"a name that points outside the folder")
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


def test_all_files_of_an_archive_are_extracted_by_name(archive, folder):
    assert weights_pull.pull("small").read_bytes() == b"small"
    assert weights_pull.pull("medium").read_bytes() == b"medium"
    assert len(archive.requests) == 1
    assert leftovers(folder) == ["medium.pth", "small.pth"]
    assert not (folder.parent / "outside.bin").exists()
    assert weights_pins.read(folder) == {
        "small.pth": hashlib.sha256(b"small").hexdigest(),
        "medium.pth": hashlib.sha256(b"medium").hexdigest(),
    }


def test_an_archive_with_a_wrong_digest_is_not_opened(archive, folder):
    archive.content = zipped(pack__small=b"evil", pack__medium=b"evil")
    with pytest.raises(WeightsError, match="expected sha256"):
        weights_pull.pull("small")
    assert leftovers(folder) == []
