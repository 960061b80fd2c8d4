"""Encodings: bytes go in, text comes out, or an error that names the first byte that is none.

Nothing is guessed: on short texts a guess is often wrong, and a wrong one is not noticed (the
Spanish "mañana" in cp1252 reads as "mańana" in cp1250). What is not UTF-8 says itself what it is,
by a byte order mark or as HTML does, or the caller says it.
"""

from __future__ import annotations

import codecs

# UTF-32's before UTF-16's, which begins in the same way.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def marked_encoding(raw: bytes) -> str:
    """Return the encoding that a byte order mark names, or nothing."""
    return next((name for mark, name in MARKS.items() if raw.startswith(mark)), "")


def check_encoding(name: str) -> str:
    """Return an encoding's name if Python knows it; ValueError otherwise."""
    try:
        b" ".decode(name or "utf-8", "ignore")  # of nothing, Python looks no name up
    except LookupError as error:
        raise ValueError(
            f"got encoding {name!r}, expected one that Python knows, such as cp1252, utf-16-le, "
            "shift_jis or gb18030: correct it"
        ) from error
    return name


def decode(raw: bytes, encoding: str = "") -> str:
    """Decode text: by its byte order mark, as UTF-8, else by `encoding`.

    Raises:
        ValueError: neither; or NUL characters, which no text has.
    """
    marked = marked_encoding(raw)
    # Both are valid UTF-8, but the marks of UTF-16 (or of a binary file) and of ISO-2022.
    plain = b"\0" not in raw and b"\x1b$" not in raw
    names = (
        [marked] if marked else [*(["utf-8"] if plain else []), *([encoding] if encoding else [])]
    )
    for name in names:
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    tried = marked or " or ".join(filter(None, ["UTF-8", encoding]))
    raise ValueError(
        f"got {_first_bad(raw, marked)}, expected text in {tried}: save it as UTF-8, or name its "
        "encoding where documents are read (--encoding cp1252, say)"
    )


def _first_bad(raw: bytes, marked: str) -> str:
    """Describe the first byte that is no text."""
    if marked:
        return f"bytes that are not {marked}, though they begin with its mark"
    for sign, meaning in (
        (b"\0", "binary content or UTF-16 without a mark"),
        (b"\x1b$", "ISO-2022"),
    ):
        if sign in raw:
            return f"byte {raw.index(sign)} that is 0x{sign[0]:02x} ({meaning})"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"byte {error.start} that is 0x{raw[error.start]:02x} (not UTF-8)"
    return "text with NUL characters"
