"""A folder of composed scenes as `generate --source folder:ROOT/images` reads it, with the truth.

ROOT/images/0000.png   the scenes
ROOT/truth/0000.png    which part a pixel belongs to: 0 none, n the part with index n - 1
ROOT/truth.json        kinds and compartments of the parts, compartments, rule

The photographs forbid their storage in the repository, so ROOT lies elsewhere.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.real_parts.scenes import Rule, Scene, compose


def write_folder(
    root: Path,
    arrangement: str,
    count: int,
    photographs: Path,
    *,
    first_seed: int = 0,
    size: int = 256,
    background: str | None = "cloth",
) -> list[Scene]:
    """Compose and write `count` scenes; one product lies on one background unless it is None."""
    for folder in ("images", "truth"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    scenes = []
    for number in range(count):
        scene = compose(arrangement, first_seed + number, photographs, size, background)
        Image.fromarray(scene.image_HW3).save(root / "images" / f"{number:04}.png")
        Image.fromarray(_labels_HW(scene)).save(root / "truth" / f"{number:04}.png")
        scenes.append(scene)
    truth = {
        "arrangement": arrangement,
        "rule": _rule(scenes[0].rule) if scenes else {},
        "compartments": scenes[0].boxes_K4.tolist() if scenes else [],
        "scenes": {f"{number:04}.png": _facts(scene) for number, scene in enumerate(scenes)},
    }
    (root / "truth.json").write_text(json.dumps(truth, indent=1), encoding="utf-8")
    return scenes


def read_folder(root: Path) -> dict[str, Scene]:
    """File name -> scene, as `write_folder` wrote them."""
    truth = json.loads((root / "truth.json").read_text(encoding="utf-8"))
    rule = Rule(
        truth["rule"].get("counts", {}),
        {int(cell): kinds for cell, kinds in truth["rule"].get("cells", {}).items()},
    )
    boxes_K4 = np.array(truth["compartments"], np.int64).reshape(-1, 4)
    scenes = {}
    for name, facts in truth["scenes"].items():
        labels_HW = np.asarray(Image.open(root / "truth" / name))
        masks_NHW = np.stack([labels_HW == 1 + index for index in range(len(facts["kinds"]))])
        scenes[name] = Scene(
            truth["arrangement"], facts["seed"], facts["background"],
            np.asarray(Image.open(root / "images" / name)), masks_NHW,
            tuple(facts["kinds"]), tuple(facts["cells"]), boxes_K4, rule,
        )  # fmt: skip
    return scenes


def _labels_HW(scene: Scene) -> np.ndarray:
    labels_HW = np.zeros(scene.image_HW3.shape[:2], np.uint8)
    for index, mask_HW in enumerate(scene.masks_NHW):
        labels_HW[mask_HW] = 1 + index
    return labels_HW


def _rule(rule: Rule) -> dict[str, Any]:
    cells = {str(cell): dict(kinds) for cell, kinds in rule.cells.items()}
    return {"counts": dict(rule.counts), "cells": cells}


def _facts(scene: Scene) -> dict[str, Any]:
    return {
        "seed": scene.seed,
        "background": scene.background,
        "kinds": list(scene.kinds),
        "cells": list(scene.cells),
    }
