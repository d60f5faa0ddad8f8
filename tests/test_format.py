"""Digests and the documented reader: what others may rely on without reading our code."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_results import small_version

from pipeline.digests import canonical_json, sha256_array
from pipeline.errors import RecordError
from pipeline.versions import Version


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_version(tmp_path_factory.mktemp("store"), images=7, gallery=True)


def test_the_documented_reader_reads_without_this_project(version, tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "format.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert len(code.splitlines()) < 60
    assert "pipeline" not in code
    portable = small_version(tmp_path / "portable", images=7, profile="portable")
    (tmp_path / "reader.py").write_text(code)
    (tmp_path / "use.py").write_text(
        "import sys\n"
        "if sys.argv[2] == 'portable':\n"
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
    for made, profile in ((version, "default"), (portable, "portable")):
        command = [sys.executable, str(tmp_path / "use.py"), str(made.dir), profile]
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        )
        assert answer.stdout.strip() == total.hexdigest()


def test_canonical_json_has_one_spelling():
    value = {"b": (1, np.float32(0.5)), "a": {"é": np.bool_(True), "n": None}, "c": 1e-7}
    assert canonical_json(value) == b'{"a":{"n":null,"\\u00e9":true},"b":[1,0.5],"c":1e-07}'
    assert json.loads(canonical_json(value))["b"] == [1, 0.5]
    for refused in (float("nan"), float("inf"), {1: 2}, {"path": Path("x")}, b"x"):
        with pytest.raises(RecordError):
            canonical_json(refused)


def test_an_array_digest_knows_type_shape_and_order():
    plain = np.arange(6, dtype=np.uint8)
    same = [plain.reshape(2, 3), np.asfortranarray(plain.reshape(2, 3))]
    assert len({sha256_array(array) for array in same}) == 1
    other = [plain, plain.reshape(3, 2), plain.astype(np.int8), plain.astype(np.int32)]
    assert len({sha256_array(array) for array in [same[0], *other]}) == 5
    assert sha256_array(plain.astype(">i4")) == sha256_array(plain.astype("<i4"))
