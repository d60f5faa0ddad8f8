"""The papers of a version: its dataset card for people and its Croissant description for tools.

Both say the same as the index, in other words. The licence of the source images comes first,
because whatever is made from images inherits the terms of those images.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.reports.audit import text as audit_text
from pipeline.sources.licences import terms_of
from pipeline.utils.html import cell

RECORDS = "records.parquet"

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_FIELDS = {
    "image": ("sc:Text", "name of the normal image that the attempt started from"),
    "split": ("sc:Text", "train or validation; a source image lies in one split only"),
    "number": ("sc:Integer", "number of the wanted sample of this image"),
    "attempt": ("sc:Integer", "number of the try at this sample"),
    "kind": ("sc:Text", "kind of edit"),
    "seed": ("sc:Integer", "seed of every random choice of this attempt"),
    "accepted": ("sc:Boolean", "whether the quality gate let the sample pass"),
    "reason": ("sc:Text", "why it was rejected; empty when accepted"),
    "seconds": ("sc:Float", "how long the attempt took"),
    "shard": ("sc:Text", "file that holds the pixels, if they were kept"),
    "row": ("sc:Integer", "row of the sample in that file"),
}


LIMITS = """\
The anomalies are synthetic: they show what can be taken away, added, moved or exchanged in these
images, not what will go wrong in a plant. Change masks cover the edited region including its
seam, not a person's outline of a defect. A detector may learn traces of the editing instead of
the meaning; the controls (label normal, edited all the same) are there to measure that."""


def title(index: Mapping[str, Any]) -> str:
    return f"{index['category']} {index['version']}"


def description(index: Mapping[str, Any]) -> str:
    """One sentence about what a version holds."""
    counts = index["counts"]
    height, width = index["image_size"]
    return (
        f"{counts['images']} normal images of {index['category']} ({width}×{height}) and "
        f"{counts['accepted']} synthetic samples made from them: {counts['anomalous']} logical "
        f"anomalies with change masks and {counts['controls']} controls that stay normal."
    )


def render_card(index: Mapping[str, Any]) -> str:
    """The README.md of a version."""
    counts = index["counts"]
    kinds = "\n".join(
        f"| {cell(kind)} | {row['attempted']} | {row['accepted']} "
        f"| {row['accepted'] / max(row['attempted'], 1):.0%} |"
        for kind, row in sorted(counts["by_kind"].items())
    )
    reasons = "\n".join(
        f"| {cell(reason)} | {number} |" for reason, number in sorted(counts["rejected"].items())
    )
    splits = "\n".join(
        f"| {split} | {row['images']} | {row['samples']} |"
        for split, row in sorted(counts["splits"].items())
    )
    test = counts["test"]
    real = (
        f"The real test split of the source is stored too: {test['images']} images, "
        f"{test['good']} of them good. It decides nothing in training."
        if test["images"]
        else "The source has no real test split."
    )
    return f"""# {cell(title(index))}

{cell(description(index))} {real}

## Licence

{terms_of(index).sentences()}

## Content

| kind | attempted | accepted | rate |
|---|---|---|---|
{kinds}

| split | images | samples |
|---|---|---|
{splits}

Splits are by source image: no image and its edit fall on two sides.

{_rules(counts.get("by_rule", {}))}| rejected because | attempts |
|---|---|
{reasons or "| – | 0 |"}

Inputs that could not be used: {len(index["failures"])} (see `failures` in `index.json`).

{_audit(index.get("audit", {}))}## Reading

```python
from pathlib import Path
from pipeline.generation.publish import open_version

for original, edited, mask, record in open_version(Path(".")).samples(split="train"):
    ...  # uint8 RGB, uint8 RGB, bool, lineage
```

Without this project: `shard-*.h5` are flat HDF5 arrays. {_arrays(index["profile"])}
`{RECORDS}` has one row per attempt, the rejected ones too.
`sha256sum -c SHA256SUMS` checks the copy, `anomalysmith verify` also the content.

## Limits

{LIMITS}

Digest of the content: `{index["digest"]}`
"""


def croissant(index: Mapping[str, Any]) -> dict[str, Any]:
    """Croissant 1.1 metadata: every data file with its digest, and the table of attempts."""
    records = index["records"]
    files = [
        _file(shard["file"], shard["bytes"], shard["sha256"], "application/x-hdf5")
        for shard in index["shards"]
    ]
    files.append(_file(RECORDS, records["bytes"], records["sha256"], "application/x-parquet"))
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"attempts/{name}",
            "name": name,
            "description": meaning,
            "dataType": kind,
            "source": {"fileObject": {"@id": RECORDS}, "extract": {"column": name}},
        }
        for name, (kind, meaning) in _FIELDS.items()
    ]
    name, terms = f"{index['category']}-{index['version']}", terms_of(index)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": description(index),
        "license": terms.url or terms.text,
        "version": f"{int(index['version'].split('-')[0])}.0.0",
        "citeAs": f"anomalysmith dataset {name}, content {index['digest']}",
        "datePublished": datetime.now(UTC).date().isoformat(),
        "url": f"urn:sha256:{index['digest']}",
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "attempts",
                "name": "attempts",
                "description": "One row per attempt at a sample, rejected ones included.",
                "field": fields,
            }
        ],
    }


def _rules(by_rule: Mapping[str, Mapping[str, int]]) -> str:
    """The table of rules that samples were to break; nothing where there is no rule book."""
    if not by_rule:
        return ""
    rows = "\n".join(
        f"| {cell(rule)} | {row['attempted']} | {row['accepted']} |"
        for rule, row in sorted(by_rule.items())
    )
    return f"| rule broken on purpose | attempted | accepted |\n|---|---|---|\n{rows}\n\n"


def _audit(found: Mapping[str, Any]) -> str:
    """Two small tables and what they mean; nothing where no audit was made."""
    if not found:
        return ""
    traces = "\n".join(
        f"| {cell(row['meaning'])} | {row['figure']} | {row['says']} |"
        for row in audit_text.shortcut_rows(found)
    )
    kinds = "\n".join(
        f"| {cell(row['name'])} | {row['figure']} | {row['samples']} | {row['word']} |"
        for row in audit_text.kind_rows(found)
    )
    remarks = "\n\n".join(cell(remark) for remark in audit_text.remarks(found))
    return f"""## Audit

Could a detector learn the editing instead of the meaning? AUROC (95 % interval over source images)
of a linear probe that sees statistics of the finest detail only; 0.5 is a coin. The first row is
the question: above 0.6 it is a warning. The second says how much of it is mere content. The others
look for where a trace is, most of them inside the mask, which no detector is told.

| what is compared | AUROC | |
|---|---|---|
{traces or "| – | – | too few to tell |"}

How visible is each kind? Image AUROC of a frozen patch baseline against untouched normals.

| kind | AUROC | samples | |
|---|---|---|---|
{kinds or "| – | – | 0 | too few to tell |"}

{remarks + chr(10) * 2 if remarks else ""}"""


def _file(name: str, size: int, sha256: str, media: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": media,
        "sha256": sha256,
    }


def _arrays(profile: str) -> str:
    """Where the pixels of an edited image are, and what it takes to read them."""
    if profile == "fast":
        return (
            "An edited image is `samples/edited`, its mask\n`samples/mask_bytes`; every HDF5 build "
            "can read them."
        )
    needs = "Every HDF5 build can read them."
    if profile == "default":
        needs = "They need the lz4 filter: `import hdf5plugin` before reading."
    return (
        "An edited image is\n`originals/pixels[source] + samples/delta` modulo 256; masks are bits "
        f"along the row\n(`numpy.unpackbits`). {needs}"
    )
