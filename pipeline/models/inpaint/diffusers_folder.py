"""Validation of a diffusers folder before anything in it is loaded; its stated licence.

    stable-diffusion-inpainting/
        model_index.json          which classes: only diffusers' and transformers' own
        README.md                 the publisher's card, whose head names the licence
        unet/config.json, unet/diffusion_pytorch_model.safetensors, ...

Weights are read from safetensors only. A component that has only a pickle (`.bin`, `.ckpt`) is
rejected, and so is a custom class, because it would be a program from the folder.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import WeightsError

INDEX = "model_index.json"
# Classes of other libraries, or of the folder itself, would execute unknown code.
LIBRARIES = ("diffusers", "transformers")
# Components that are never loaded: the NSFW classifier and its preprocessing.
SKIPPED = ("safety_checker", "feature_extractor")
# File names of pickled weights.
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# The YAML front matter of a model card, and its licence keys.
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^(license(?:_name)?)\s*:\s*[\"']?([^\"'\n]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DiffusionFolder:
    """A folder that is safe to load.

    `variant` is `fp16` where only files of that variant exist; `skipped` are components that are
    left out.
    """

    path: Path
    pipeline: str
    variant: str | None
    skipped: tuple[str, ...]


def check_folder(folder: Path) -> DiffusionFolder:
    """Check the folder's index and file names; WeightsError says what is wrong and what to do."""
    index = _index(folder)
    # Components are `name: [library, class]`, with nulls where the pipeline has none.
    parts = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] is not None
    }
    skipped = tuple(name for name in parts if name in SKIPPED)
    variants = set()
    for name, (library, class_name) in parts.items():
        if name in skipped:
            continue
        if library not in LIBRARIES or not name.isidentifier():
            raise WeightsError(
                f"{folder / INDEX}: component {name!r} is a {library}.{class_name}; expected "
                f"classes of {' or '.join(LIBRARIES)} only, because any other could run code from "
                "the folder; use a pipeline without it"
            )
        variants.add(_variant(folder / name))
    # One component with only fp16 files decides; diffusers uses plain files for the others.
    variant = "fp16" if "fp16" in variants else None
    return DiffusionFolder(folder, str(index.get("_class_name", "")), variant, skipped)


def stated_licence(folder: Path) -> str:
    """The licence in the folder's model card, such as `openrail++`; empty when it states none."""
    try:
        head = _HEAD.match((folder / "README.md").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    stated = dict(_LICENCE.findall(head[1])) if head else {}
    # `license: other` comes with the actual name in `license_name`.
    return str(stated.get("license_name") or stated.get("license", "")).strip()


def forbids_commerce(licence: str) -> bool:
    """True when the name of the licence rules out commercial use."""
    return bool(re.search(r"(?<![a-z])nc(?![a-z])|non-?commercial|research", licence, re.I))


def _index(folder: Path) -> dict[str, object]:
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(
            f"{folder}: expected a diffusers folder, found no {INDEX} in it; name the folder that "
            "holds it (a single .safetensors or .ckpt file must be converted first)"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; fetch the folder again") from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise WeightsError(f"{path}: expected an object with _class_name; fetch the folder again")
    return index


def _variant(part: Path) -> str | None:
    """`fp16` when a component has weights of that variant only, else None (plain, or no
    weights)."""
    if not part.is_dir():
        raise WeightsError(
            f"{part}: {INDEX} names this component, but the folder is missing; copy it as well"
        )
    # Pickles beside safetensors are ignored; diffusers reads the latter with use_safetensors.
    names = [path.name for path in part.iterdir() if path.is_file()]
    safe = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not safe:
        raise WeightsError(
            f"{part / pickles[0]} is rejected: a pickle may run code while it is read; expected "
            "safetensors; fetch the .safetensors files, or save the pipeline again with "
            "safe_serialization=True"
        )
    return "fp16" if safe and all(".fp16." in name for name in safe) else None
