"""Any manifest is read in bounded time, and fails only with the project's own errors."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.config.manifest import read_manifest, resolve
from pipeline.config.schema import Manifest
from pipeline.errors import ManifestError

SAME_FOLDER = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
KEYS = [*Manifest.model_fields, "source", "path", "product", "kind", "scenes", "per_image", "kinds"]
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([10**400, -1, 2**63, "../..", "/etc", "\u202e", "a\x00b", "~", "folder"]),
)  # fmt: skip
TREES = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=4),
    ),
    max_leaves=20,
)
GOOD = b"categories: {mine: {source: folder, path: photos, edits: {per_image: 2}}}\nseed: 1\n"


def read(folder: Path, content: bytes) -> None:
    """Read and resolve as every command does; an error names the file."""
    path = folder / "data_manifest.yaml"
    path.write_bytes(content)
    message = str(path)
    try:
        manifest = read_manifest(path)
        for name in manifest.categories:
            settled = resolve(manifest, name)
            assert settled.name == name
            assert "/" not in name
    except ManifestError as error:
        message = str(error)
    assert str(path) in message


@settings(max_examples=150, suppress_health_check=SAME_FOLDER, deadline=None)
@given(tree=st.dictionaries(st.sampled_from(KEYS), TREES, max_size=5))
def test_any_tree_of_values_is_read_or_rejected(tmp_path, tree):
    read(tmp_path, json.dumps(tree).encode())


@settings(max_examples=150, suppress_health_check=SAME_FOLDER, deadline=None)
@given(entry=st.dictionaries(st.sampled_from(KEYS), TREES, max_size=4), name=st.text(max_size=12))
def test_any_category_is_read_or_rejected(tmp_path, entry, name):
    read(tmp_path, json.dumps({"categories": {name: {"source": "folder"} | entry}}).encode())


@settings(max_examples=250, suppress_health_check=SAME_FOLDER, deadline=None)
@given(content=st.binary(max_size=200))
@example(content=b"\xff\xfe")
@example(content=b"%YAML 9.9\n---\na")
@example(content=b"a: !!python/object/apply:os.system ['touch here']")
@example(content=b"seed: 0x" + 9000 * b"f")
@example(content=b"seed: 1" + 9000 * b"0")
@example(content=b"seed: 2024-99-99")
@example(content=b"? [a]\n: b")
@example(content=b"categories: {!mine: {source: folder}}")
@example(content=3000 * b"[")
@example(content=b"a: &a [*a]")
@example(content=b'categories: {"\\ud800": {source: folder, path: "\\udfff"}}')
def test_any_bytes_are_read_or_rejected(tmp_path, content):
    read(tmp_path, content)


@settings(max_examples=250, suppress_health_check=SAME_FOLDER, deadline=None)
@given(start=st.integers(0, len(GOOD)), length=st.integers(0, 5), put=st.binary(max_size=6))
def test_a_damaged_manifest_is_read_or_rejected(tmp_path, start, length, put):
    read(tmp_path, GOOD[:start] + put + GOOD[start + length :])


def test_aliases_of_aliases_are_rejected_before_they_fill_the_memory(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 12)]
    (tmp_path / "m.yaml").write_text("\n".join(lines))
    with pytest.raises(ManifestError, match="write aliases out"):
        read_manifest(tmp_path / "m.yaml")
