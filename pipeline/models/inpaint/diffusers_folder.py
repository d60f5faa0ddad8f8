"""A diffusers folder before anything in it is loaded: what it may hold, and what its licence says.

    stable-diffusion-inpainting/
        model_index.json          which classes: only diffusers' and transformers' own
        README.md                 the publisher's card, whose head names the licence
        unet/config.json, unet/diffusion_pytorch_model.safetensors, ...

Weights are read from safetensors alone. A part that has only a pickle (`.bin`, `.ckpt`) is refused,
and so is a class of the folder's own, which would be a program.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import WeightsError

INDEX = "model_index.json"
LIBRARIES = ("diffusers", "transformers")
SKIPPED = ("safety_checker", "feature_extractor")
"""Parts that nothing here asks: a judge of indecency, and what feeds it. They are not loaded."""
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^(license(?:_name)?)\s*:\s*[\"']?([^\"'\n]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DiffusionFolder:
    """A folder that may be loaded. `variant` is `fp16` where only such files are there; `skipped`
    are the parts of it that are left out."""

    path: Path
    pipeline: str
    variant: str | None
    skipped: tuple[str, ...]


def check_folder(folder: Path) -> DiffusionFolder:
    """Look at the folder's index and file names; WeightsError says what is wrong and what to do."""
    index = _index(folder)
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
                f"{folder / INDEX}: part {name!r} is a {library}.{class_name}; expected classes of "
                f"{' or '.join(LIBRARIES)} only, as another one would be a program of the folder's "
                "own; take a pipeline without it"
            )
        variants.add(_variant(folder / name))
    variant = "fp16" if "fp16" in variants else None
    return DiffusionFolder(folder, str(index.get("_class_name", "")), variant, skipped)


def stated_licence(folder: Path) -> str:
    """The licence that the folder's card names, such as `openrail++`; empty when it names none."""
    try:
        head = _HEAD.match((folder / "README.md").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    stated = dict(_LICENCE.findall(head[1])) if head else {}
    return str(stated.get("license_name") or stated.get("license", "")).strip()


def forbids_commerce(licence: str) -> bool:
    """True when the licence's name says that the files are not for commercial use."""
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
    """Which weights files a part has: None for plain ones or none at all, `fp16` for only those."""
    if not part.is_dir():
        raise WeightsError(f"{part}: {INDEX} names this part, but it is not there; copy it as well")
    names = [path.name for path in part.iterdir() if path.is_file()]
    safe = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not safe:
        raise WeightsError(
            f"{part / pickles[0]} is refused: a pickle may run code while it is read; expected "
            "safetensors; fetch the .safetensors files, or save the pipeline again with "
            "safe_serialization=True"
        )
    return "fp16" if safe and all(".fp16." in name for name in safe) else None
