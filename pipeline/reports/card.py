"""The dataset card of a version (`README.md`): what the index states, for people.

The licence of the source images comes first, because whatever is derived from images inherits their
terms.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.dataset.files import INDEX, RECORDS, SUMS
from pipeline.reports.audit import text as audit_text
from pipeline.reports.croissant import array_layout, description, title
from pipeline.sources.licences import terms_of
from pipeline.utils.html import escape_markdown

# On every card and every README of an export.
LIMITS = """\
The anomalies are synthetic. They cover what can be removed, added, moved or exchanged in these
images, not what will go wrong in production. Change masks cover the edited region with its blended
border; they are not outlines of defects drawn by a person. A detector may learn traces of the
editing instead of the anomaly. The controls (edited, but still normal, label 0) are there to
measure that."""


def render_card(index: Mapping[str, Any]) -> str:
    """The README.md of a version: Markdown with every name escaped."""
    # Names of kinds, reasons and rules may come from other people's files, so they are escaped.
    counts = index["counts"]
    kinds = "\n".join(
        f"| {escape_markdown(kind)} | {row['attempted']} | {row['accepted']} "
        f"| {row['accepted'] / max(row['attempted'], 1):.0%} |"
        for kind, row in sorted(counts["by_kind"].items())
    )
    reasons = "\n".join(
        f"| {escape_markdown(reason)} | {number} |"
        for reason, number in sorted(counts["rejected"].items())
    )
    # Controls count as samples here; the sentence above the tables separates them.
    splits = "\n".join(
        f"| {split} | {row['images']} | {row['samples']} |"
        for split, row in sorted(counts["splits"].items())
    )
    # Not every source has a test split with real defects.
    test = counts["test"]
    real = (
        f"The real test split of the source is stored too: {test['images']} images, "
        f"{test['good']} of them good. It is not used for training."
        if test["images"]
        else "The source has no real test split."
    )
    return f"""# {escape_markdown(title(index))}

{escape_markdown(description(index))} {real}

## Licence

{terms_of(index).sentences()}

## Content

| kind | attempted | accepted | rate |
|---|---|---|---|
{kinds}

| split | images | samples |
|---|---|---|
{splits}

Splits are by source image, so an image and its edits are always in the same split.

{_rules(counts.get("by_rule", {}))}| rejection reason | attempts |
|---|---|
{reasons or "| – | 0 |"}

Inputs that could not be used: {len(index["failures"])} (see `failures` in `{INDEX}`).

{_reviews(index.get("reviews", {}))}{_audit(index.get("audit", {}))}## Reading

```python
from pathlib import Path
from pipeline.dataset.version import open_version

for original, edited, mask, record in open_version(Path(".")).samples(split="train"):
    ...  # uint8 RGB, uint8 RGB, bool, lineage
```

Without this project: `shard-*.h5` are flat HDF5 arrays. {array_layout(index["profile"])}
`{RECORDS}` has one row per attempt, including rejected ones.
`sha256sum -c {SUMS}` checks the copy; `anomalysmith verify` also checks the content.

## Limits

{LIMITS}

Digest of the content: `{index["digest"]}`
"""


def _rules(by_rule: Mapping[str, Mapping[str, int]]) -> str:
    """The table of rules that samples were meant to break; empty without a rule book."""
    if not by_rule:
        return ""
    rows = "\n".join(
        f"| {escape_markdown(rule)} | {row['attempted']} | {row['accepted']} |"
        for rule, row in sorted(by_rule.items())
    )
    return f"| intended rule violation | attempted | accepted |\n|---|---|---|\n{rows}\n\n"


def _reviews(found: Mapping[str, Any]) -> str:
    """What people decided about the samples; empty where nobody reviewed any."""
    if not found:
        return ""
    versions = escape_markdown(", ".join(found["versions"]))
    if not found.get("curated"):
        refused = sum(map(len, found["refused"].values()))
        return f"""## Review

{refused} edits that reviewers of {versions} rejected were not accepted again; other edits took
their places where any fitted.

"""
    return f"""## Review

Made from version {escape_markdown(found["curated"])} by leaving out {found["reject"]} samples that
reviewers rejected; all others are equal to it, byte for byte. {found["reviewed"]} of its samples
were reviewed (reviewers: {found["reviewers"]}); of those that were kept, {found["unsure"]} are
doubtful and {found["disputed"]} disputed.

"""


def _audit(found: Mapping[str, Any]) -> str:
    """Two small tables and what they mean; empty where no audit was run."""
    if not found:
        return ""
    # The same rows as in the gallery and on the terminal.
    traces = "\n".join(
        f"| {escape_markdown(row['meaning'])} | {row['figure']} | {row['says']} |"
        for row in audit_text.shortcut_rows(found)
    )
    kinds = "\n".join(
        f"| {escape_markdown(row['name'])} | {row['figure']} | {row['samples']} | {row['word']} |"
        for row in audit_text.kind_rows(found)
    )
    remarks = "\n\n".join(escape_markdown(remark) for remark in audit_text.remarks(found))
    # The card explains its figures in place: readers may not have the docs. `chr(10)`, because an
    # expression inside an f-string cannot hold a backslash in Python 3.11.
    return f"""## Audit

Could a detector learn traces of the editing instead of the anomalies? AUROC (95 % interval over
source images) of a linear probe that sees statistics of the finest detail only; 0.5 is chance. The
first row is the main question: above 0.6 it is a warning. The second row says how much of it comes
from the content of the images. The others locate a trace, most of them inside the change mask,
which a detector does not have.

| what is compared | AUROC | |
|---|---|---|
{traces or "| – | – | too few to tell |"}

How easy is each kind to detect? Image AUROC of a frozen patch baseline against untouched normals.

| kind | AUROC | samples | |
|---|---|---|---|
{kinds or "| – | – | 0 | too few to tell |"}

{remarks + chr(10) * 2 if remarks else ""}"""
