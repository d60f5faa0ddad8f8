"""The weights registry: search order, digests, pins, and the messages."""

import dataclasses
import hashlib
import json
import os
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import cli
from pipeline.errors import WeightsError
from pipeline.models import build as models
from pipeline.models.settings import ModelSettings
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights

CONTENT = b"no real weights, but bytes with a digest" * 1000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The chosen weights folder; the user's own cache is an empty folder inside it."""
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: str(tmp_path / "user"))
    return tmp_path


@pytest.fixture
def undigested(monkeypatch):
    """The same entries without published digests, so that any bytes will do."""
    anonymous = [dataclasses.replace(entry, digest="") for entry in weights.ENTRIES]
    monkeypatch.setattr(weights, "ENTRIES", tuple(anonymous))


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["anomalysmith", *map(str, words)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_missing_file_is_reported_with_path_licence_and_command(folder):
    with pytest.raises(WeightsError) as error:
        weights.require("sam-vit-b")
    for part in ("sam-vit-b", str(folder / "sam_vit_b_01ec64.pth"), "Apache-2.0", "weights pull"):
        assert part in str(error.value)


def test_the_chosen_folder_comes_before_the_user_cache(folder):
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
    assert not (folder / weights_pins.FILE).exists()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(WeightsError, match="bundled-u2netp"):
        weights.entry("u3net")


def test_the_catalogue_is_consistent():
    """Names and file names are unique; a stated digest has the length of its kind; https only."""
    lengths = {"sha256": 64, "md5": 32, "sha256-prefix": 8}
    entries = weights.entries()
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.file for entry in entries if not entry.bundled}) == len(
        [entry for entry in entries if not entry.bundled]
    )
    for entry in entries:
        kind, _, value = entry.digest.partition(":")
        assert not entry.digest or re.fullmatch(f"[0-9a-f]{{{lengths[kind]}}}", value), entry.name
        fetched = bool(entry.url or entry.package)
        assert entry.bundled == (not fetched and entry.format != "folder"), entry.name
        assert not (entry.url and entry.package), entry.name
        assert not entry.url or entry.url.startswith("https://")
        assert entry.purpose
        assert entry.licence
        assert entry.known


def test_the_catalogue_matches_torchvision_and_timm():
    """Addresses, names and prefixes are those of the installed torchvision and timm."""
    import timm
    from torchvision.models import (
        ResNet18_Weights,
        Wide_ResNet50_2_Weights,
        Wide_ResNet101_2_Weights,
    )

    for name, published in [
        ("resnet18", ResNet18_Weights.IMAGENET1K_V1),
        ("wide-resnet50-2", Wide_ResNet50_2_Weights.IMAGENET1K_V1),
        ("wide-resnet101-2", Wide_ResNet101_2_Weights.IMAGENET1K_V1),
    ]:
        entry = weights.entry(name)
        assert entry.url == published.url
        assert entry.file == published.url.rpartition("/")[2]
        assert entry.digest == f"sha256-prefix:{entry.file.rpartition('-')[2].removesuffix('.pth')}"
        assert entry.megabytes == pytest.approx(published.meta["_file_size"] * 1.048576, abs=0.1)
    config = timm.get_pretrained_cfg("swin_tiny_patch4_window7_224.ms_in1k")
    assert f"{config.hf_hub_id}" in weights.entry("swin-tiny").url


@pytest.mark.parametrize(
    "name",
    [entry.name for entry in weights.entries() if entry.bundled and weights.find(entry.name)],
)
def test_the_bundled_files_match_their_checksums(name):
    weights.check(name, weights.require(name))
    assert weights.bundled_digest(weights.entry(name)).startswith("sha256:")


def test_auto_uses_bundled_models_until_official_ones_are_present(folder, undigested):
    found = models.resolve(ModelSettings())
    assert (found.foreground[0], found.proposals[0]) == ("bundled", "small")
    assert "inpaint/lama" not in found.digests()
    (folder / "u2net.onnx").write_bytes(b"official")
    assert "foreground/u2net" not in found.digests()
    official = models.resolve(ModelSettings())
    # The bundled network is asked where the official one is in doubt, so both decide masks.
    assert official.foreground[0] == "u2net"
    assert {"foreground/u2net", "foreground/bundled"} <= set(official.digests())


def test_a_named_network_decides_alone(folder, undigested):
    (folder / "u2netp.onnx").write_bytes(b"official")
    for settings in (
        {"backend": "u2netp"},
        {"backend": "bundled"},
        {"weights": str(folder / "u2netp.onnx")},
    ):
        found = models.resolve(ModelSettings.model_validate({"foreground": settings}))
        assert found.second_foreground == ("none", None)
        assert sum(name.startswith("foreground/") for name in found.digests()) == 1


def test_a_file_with_a_wrong_digest_is_not_loaded(folder):
    """The check comes before a model is built, because a TorchScript file is a program."""
    (folder / "big-lama.pt").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="expected md5 e3aa4aaa1522"):
        models.resolve(ModelSettings())
    assert not (folder / weights_pins.FILE).exists()


@given(content=st.binary(max_size=64), length=st.integers(8, 63), place=st.integers(0, 62))
def test_a_prefix_is_compared_over_its_length(tmp_path_factory, content, length, place):
    path = tmp_path_factory.mktemp("prefix") / "file"
    path.write_bytes(content)
    prefix = sha256(content)[:length]
    weights.check_digest("resnet18", path, f"sha256-prefix:{prefix}")
    place %= length
    other = prefix[:place] + ("0" if prefix[place] != "0" else "1") + prefix[place + 1 :]
    with pytest.raises(WeightsError, match="cut short"):
        weights.check_digest("resnet18", path, f"sha256-prefix:{other}")
    # A prefix is not accepted as a full digest.
    with pytest.raises(WeightsError, match="cut short"):
        weights.check_digest("resnet18", path, f"sha256:{prefix}")


def test_the_first_use_pins_a_file_and_other_bytes_are_rejected(folder):
    file = folder / weights.entry("swin-tiny").file
    file.write_bytes(CONTENT)
    assert weights.require("swin-tiny") == file
    pins = json.loads((folder / "pins.json").read_text())
    assert pins == {file.name: sha256(CONTENT)}
    file.write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError) as error:
        weights.require("swin-tiny")
    for part in (str(file), sha256(CONTENT)[:12], sha256(CONTENT + b"!")[:12], "delete its line"):
        assert part in str(error.value)
    file.write_bytes(CONTENT)
    assert weights.require("swin-tiny") == file


def test_md5_is_checked_first_and_sha256_after_the_first_use(folder, monkeypatch):
    md5 = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    lama = dataclasses.replace(weights.entry("big-lama"), digest=md5)
    monkeypatch.setattr(weights, "ENTRIES", (lama,))
    (folder / lama.file).write_bytes(CONTENT)
    weights.require("big-lama")
    assert weights_pins.read(folder) == {lama.file: sha256(CONTENT)}


def test_a_read_only_folder_is_used_without_pins(folder, monkeypatch):
    def deny(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(weights_pins, "write_atomic", deny)
    file = folder / weights.entry("swin-tiny").file
    file.write_bytes(CONTENT)
    assert weights.require("swin-tiny") == file
    assert weights.check_and_pin("swin-tiny", file) is False


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', "{"])
def test_damaged_pins_are_an_error_with_advice(folder, text):
    (folder / "pins.json").write_text(text)
    (folder / weights.entry("swin-tiny").file).write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="weights verify"):
        weights.require("swin-tiny")


def model_folder(path):
    """A minimal diffusers folder, with a pickled copy and a hidden file beside the tensors."""
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    (path / "unet" / "model.safetensors").write_bytes(CONTENT)
    (path / "unet" / "model.bin").write_bytes(b"a pickle")
    (path / ".cache").mkdir()
    (path / ".cache" / "x.json").write_text("{}")
    return path


def test_a_model_folder_is_hashed_and_pinned_without_its_pickles(folder):
    path = folder / "stable-diffusion-inpainting"
    path.mkdir()
    # An empty folder is no model.
    assert weights.state("sd-inpainting") == "missing"
    path.rmdir()
    model_folder(path)
    assert weights.state("sd-inpainting") == "present"
    listing = f"{sha256(b'{}')}  model_index.json\n{sha256(CONTENT)}  unet/model.safetensors\n"
    assert weights.sha256(path) == sha256(listing.encode())
    assert weights.require("sd-inpainting") == path
    (path / "unet" / "model.bin").write_bytes(b"another pickle, which is never read")
    assert weights.require("sd-inpainting") == path
    (path / "unet" / "model.safetensors").write_bytes(CONTENT + b"!")
    with pytest.raises(WeightsError, match="as on first use"):
        weights.require("sd-inpainting")


def test_the_list_is_complete_and_fits_120_columns(folder, command):
    (folder / weights.entry("swin-tiny").file).write_bytes(CONTENT)
    code, out, _ = command("weights", "list")
    assert code == 0
    assert max(map(len, out.splitlines()[: 2 + len(weights.entries())])) <= 120
    head = out.splitlines()[0].split()
    assert head == ["name", "for", "MB", "licence", "state", "path"]
    states = {line.split()[0]: line for line in out.splitlines()[2 : 2 + len(weights.entries())]}
    assert "present" in states["swin-tiny"]
    assert states["sam-vit-h"].endswith("missing  -")
    assert "bundled" in states["bundled-sam"]
    assert "put a diffusers folder of yours" in out
    rows = json.loads(command("weights", "list", "--json")[1])["weights"]
    swin = next(row for row in rows if row["name"] == "swin-tiny")
    assert swin["path"] == str(folder / swin["file"])
    assert swin["digest"] == "nothing published; pinned on first use"
    assert swin["commercial"] is True
    assert {"for", "licence", "terms", "format", "state", "megabytes", "url", "get"} <= set(swin)


def test_verify_pins_then_finds_a_flipped_bit(folder, command):
    file = folder / weights.entry("swin-tiny").file
    file.write_bytes(CONTENT)
    code, out, _ = command("weights", "verify", "--json")
    assert code == 0
    names = {row["name"] for row in json.loads(out)["weights"]}
    assert "swin-tiny" in names
    # A missing file is not an error.
    assert "sam-vit-h" not in names
    assert weights_pins.read(folder)[file.name] == sha256(CONTENT)
    flipped = bytearray(CONTENT)
    flipped[100] ^= 1
    file.write_bytes(flipped)
    code, out, err = command("weights", "verify", "--json")
    assert code == 4
    assert not json.loads(out)["ok"]
    assert "swin-tiny" in err


def test_verify_finds_a_file_with_a_wrong_published_digest(folder, command):
    (folder / "big-lama.pt").write_bytes(CONTENT)
    code, _, err = command("weights", "verify")
    assert code == 4
    assert "expected md5 e3aa4aaa1522" in err


def test_the_docs_page_lists_every_entry_as_in_the_catalogue(root):
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]]
        for line in (root / "docs" / "weights.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    stated = {row[0]: (row[2].removeprefix("about "), row[3], row[4]) for row in rows}
    formats = {"onnx": "ONNX", "torchscript": "TorchScript", "state-dict": "state dict"}
    assert stated == {
        entry.name: (
            f"{entry.megabytes:.0f}" if entry.megabytes >= 1000 else f"{entry.megabytes:g}",
            formats.get(entry.format, entry.format),
            entry.licence,
        )
        for entry in weights.entries()
    }


def test_without_a_home_folder_bundled_weights_are_found_and_downloads_refused(monkeypatch):
    """As in a container that runs as a user that it does not know."""
    for name in ("ANOMALYSMITH_WEIGHTS", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert weights.folders() == ()
    assert weights.find("bundled-u2netp") == weights.BUNDLED / weights.entry("bundled-u2netp").file
    assert weights.find("sam-vit-b") is None
    with pytest.raises(WeightsError, match="set ANOMALYSMITH_WEIGHTS or HOME"):
        weights.download_folder()
