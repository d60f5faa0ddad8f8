"""The README.md of an export: licence, how to open it, layout, limits."""

from collections.abc import Mapping
from typing import Any

from pipeline.dataset.files import SUMS
from pipeline.export.base import Content
from pipeline.reports.card import LIMITS
from pipeline.reports.croissant import description, title
from pipeline.sources.licences import terms_of
from pipeline.utils.html import escape_markdown


def render_export_card(index: Mapping[str, Any], what: str, content: Content) -> str:
    """Markdown; `what` completes the title "CATEGORY VERSION, as WHAT".

    Nothing in it depends on time or machine, so equal exports have equal bytes.
    """
    # The licence comes first, because everything derived from the images inherits it.
    return f"""{content.front}# {escape_markdown(title(index))}, as {what}

{escape_markdown(description(index))} Pixels are stored without loss.

## Licence

{terms_of(index).sentences()}

## How to open it

{content.opening}

## Files

{content.layout}

`lineage.jsonl` has one line per image: its files, and its record in the version (source image with
its digest, edit, seed, gate scores). `export.json` names the version and the options.
`sha256sum -c {SUMS}` checks the copy.
{_remarks(content)}
## Limits

{LIMITS}

Exported from the version with the content digest `{index["digest"]}`.
"""


def _remarks(content: Content) -> str:
    """Notes and what was left out, as a list; empty when there are none."""
    # Sorted, so equal exports have equal READMEs.
    left_out = sorted(content.left_out.items())
    lines = [f"- {note}." for note in content.notes]
    lines += [f"- {count} images were left out: {reason}." for reason, count in left_out]
    return "\n" + "\n".join(lines) + "\n" if lines else ""
