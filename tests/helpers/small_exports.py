"""A small version to export, and independent code that reads an export back."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_results import header, small_version

from pipeline.dataset.version import Version

MVTEC = header(settings={"kind": "mvtec_ad"}, licence="CC BY-NC-SA 4.0")


def exportable(store: Path) -> Version:
    """Ten images, two held out, each with two anomalies and one control; five real test images."""
    return small_version(store, images=10, tests=5, head=MVTEC)


def originals(version: Version) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Id to pixels and mask, from the reader; None for normal images."""
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for image, record in version.images():
        found[record["name"]] = image, None
    for _, edited, mask, record in version.samples():
        found[record["id"]] = edited, mask if record["label"] else None
    for image, masks, _, record in version.test_images():
        found[record["name"]] = image, masks.any(0) if len(masks) else None
    return found


def lineage(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "lineage.jsonl").read_text().splitlines()]


def sample_id(row: dict[str, Any]) -> str:
    return row["record"].get("id", row["record"].get("name"))


def pixels(content: Path | bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        return np.asarray(image)


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
