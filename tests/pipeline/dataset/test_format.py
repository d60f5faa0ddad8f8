"""The documented format: digests, and a reader that needs nothing of this project."""

import hashlib
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_results import small_version

from pipeline.dataset.version import Version
from pipeline.errors import RecordError
from pipeline.utils.hashing import RowsDigest, canonical_json, sha256_array


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_version(tmp_path_factory.mktemp("store"), images=7, gallery=True)


def test_the_documented_reader_reads_without_this_project(version, tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.splitlines()) < 60
    assert "pipeline" not in code
    portable = small_version(tmp_path / "portable", images=7, profile="portable")
    fast = small_version(tmp_path / "fast", images=7, profile="fast")
    (tmp_path / "reader.py").write_text(code)
    (tmp_path / "use.py").write_text(
        "import sys\n"
        "if sys.argv[2] != 'default':\n"
        "    sys.modules['hdf5plugin'] = None\n"
        "import hashlib, reader\n"
        "total = hashlib.sha256()\n"
        "for original, edited, mask, record in reader.samples(sys.argv[1]):\n"
        "    total.update(original.tobytes() + edited.tobytes() + mask.tobytes())\n"
        "for pixels, masks, record in reader.test_images(sys.argv[1]):\n"
        "    total.update(pixels.tobytes() + masks.tobytes())\n"
        "print(total.hexdigest())\n"
    )
    total = hashlib.sha256()
    for original, edited, mask, _ in version.samples():
        total.update(original.tobytes() + edited.tobytes() + mask.tobytes())
    for pixels, masks, *_ in version.test_images():
        total.update(pixels.tobytes() + masks.tobytes())
    for made, profile in ((version, "default"), (portable, "portable"), (fast, "fast")):
        command = [sys.executable, str(tmp_path / "use.py"), str(made.dir), profile]
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        )
        assert answer.stdout.strip() == total.hexdigest()


@pytest.mark.parametrize("profile", ["default", "portable", "fast"])
def test_the_page_names_everything_in_a_version(tmp_path, profile):
    page = (Path(__file__).parents[3] / "docs" / "format.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| \((.*?)\) (\w+) \| (.*?) \|", page, re.M)
    types = {"u8": "|u1", "i16": "<i2", "i32": "<i4", "i64": "<i8", "f32": "<f4", "u32": "<u4"}
    described = {name.strip("`"): (shape, types[kind], how) for name, shape, kind, how in rows}
    version = small_version(tmp_path, profile=profile)
    for shard in version.index["shards"]:
        with h5py.File(version.dir / shard["file"], "r") as file:
            assert all(f"| `{name}`" in page or f"`{name}`, " in page for name in file.attrs)
            assert int(file.attrs["format"]) == version.index["format"]
            file.visititems(partial(expect_described, described, profile))
    assert all(f"`{key}`" in page for key in version.index)
    files = {re.sub(r"-\d{4}\.h5", "-NNNN.h5", path.name) for path in version.dir.iterdir()}
    assert {name for name in files if name not in page} == set()


def expect_described(described, profile, name, data):
    """Assert that the page gives the type, rank and storage of one array."""
    if not isinstance(data, h5py.Dataset):
        return
    if name.endswith(("record_blob", "record_offsets", "_crc32")):
        assert data.ndim == 1
        expected = "small"
    else:
        shape, kind, how = described[name]
        assert (data.dtype.str, data.ndim) == (kind, shape.rstrip(",").count(",") + 1), name
        expected = how.split(";")[0]
        if expected == "packed" and profile == "fast":
            expected = "mapped"
    if not data.size:
        return
    filters = set(data._filters)
    if expected == "mapped":
        assert data.chunks is None
        assert f"{name}_crc32" in data.file
    else:
        rows = data.shape[0] if expected == "small" else 1
        assert data.chunks == (rows, *data.shape[1:])
        assert "fletcher32" in filters
    if expected == "packed":
        assert ("gzip" if profile == "portable" else "32004") in filters


def test_canonical_json_has_one_spelling():
    value = {"b": (1, np.float32(0.5)), "a": {"é": np.bool_(True), "n": None}, "c": 1e-7}
    assert canonical_json(value) == b'{"a":{"n":null,"\\u00e9":true},"b":[1,0.5],"c":1e-07}'
    assert json.loads(canonical_json(value))["b"] == [1, 0.5]
    for invalid in (float("nan"), float("inf"), {1: 2}, {"path": Path("x")}, b"x"):
        with pytest.raises(RecordError):
            canonical_json(invalid)


def test_an_array_digest_depends_on_type_shape_and_order():
    plain = np.arange(6, dtype=np.uint8)
    same = [plain.reshape(2, 3), np.asfortranarray(plain.reshape(2, 3))]
    assert len({sha256_array(array) for array in same}) == 1
    other = [plain, plain.reshape(3, 2), plain.astype(np.int8), plain.astype(np.int32)]
    assert len({sha256_array(array) for array in [same[0], *other]}) == 5
    assert sha256_array(plain.astype(">i4")) == sha256_array(plain.astype("<i4"))


@pytest.mark.parametrize("rows", [(), (2, 0, 2), (1,), (3, 7, 39)])
@pytest.mark.parametrize("shape", [(40, 5, 3), (7, 2), (1, 4), (0, 3), (3,)])
def test_a_digest_that_goes_on_from_equal_rows_is_the_arrays_own(shape, rows):
    first = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    # States that were kept at other rows than those that differ do no harm.
    digest = RowsDigest(first, [row for row in rows if row <= len(first)])
    assert digest.hex == sha256_array(first)
    for same in range(len(first) + 1):
        other = first.copy()
        other[same:] ^= 1
        assert digest.of(other, same) == sha256_array(other)
    with pytest.raises(RecordError, match="expected an array as"):
        digest.of(first[None], 0)
