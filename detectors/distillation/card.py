"""The files of a distillation: the teacher with its card, and whose they are.

A finished teacher is one safetensors file. Its metadata holds `license` and, under `distilled`, a
record in JSON: the plan (recipe, backbone, digests of its weights and of the list of pictures), the
final loss, what was skipped, and the machine.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import UserError
from pipeline.utils.hashing import canonical_json

UNSTATED = "not stated"
CARD = "distilled"
"""Name of the record in the metadata of the file."""


def read_card(path: Path) -> dict[str, Any]:
    """The record inside a distilled teacher; UserError when the file is something else."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})[CARD]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} should be a teacher made here, but holds something else; name another --out"
        ) from error


def licence_inside(path: Path) -> str:
    """What a safetensors file says of its licence; other files say nothing."""
    if path.suffix != ".safetensors":
        return UNSTATED
    with safe_open(path, "pt") as file:
        return str((file.metadata() or {}).get("license", UNSTATED))


def state_file(out: Path) -> Path:
    """Where a run that goes on keeps its state."""
    return out.with_name(out.name + ".state")


def save_student(student: nn.Module, card: Mapping[str, Any], out: Path) -> None:
    """Write the tensors and the card aside, then rename."""
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(out.name + ".tmp")
    metadata = {"license": card["plan"]["licence"], CARD: canonical_json(card).decode()}
    save_file(tensors, aside, metadata=metadata)
    aside.chmod(0o644)
    aside.replace(out)


def check_plan(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """UserError, which names the differences, when a file was made by another plan."""
    unlike = list(_differences(found, json.loads(canonical_json(asked))))
    if unlike:
        raise UserError(
            f"{path} belongs to another run ({'; '.join(unlike[:3])}); name another --out, or "
            "delete it to start again"
        )


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(found.keys() | asked.keys()):
        one, other = found.get(key), asked.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other)
        elif one != other:
            yield f"{key}: {one} there, {other} asked"
