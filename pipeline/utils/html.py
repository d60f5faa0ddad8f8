"""Jinja pages, Markdown escaping, images as data URIs.

Names of images, defects and categories come from folders and archives of others. On a page they are
text: HTML in them is escaped. Invisible characters (line breaks, bidirectional marks, zero-width
characters) are written out (`pipeline.utils.names`).
"""

import base64
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.utils.names import visible

if TYPE_CHECKING:
    import jinja2

# Longer side of an embedded image in px; larger ones are shrunk. The overlays of the gallery are
# drawn at twice this size.
THUMBNAIL_SIDE = 384

# What Markdown would interpret. An underscore between letters, as in wrong_type, is left alone.
_MARKS = re.compile(r"[\\|\[\]`*~]|(?<![^\W_])_|_(?![^\W_])")
_ADDRESS = re.compile(r"(?i)(www)\.|(:)(?=//)")


def render_template(
    template: Path, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """The page of a Jinja template; every value is escaped, an unknown name is an error."""
    environment = jinja_environment()
    environment.filters |= dict(filters or {})
    return environment.from_string(template.read_text("utf-8")).render(**values)


def jinja_environment(folder: Path | None = None) -> "jinja2.Environment":
    """Escapes every value, and takes an unknown name for an error; loads templates of a folder."""
    # Jinja is imported on use, as most commands render no page.
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder) if folder else None,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Applied to every value before it is escaped.
        finalize=_finalize,
    )


def escape_markdown(text: str) -> str:
    """Text as one plain line of Markdown: no table, link, image, code, emphasis or HTML.

    Addresses (`https://`, `www.`, `name@`) get an HTML entity inside, because many Markdown
    renderers turn bare addresses into links.
    """
    flat = " ".join(visible(text).split())
    # The ampersand first, as the other replacements insert entities.
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
    flat = _ADDRESS.sub(lambda found: f"{found[1]}&#46;" if found[1] else "&#58;", flat)
    return _MARKS.sub(r"\\\g<0>", flat)


def thumbnail_uri(image_HW3: np.ndarray, quality: int = 84) -> str:
    """An RGB uint8 image as a data URI, shrunk to THUMBNAIL_SIDE.

    WebP at `quality` (0-100) where Pillow was built with it, else PNG.
    """
    from PIL import Image, features

    image = Image.fromarray(image_HW3)
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    if features.check("webp"):
        # Method 2 (of 0-6, default 4) encodes faster, for slightly larger files.
        return data_uri(image, "webp", quality=quality, method=2)
    return data_uri(image, "png")


def data_uri(image: Any, kind: str, **options: Any) -> str:
    """A Pillow image as `data:image/KIND;base64,…`; `options` are those of Pillow's encoder."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _finalize(value: Any) -> Any:
    """Make plain text visible. Markup, which a macro returns, is a subclass of str and stays."""
    return visible(value) if type(value) is str else value
