"""Dataset versions of folders, by the generator's default settings."""

from pathlib import Path

from flows.jobs.generate import GenerateReport, generate
from flows.jobs.progress import Watcher
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.errors import UserError
from pipeline.sources.layouts.registry import guess_layout


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
    """Generate from a folder, with the default number of anomalous samples an image or `per_image`.

    The layout is guessed unless it is named. UserError when no layout fits.
    """
    kind = layout or guess_layout(data)
    if kind is None:
        raise UserError(f"{data} is in no known layout; name one with --layout")
    manifest = manifest_for_source(
        kind, data, category, store=str(store.resolve()), image_size=list(size),
        edits={} if per_image is None else {"per_image": per_image},
    )  # fmt: skip
    return generate(
        resolve(manifest, category or next(iter(manifest.categories))),
        limit=limit, workers=workers, watcher=watcher,
    )  # fmt: skip
