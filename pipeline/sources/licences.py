"""From the licence text of a source to its terms, for versions and exports made from its images.

A version has the licence of its source images as text. Its card and its exports also need the
address of the terms, the identifier for the Hugging Face Hub, the credit, and the two conditions
that are often overlooked: no commercial use, and the same licence for derived works. Unknown texts
are passed on unchanged.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.sources.layouts.registry import LAYOUTS
from pipeline.utils.html import escape_markdown

NOT_STATED = "not stated by the source"

# Creative Commons and software licences by their normalised text (see `_key`).
_CC = "https://creativecommons.org/"
# Normalised text -> address of the terms, identifier on the Hugging Face Hub.
_KNOWN = {
    "cc0-1.0": (f"{_CC}publicdomain/zero/1.0/", "cc0-1.0"),
    "cc-by-4.0": (f"{_CC}licenses/by/4.0/", "cc-by-4.0"),
    "cc-by-sa-4.0": (f"{_CC}licenses/by-sa/4.0/", "cc-by-sa-4.0"),
    "cc-by-nc-4.0": (f"{_CC}licenses/by-nc/4.0/", "cc-by-nc-4.0"),
    "cc-by-nc-sa-4.0": (f"{_CC}licenses/by-nc-sa/4.0/", "cc-by-nc-sa-4.0"),
    "cc-by-nc-nd-4.0": (f"{_CC}licenses/by-nc-nd/4.0/", "cc-by-nc-nd-4.0"),
    "apache-2.0": ("https://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
    "mit": ("https://opensource.org/license/mit", "mit"),
}
# The licence of images that the project renders itself, in the layout of MVTec LOCO AD.
RENDERED_LICENCE = "Apache-2.0 (rendered)"


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a licence.

    `url` and `credit` are empty where unknown; `hub` is never empty. `stated` is False when the
    source states no licence.
    """

    text: str
    url: str
    hub: str
    credit: str
    stated: bool

    @property
    def noncommercial(self) -> bool:
        # By the text, so that it also holds for licences that are not in the table.
        return bool(re.search(r"\bNC\b|non-?commercial", self.text, re.I))

    @property
    def share_alike(self) -> bool:
        return bool(re.search(r"\bSA\b|share-?alike", self.text, re.I))

    def sentences(self) -> str:
        """The conditions for users of the files, as Markdown."""
        name = (
            f"[{escape_markdown(self.text)}]({self.url})"
            if self.url
            else escape_markdown(self.text)
        )
        lines = [
            f"**{name}** – the terms of the source images hold for everything made from them, so "
            "for these files too."
        ]
        if self.share_alike:
            lines.append("What you make from them must be passed on under the same licence.")
        if self.noncommercial:
            lines.append("Commercial use is not allowed.")
        if self.credit:
            lines.append(f"Credit the source: {self.credit}.")
        if not self.stated:
            lines.append("Ask the owner of the images before you pass them on.")
        return " ".join(lines)


def terms_of(index: Mapping[str, Any]) -> Terms:
    """The terms of the source images of a version, from its index."""
    text = index["licence"]
    stated = bool(text) and text != "unknown"
    key = _key(text)
    url, hub = _KNOWN.get(key, ("", "other" if stated else "unknown"))
    layout = LAYOUTS.get(index["settings"].get("kind", ""))
    # Any images may be in MVTec's folder layout. MVTec is credited only if the licence matches too.
    credit = layout.credit if layout and key == _key(layout.licence) else ""
    return Terms(text if stated else NOT_STATED, url, hub, credit, stated)


def _key(text: str) -> str:
    """A licence in lower case with hyphens for spaces, without remarks in parentheses.

    `Apache-2.0 (rendered)` becomes `apache-2.0`.
    """
    return re.sub(r"\s+", "-", re.sub(r"\(.*?\)", "", text).strip()).lower()
