"""SHA-256 of arrays and canonical JSON.

The identity of a dataset is the SHA-256 of its decoded content: canonical JSON, and arrays as
(dtype, shape, C-order bytes). HDF5 bytes change with the library version, the filters and the order
of writing, so the digest of a file only proves that it was copied without damage.
"""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.errors import RecordError

# Types whose values JSON writes as they are.
_PLAIN = frozenset((type(None), bool, int, str))
# Values in built-in types are a tree, so nothing has to look for circles.
_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
)


def sha256_array(array: np.ndarray) -> str:
    """Hex SHA-256 over dtype, shape and C-order bytes, little-endian on every machine.

    Takes an array of any plain dtype and shape; RecordError for arrays of Python objects.
    """
    head, content = _bytes_of(array)
    hasher = hashlib.sha256(head)
    hasher.update(content)
    return hasher.hexdigest()


class RowsDigest:
    """`sha256_array` of an array, and of others of its shape and dtype that begin with the same
    rows: these are not hashed again."""

    def __init__(self, array: np.ndarray, rows: Iterable[int] = ()) -> None:
        """Others will begin with as many of the same rows as `rows` says, each in [0, len]."""
        head, content = _bytes_of(array)
        hasher = hashlib.sha256(head)
        # States of the hash after so many bytes, rising; the array is hashed once.
        self._head, self._states = head, [(0, hasher.copy())]
        self._row = len(content) // max(1, len(array)) if array.ndim else 0
        done = 0
        for end in sorted({self._row * count for count in rows} - {0}):
            hasher.update(content[done:end])
            self._states.append((end, hasher.copy()))
            done = end
        hasher.update(content[done:])
        self.hex = hasher.hexdigest()

    def of(self, array: np.ndarray, same: int) -> str:
        """The digest of an array whose first `same` rows equal those of the first one."""
        head, content = _bytes_of(array)
        if head != self._head:
            raise RecordError(f"expected an array as {self._head!r}, got {head!r}")
        # The last state before the rows that differ.
        end, state = [kept for kept in self._states if kept[0] <= self._row * same][-1]
        hasher = state.copy()
        hasher.update(content[end:])
        return hasher.hexdigest()


def _bytes_of(array: np.ndarray) -> tuple[bytes, memoryview]:
    """Dtype and shape as text, and the little-endian bytes, without a copy where they are so."""
    array = np.asarray(array)
    head = _head_of(array.dtype, array.shape)
    # Nearly all arrays are in order; ascontiguousarray turns 0-d arrays into 1-d ones.
    if not (array.dtype.isnative and sys.byteorder == "little" and array.flags.c_contiguous):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    # A byte view, without the copy that `tobytes` makes.
    return head, array.reshape(-1).view(np.uint8).data


# Rows of a column have one shape and dtype.
@lru_cache(maxsize=64)
def _head_of(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Dtype and shape as text: (2, 3) and (3, 2) arrays of equal bytes must differ."""
    if dtype.hasobject:
        raise RecordError(f"expected an array of plain numbers, got dtype {dtype}")
    text = ",".join(map(str, shape))
    return f'{{"dtype":"{dtype.newbyteorder("<").str}","shape":[{text}]}}\n'.encode("ascii")


def canonical_json(obj: Any) -> bytes:
    """Canonical JSON of a value: sorted keys, no spaces, ASCII, shortest round-trip floats.

    NumPy scalars are written as the equal Python numbers. RecordError for NaN and infinity, which
    JSON cannot express, and for any other type; the message names its place, such as `/edit/seed`.
    """
    return _ENCODER.encode(_plain(obj, ())).encode("ascii")


def pretty_json(obj: Any) -> bytes:
    """The canonical JSON for files that people read: indented, with a final line break."""
    return json.dumps(json.loads(canonical_json(obj)), indent=2, sort_keys=True).encode() + b"\n"


def digest_of(obj: Any) -> str:
    """Hex SHA-256 of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(obj)).hexdigest()


def _plain(obj: Any, where: tuple[Any, ...]) -> Any:
    """The value in built-in types. `where` is the linked list (where of the parent, key)."""
    # Most values; records have hundreds.
    if type(obj) in _PLAIN or isinstance(obj, bool | int | str):
        return obj
    # Before float: np.float64 is a subclass of it.
    if isinstance(obj, np.generic):
        return _plain(obj.item(), where)
    if isinstance(obj, float):
        if not math.isfinite(obj):
            raise RecordError(
                f"expected finite numbers in a record, got {obj} at {_pointer(where)}"
            )
        return obj
    # A dict first: a check against an abstract class takes longer.
    if isinstance(obj, (dict, Mapping)):
        for key in obj:
            if not isinstance(key, str):
                raise RecordError(
                    f"expected text as keys of a record, got {key!r} at {_pointer(where)}"
                )
        return {key: _plain(value, (where, key)) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value, (where, index)) for index, value in enumerate(obj)]
    raise RecordError(
        f"expected numbers, text, lists and mappings in a record, got {type(obj).__name__} "
        f"at {_pointer(where)}"
    )


def _pointer(where: tuple[Any, ...]) -> str:
    """`(((), "edit"), "seed")` -> `/edit/seed`, built only for an error message."""
    path = ""
    while where:
        where, key = where
        path = f"/{key}{path}"
    return path or "top"
