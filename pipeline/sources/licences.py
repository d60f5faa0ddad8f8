"""What a licence text of a source means for those who get something made from it.

A version carries the licence of its source images as text. Whoever passes on a version or an
export needs more: the address of the terms, the short name that a hub knows, whom to credit, and
the two conditions that people miss: no commercial use, and the same licence for whatever is made
from it. Text that is not known here is passed on as it stands.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.sources.layouts.registry import LAYOUTS
from pipeline.utils.html import cell

NOT_STATED = "not stated by the source"

_CC = "https://creativecommons.org/"
_KNOWN = {  # our spelling without spaces and case: address of the terms, name on a hub
    "cc0-1.0": (f"{_CC}publicdomain/zero/1.0/", "cc0-1.0"),
    "cc-by-4.0": (f"{_CC}licenses/by/4.0/", "cc-by-4.0"),
    "cc-by-sa-4.0": (f"{_CC}licenses/by-sa/4.0/", "cc-by-sa-4.0"),
    "cc-by-nc-4.0": (f"{_CC}licenses/by-nc/4.0/", "cc-by-nc-4.0"),
    "cc-by-nc-sa-4.0": (f"{_CC}licenses/by-nc-sa/4.0/", "cc-by-nc-sa-4.0"),
    "cc-by-nc-nd-4.0": (f"{_CC}licenses/by-nc-nd/4.0/", "cc-by-nc-nd-4.0"),
    "apache-2.0": ("https://www.apache.org/licenses/LICENSE-2.0", "apache-2.0"),
    "mit": ("https://opensource.org/license/mit", "mit"),
}
# Images that the project renders itself, in the layout of MVTec LOCO AD.
RENDERED_LICENCE = "Apache-2.0 (rendered)"


@dataclass(frozen=True, slots=True)
class Terms:
    """One licence. `url` and `credit` are empty where they are not known; `hub` is never empty."""

    text: str
    url: str
    hub: str
    credit: str
    stated: bool

    @property
    def noncommercial(self) -> bool:
        return bool(re.search(r"\bNC\b|non-?commercial", self.text, re.I))

    @property
    def share_alike(self) -> bool:
        return bool(re.search(r"\bSA\b|share-?alike", self.text, re.I))

    def sentences(self) -> str:
        """What it means for whoever holds the files, as Markdown."""
        name = f"[{cell(self.text)}]({self.url})" if self.url else cell(self.text)
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
    # A folder in MVTec's layout may hold anybody's images; only its own licence names its owner.
    credit = layout.credit if layout and key == _key(layout.licence) else ""
    return Terms(text if stated else NOT_STATED, url, hub, credit, stated)


def _key(text: str) -> str:
    """A licence without spaces and case.

    "Apache-2.0 (rendered)" says how the images came about; the licence is the first word.
    """
    return re.sub(r"\s+", "-", re.sub(r"\(.*?\)", "", text).strip()).lower()
