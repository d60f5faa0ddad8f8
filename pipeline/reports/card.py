"""The papers of a version: its dataset card for people and its Croissant description for tools.

Both say the same as the index, in other words. The licence of the source images comes first,
because whatever is made from images inherits the terms of those images.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.dataset.files import RECORDS
from pipeline.reports.audit import text as audit_text
from pipeline.reports.croissant import array_layout, description, title
from pipeline.sources.licences import terms_of
from pipeline.utils.html import cell

LIMITS = """\
The anomalies are synthetic: they show what can be taken away, added, moved or exchanged in these
images, not what will go wrong in a plant. Change masks cover the edited region including its
seam, not a person's outline of a defect. A detector may learn traces of the editing instead of
the meaning; the controls (label normal, edited all the same) are there to measure that."""


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
from pipeline.dataset.version import open_version

for original, edited, mask, record in open_version(Path(".")).samples(split="train"):
    ...  # uint8 RGB, uint8 RGB, bool, lineage
```

Without this project: `shard-*.h5` are flat HDF5 arrays. {array_layout(index["profile"])}
`{RECORDS}` has one row per attempt, the rejected ones too.
`sha256sum -c SHA256SUMS` checks the copy, `anomalysmith verify` also the content.

## Limits

{LIMITS}

Digest of the content: `{index["digest"]}`
"""


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
