"""Content digests: what a dataset promises is its decoded content, never the bytes of a container.

HDF5 bytes change with the library version, the filters and the order of writing. So identity is
SHA-256 over canonical JSON and over arrays as (dtype, shape, C-order bytes); the digest of a file
is a transport check only.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RecordError

_BLOCK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of the bytes of a file, read in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def sha256_array(array: np.ndarray) -> str:
    """Hex SHA-256 over dtype, shape and C-order bytes, little-endian on every machine."""
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise RecordError(f"only plain numbers have a digest, got an array of {array.dtype}")
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    head = canonical_json({"dtype": little.dtype.str, "shape": list(array.shape)})
    hasher = hashlib.sha256(head + b"\n")
    hasher.update(little.reshape(-1).view(np.uint8).data)
    return hasher.hexdigest()


def canonical_json(obj: Any) -> bytes:
    """The one JSON spelling of a value: sorted keys, no spaces, ASCII, shortest exact floats.

    NumPy scalars count as the Python numbers that they equal; NaN and infinity are refused,
    because they have no JSON spelling and do not equal themselves.
    """
    plain = _plain(obj, ())
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def pretty_json(obj: Any) -> bytes:
    """A value as people read it in a file: the canonical JSON, indented, with a line end."""
    return json.dumps(json.loads(canonical_json(obj)), indent=2, sort_keys=True).encode() + b"\n"


def digest_of(obj: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def _plain(obj: Any, where: tuple[Any, ...]) -> Any:
    """The value in Python's own types. `where` is (the parent's where, key), spelt in errors."""
    if obj is None or isinstance(obj, bool | int | str):
        return obj
    if isinstance(obj, np.generic):
        return _plain(obj.item(), where)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise RecordError(f"a record holds finite numbers only, got {obj} at {_spelt(where)}")
        return obj
    if isinstance(obj, Mapping):
        for key in obj:
            if not isinstance(key, str):
                raise RecordError(f"keys of a record are text, got {key!r} at {_spelt(where)}")
        return {key: _plain(value, (where, key)) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value, (where, index)) for index, value in enumerate(obj)]
    raise RecordError(
        f"a record holds plain numbers, text, lists and mappings, got {type(obj).__name__} "
        f"at {_spelt(where)}"
    )


def _spelt(where: tuple[Any, ...]) -> str:
    path = ""
    while where:
        where, key = where
        path = f"/{key}{path}"
    return path or "top"
