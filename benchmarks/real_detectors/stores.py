"""Dataset versions of folders, by the generator's default settings, with fewer samples an image."""

import math
from pathlib import Path

from flows.jobs.generate import GenerateReport, generate
from flows.jobs.progress import Watcher
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.edits.settings import EditSettings
from pipeline.errors import UserError
from pipeline.sources.layouts.registry import guess_layout

# Accepted samples of a version that detectors train on, roughly; with few normals there are fewer,
# because the generator's default per image is the limit.
PAIRS = 300


def generate_store(
    data: Path,
    store: Path,
    *,
    category: str | None = None,
    layout: str | None = None,
    per_image: int | None = None,
    limit: int | None = None,
    size: tuple[int, int] = (256, 256),
    workers: int = 1,
    watcher: Watcher | None = None,
) -> GenerateReport:
    """Generate from a folder; by default about PAIRS anomalous samples in all.

    The layout is guessed unless it is named. UserError when no layout fits.
    """
    kind = layout or guess_layout(data)
    if kind is None:
        raise UserError(f"{data} is in no known layout; name one with --layout")
    normals = sum(1 for _ in (data / "train" / "good").glob("*"))
    normals = min(normals, limit or normals)
    most = EditSettings().per_image
    wanted = per_image or min(most, math.ceil(PAIRS / max(1, normals)))
    manifest = manifest_for_source(
        kind, data, category, store=str(store.resolve()), image_size=list(size),
        edits={"per_image": wanted},
    )  # fmt: skip
    return generate(
        resolve(manifest, category or next(iter(manifest.categories))),
        limit=limit, workers=workers, watcher=watcher,
    )  # fmt: skip
