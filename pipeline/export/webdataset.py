"""WebDataset shards: plain tar files in which adjacent members with the same stem form a record.

    SPLIT-normal-000000.tar   KEY.image.png  KEY.json
    SPLIT-edited-000000.tar   KEY.image.png  KEY.mask.png  KEY.original.png  KEY.json
    test-real-000000.tar      KEY.image.png  KEY.mask.png  KEY.json

All records of one family have the same parts, so a pipeline can read them as tuples. Tar headers
hold no time, no owner and fixed permissions, so the same version gives the same bytes.
"""

import io
import tarfile
from collections import Counter
from types import TracebackType
from typing import Self

from pipeline.dataset.version import Version
from pipeline.export.base import Content, ExportFormat, ExportOptions
from pipeline.export.folder import ExportFolder, png_bytes
from pipeline.export.samples import ExportImage, export_images
from pipeline.utils.hashing import canonical_json

# A shard is closed when it has reached this size.
SHARD_BYTES = 256 << 20


def write_webdataset(
    version: Version, options: ExportOptions, out: ExportFolder, shard_bytes: int = SHARD_BYTES
) -> Content:
    """All splits of a version as tar shards, one family per split and role.

    `shard_bytes` is smaller in tests only.
    """
    with _Shards(out, shard_bytes) as shards:
        for image in export_images(version, controls=options.controls):
            family = f"{image.split}-{image.role}"
            shard = shards.add(family, image.name, _parts(image))
            out.lineage({"file": shard, "key": image.name} | image.lineage())
        families = dict(shards.numbers)
    # The example in the README opens training samples where there are any.
    first = min(families, key=lambda family: (not family.startswith("train-edited"), family))
    return Content(
        "```text\n"
        + "\n".join(f"{_range(family, count)}" for family, count in sorted(families.items()))
        + """
```

Each record has `image.png` and `json` (role, kind, label, sample id, lineage); edited ones also
`mask.png` (0, and 255 where the image is not normal) and `original.png`, real ones `mask.png`.
A control is an edited record with label 0 and an empty mask.""",
        f"""```python
import webdataset as wds

records = wds.WebDataset("{_range(first, families[first])}", shardshuffle=False).decode("rgb8")
for image, facts in records.to_tuple("image.png", "json"):
    ...  # (H, W, 3) uint8, a dictionary
```""",
    )


class _Shards:
    """The open shard of every family; a full one is closed and the next number started."""

    def __init__(self, out: ExportFolder, limit: int) -> None:
        self.out, self.limit = out, limit
        self.numbers: Counter[str] = Counter()
        self._open: dict[str, tuple[str, tarfile.TarFile]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # `_close` removes families while this iterates.
        for family in list(self._open):
            self._close(family)

    def add(self, family: str, key: str, parts: dict[str, bytes]) -> str:
        """Write one record; return the name of its shard."""
        # Open the next shard of this family.
        if family not in self._open:
            name = f"{family}-{self.numbers[family]:06d}.tar"
            self.numbers[family] += 1
            place = self.out.place(name)
            # USTAR has no extended headers, which hold times. `_close` closes the file.
            tar = tarfile.open(place, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._open[family] = name, tar
        name, tar = self._open[family]
        for ending, content in parts.items():
            # The defaults of a new TarInfo: time 0, owner 0, mode 0644.
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        # `offset` is where the next member would begin.
        if tar.offset >= self.limit:
            self._close(family)
        return name

    def _close(self, family: str) -> None:
        name, tar = self._open.pop(family)
        tar.close()
        self.out.wrote(name)


def _parts(image: ExportImage) -> dict[str, bytes]:
    """The files of one record."""
    # The order of the parts is that of the tar members.
    parts = {"image.png": png_bytes(image.image_HW3)}
    if image.role != "normal":
        parts["mask.png"] = png_bytes(image.mask_HW)
    if image.original_HW3 is not None:
        parts["original.png"] = png_bytes(image.original_HW3)
    return parts | {"json": canonical_json(image.facts() | {"record": image.record})}


def _range(family: str, count: int) -> str:
    """The shards of a family in WebDataset's brace notation."""
    if count == 1:
        return f"{family}-000000.tar"
    return f"{family}-{{000000..{count - 1:06d}}}.tar"


WEBDATASET = ExportFormat(
    name="webdataset",
    title="WebDataset shards",
    files="`SPLIT-ROLE-NNNNNN.tar`",
    readers="webdataset (1.0.2)",
    write=write_webdataset,
)
