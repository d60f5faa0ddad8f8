"""The file of a distilled teacher: its tensors, and a card with its origin and licence.

A finished teacher is one safetensors file. Its metadata holds `license` and, under `distilled`, a
record in JSON: the plan (recipe, backbone, digests of its weights and of the list of images), the
final loss, skipped files, and the machine.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UserError
from pipeline.utils.files import replaced_by
from pipeline.utils.hashing import canonical_json

# The licence of a file that names none.
UNSTATED = "not stated"
# Key of the record in the metadata of the file.
CARD = "distilled"


def read_card(path: Path) -> dict[str, Any]:
    """The record inside a distilled teacher; UserError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})[CARD]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} exists and is no distilled teacher; name another --out") from error


def licence_inside(path: Path) -> str:
    """The licence in a safetensors file's metadata; `not stated` for other files."""
    # Only safetensors files have metadata.
    if path.suffix != ".safetensors":
        return UNSTATED
    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get("license", UNSTATED))


def state_file(out: Path) -> Path:
    """The resume state of an unfinished run, beside its output."""
    return out.with_name(out.name + ".state")


def save_student(student: nn.Module, card: Mapping[str, Any], out: Path) -> None:
    """Write tensors and card under another name, then rename: `out` is complete or absent."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()
    }
    out = replaced_by(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".tmp")
    metadata = {"license": card["plan"]["licence"], CARD: canonical_json(card).decode()}
    save_file(tensors, aside, metadata=metadata)
    # safetensors creates files that only their owner can read.
    aside.chmod(0o644)
    aside.replace(out)


def check_plan(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """UserError that names the differences when a file belongs to another plan."""
    # Through JSON, as the stored plan was: tuples become lists.
    differences = list(_differences(found, json.loads(canonical_json(wanted))))
    if differences:
        raise UserError(
            f"{path} belongs to another run ({'; '.join(differences[:3])}); name another --out, or "
            "delete it to start over"
        )


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """One text per differing key, in nested mappings too."""
    for key in sorted(found.keys() | wanted.keys()):
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other)
        elif one != other:
            yield f"{key}: {one} there, {other} here"
