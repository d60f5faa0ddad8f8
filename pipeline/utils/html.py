"""The pages that people open: one way to fill a template, in which no name can do anything.

Names of images, defects and categories come from folders and archives of others. On a page they are
text: HTML in them is escaped, and characters that cannot be seen (line breaks, marks that turn the
writing direction, zero-width ones) are written out, because they would let one name pass for
another or push its neighbours around.
"""

import base64
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_SPACES = {ord(space): " " for space in "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"}


def fill(
    template: Path, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """The page of a Jinja template; every value is escaped, an unknown name is an error."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= dict(filters or {})
    return environment.from_string(template.read_text("utf-8")).render(**values)


def visible(text: str) -> str:
    """The text on one line, what cannot be seen written out as `\\u202e`."""
    if text.isprintable():
        return text
    plain = text.translate(_SPACES)
    return "".join(
        letter if letter.isprintable() or letter == " " else ascii(letter)[1:-1] for letter in plain
    )


def cell(text: str) -> str:
    """Text of others on one line of Markdown: no table, link, picture, code, stress or HTML.

    Addresses (`https://`, `www.`, `name@`) hold an entity, so that a reader makes no link of them.
    """
    flat = " ".join(visible(text).split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    flat = _ADDRESS.sub(lambda found: f"{found[1]}&#46;" if found[1] else "&#58;", flat)
    return _MARKS.sub(r"\\\g<0>", flat)


# An underscore between letters, as in wrong_type, is no mark.
_MARKS = re.compile(r"[\\|\[\]`*~]|(?<![^\W_])_|_(?![^\W_])")
_ADDRESS = re.compile(r"(?i)(www)\.|(:)(?=//)")


def _shown(value: Any) -> Any:
    """What Jinja is about to write. Markup (a macro's own output) is no text of others."""
    return visible(value) if type(value) is str else value


LONGEST = 384
"""Pictures are shrunk to this many pixels on their longer side; overlays are drawn at twice it."""


def photo(image_HW3: np.ndarray, quality: int = 84) -> str:
    """A picture as a data URI, no longer than LONGEST; WebP where Pillow has it, else PNG."""
    from PIL import Image, features

    picture = Image.fromarray(image_HW3)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    if features.check("webp"):
        return _uri(picture, "webp", quality=quality, method=2)
    return _uri(picture, "png")


def _uri(picture: Any, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
