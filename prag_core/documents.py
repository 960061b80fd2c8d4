"""Documents: text files of many kinds go in, `Document` records come out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Document:
    """One retrievable text.

    Attributes:
        text: the body.
        title: may be empty.
        source_id: the id it had in its own corpus, if any (question sets refer to it).
        metadata: further fields of its source record.
    """

    text: str
    title: str = ""
    source_id: str = ""
    metadata: dict = field(default_factory=dict, compare=False)

    @cached_property
    def id(self) -> str:
        """32 hex digits: hash of title and text, the same on every machine."""
        content = f"{self.title}\0{self.text}".encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()
