"""Characters: a text goes in as it was typed, the text that is seen comes out."""

from __future__ import annotations

import unicodedata

import regex

# Soft hyphens, zero-width spaces and joiners, byte order and bidi marks, variation selectors.
INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")  # categories: controls, half characters, spaces


def seen(text: str) -> str:
    """Return a text without its invisible characters, in one encoding (NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def is_blank(text: str) -> bool:
    """Say whether nothing of a text is seen."""
    # By what is not seen: a character that is newer than Python's Unicode (Cn) is.
    return all(unicodedata.category(c) in UNSEEN for c in seen(text))
