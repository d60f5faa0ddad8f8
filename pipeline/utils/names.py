"""Names of files and folders as text: one form for files of ours, one for people.

On Linux a name is bytes. Those of a zip from a Chinese or Japanese Windows are often no UTF-8;
Python holds such bytes as lone surrogates, which no encoder accepts: not that of JSON, of CSV, of
HDF5 or of a terminal. So a name becomes text once, where it enters a record:

| in the name                                  | in the text     |
|----------------------------------------------|-----------------|
| a byte that is not part of valid UTF-8       | `\\xb2`          |
| a control character, such as a line break    | `\\x0a`          |
| a backslash                                  | `\\\\`            |
| anything else                                | unchanged       |

`path_of` leads back to the file. What people read has invisible characters written out as well,
since they would let one name look like another or move the text around it (`visible`).
"""

import os
import re
from pathlib import Path, PurePath

# Characters that are not what they are in a text of ours, and the escapes that stand for them.
_RAW = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|\\)")
# Python's surrogate for the byte 0x00; those of 0x80 to 0xff occur.
_BYTE = 0xDC00
# Line breaks and tabs become a space, which keeps a name readable.
_SPACES = {ord(space): " " for space in "\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"}


def text_of(name: str | PurePath) -> str:
    """A name or path as text that every format can hold, on one line; see the table above."""
    return _RAW.sub(_escape, str(name))


def path_of(text: str) -> Path:
    """The path whose `text_of` this is."""
    # On bytes: neighbouring escapes may form one character.
    raw = _ESCAPE.sub(_unescape, text.encode())
    return Path(os.fsdecode(raw))


def is_utf8(name: str | PurePath) -> bool:
    """False for a name with bytes that are no UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in str(name))


def visible(text: str) -> str:
    """The text on one line, with invisible characters written out as `\\u202e`."""
    if text.isprintable():
        return text
    plain = text.translate(_SPACES)
    return "".join(map(_written_out, plain))


def visible_lines(text: str) -> str:
    """The same for a text of several lines, whose line breaks stay."""
    return "\n".join(map(visible, text.split("\n")))


def _escape(found: re.Match[str]) -> str:
    return "\\\\" if found[0] == "\\" else _code(found[0])


def _unescape(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode()) if found[1] else b"\\"


def _written_out(letter: str) -> str:
    if letter.isprintable() or letter == " ":
        return letter
    return _code(letter) if "\ud800" <= letter <= "\udfff" else ascii(letter)[1:-1]


def _code(letter: str) -> str:
    """The escape of a control character or a surrogate."""
    code = ord(letter)
    # Surrogates that stand for no byte cannot come from a file system, only from a text.
    if code < 0x80 or 0x80 <= code - _BYTE <= 0xFF:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}"
