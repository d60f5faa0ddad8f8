"""Croissant metadata of a version (`croissant.json`), which dataset tools and search engines read.

Format: http://mlcommons.org/croissant/1.1. The sentences here are also used by the card.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.dataset.files import RECORDS
from pipeline.sources.licences import terms_of

# The JSON-LD context of the specification, word for word: validators compare it.
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
# Columns of the table of attempts: type and description. Gate scores differ between versions and
# are left out.
_FIELDS = {
    "image": ("sc:Text", "name of the normal image that the attempt started from"),
    "split": ("sc:Text", "train or validation; a source image is in one split only"),
    "number": ("sc:Integer", "number of the requested sample of this image"),
    "attempt": ("sc:Integer", "number of the attempt at this sample, from 0"),
    "kind": ("sc:Text", "kind of edit"),
    "seed": ("sc:Integer", "seed of every random choice of this attempt"),
    "accepted": ("sc:Boolean", "whether the quality gate accepted the sample"),
    "reason": ("sc:Text", "rejection reason; empty when accepted"),
    "seconds": ("sc:Float", "duration of the attempt"),
    "shard": ("sc:Text", "file that holds the pixels, if they are stored"),
    "row": ("sc:Integer", "row of the sample in that file"),
}


def croissant(index: Mapping[str, Any]) -> dict[str, Any]:
    """Croissant 1.1 metadata: every data file with its digest, and the table of attempts."""
    # Data files only: card, index and gallery are no data.
    records = index["records"]
    files = [
        _file(shard["file"], shard["bytes"], shard["sha256"], "application/x-hdf5")
        for shard in index["shards"]
    ]
    files.append(_file(RECORDS, records["bytes"], records["sha256"], "application/x-parquet"))
    # One field per column, with the column of the Parquet file as its source.
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
    # The name of a version is unique in its category only.
    name, terms = f"{index['category']}-{index['version']}", terms_of(index)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": description(index),
        # The specification asks for a URL; a licence without one is stated by its text.
        "license": terms.url or terms.text,
        # Croissant asks for three numbers; ours counts the versions of a category.
        "version": f"{int(index['version'].split('-')[0])}.0.0",
        "citeAs": f"anomalysmith dataset {name}, content {index['digest']}",
        "datePublished": datetime.now(UTC).date().isoformat(),
        # A version has no address of its own. The digest identifies it wherever it is copied.
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


def _file(name: str, size: int, sha256: str, media: str) -> dict[str, Any]:
    """One file of the distribution; `size` in bytes, `media` its MIME type."""
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{size} B",
        "encodingFormat": media,
        "sha256": sha256,
    }


def array_layout(profile: str) -> str:
    """Where the pixels of an edited image are, and what is needed to read them (two lines)."""
    if profile == "fast":
        return (
            "An edited image is `samples/edited`, its mask\n`samples/mask_bytes`; every HDF5 build "
            "can read them."
        )
    # `portable` and `default` differ in the filter only.
    needs = "Every HDF5 build can read them."
    if profile == "default":
        needs = "They need the lz4 filter: `import hdf5plugin` before reading."
    return (
        "An edited image is\n`originals/pixels[source] + samples/delta` modulo 256; masks are "
        f"bit-packed along the row\n(`numpy.unpackbits`). {needs}"
    )


def title(index: Mapping[str, Any]) -> str:
    """Category and version."""
    return f"{index['category']} {index['version']}"


def description(index: Mapping[str, Any]) -> str:
    """One sentence about the content of a version."""
    counts = index["counts"]
    # Stored as (H, W); people expect width first.
    height, width = index["image_size"]
    return (
        f"{counts['images']} normal images of {index['category']} ({width}×{height}) and "
        f"{counts['accepted']} synthetic samples made from them: {counts['anomalous']} logical "
        f"anomalies with change masks and {counts['controls']} controls that are edited but normal."
    )
