"""The README.md of an export: licence first, then how to open it, what it is and is not."""

from collections.abc import Mapping
from typing import Any

from pipeline.export.base import Content
from pipeline.reports.card import LIMITS
from pipeline.reports.croissant import description, title
from pipeline.sources.licences import terms_of
from pipeline.utils.html import cell


def render_export_card(index: Mapping[str, Any], what: str, content: Content) -> str:
    """Markdown; the same version and content give the same text."""
    return f"""{content.front}# {cell(title(index))}, as {what}

{cell(description(index))} Pixels are stored without loss.

## Licence

{terms_of(index).sentences()}

## Open it

{content.opening}

## What lies where

{content.layout}

`lineage.jsonl` has one line per picture: its files, and the record that the version keeps of it
(source image with its digest, edit, seed, scores of the gate). `export.json` names the version and
the options. `sha256sum -c SHA256SUMS` checks the copy.
{_remarks(content)}
## Limits

{LIMITS}

Made from the version with the content digest `{index["digest"]}`.
"""


def _remarks(content: Content) -> str:
    """What a reader must know about the choice that was made, or nothing."""
    left_out = sorted(content.left_out.items())
    lines = [f"- {note}." for note in content.notes]
    lines += [f"- {count} pictures are not here: {reason}." for reason, count in left_out]
    return "\n" + "\n".join(lines) + "\n" if lines else ""
