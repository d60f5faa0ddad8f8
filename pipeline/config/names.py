"""Names of categories and sources: letters of every script, as folders of the store may have them.

A name becomes a folder, part of file names, of Prefect deployments and of exports, so it holds
letters, digits, `_`, `.` and `-` only. It is compared and stored in Unicode's composed form (NFC):
macOS writes the same name in another one.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from pipeline.utils.hashing import digest_of

# Of the store's folders; a file name has 255 bytes, and what is added to a name needs some.
_MOST_LETTERS, _MOST_BYTES = 100, 200
# Letters, marks that belong to letters (Thai, Hindi), digits.
_KINDS = "LMN"
_RULE = "use letters, digits, . _ - in a name, and begin it with a letter or digit"


def composed(name: str) -> str:
    """A name in the form in which names are compared and stored."""
    return unicodedata.normalize("NFC", name)


def category_name(folder: str) -> str:
    """The name of a category after its folder, whatever that is called.

    What no name may hold becomes `_`. A name of which nothing is left, or that is too long, ends
    with eight digits of a hash, so that others stay different.
    """
    plain = "".join(letter if _allowed(letter) else "_" for letter in composed(folder))
    name = re.sub(r"_{2,}", "_", plain) if plain != composed(folder) else plain
    while name and not (name[0].isalnum()):
        name = name[1:]
    short = name
    while len(short) > _MOST_LETTERS or len(short.encode()) > _MOST_BYTES:
        short = short[:-1]
    if short and short == name:
        return name
    return f"{short[:40] or 'category'}-{digest_of(folder)[:8]}"


def twice(names: Iterable[str]) -> tuple[str, str] | None:
    """The first two names that differ in case or Unicode form only; on many disks they are one."""
    seen: dict[str, str] = {}
    for name in names:
        before = seen.setdefault(composed(name).casefold(), name)
        if before is not name:
            return before, name
    return None


def _allowed(letter: str) -> bool:
    return unicodedata.category(letter)[0] in _KINDS or letter in "_.-"


def _checked(name: str) -> str:
    name = composed(name)
    if not all(map(_allowed, name)) or not name[:1].isalnum():
        raise ValueError(_RULE)
    if len(name.encode()) > _MOST_BYTES:
        raise ValueError(f"expected a name of at most {_MOST_BYTES} bytes in UTF-8; shorten it")
    return name


# The pattern is what an editor can check: it keeps out what ASCII has beside letters and digits.
Name = Annotated[
    str,
    StringConstraints(
        pattern=r"^[^\x00-/:-@\[-`{-\x7f][^\x00-,/:-@\[-^`{-\x7f]*$", max_length=_MOST_LETTERS
    ),
    AfterValidator(_checked),
]
