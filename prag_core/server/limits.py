"""Limits: what a server takes, as options of `prag serve` and as what its endpoints check."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        max_body_bytes: of a request.
        max_documents: in one request.
        max_document_characters: of one document.
        max_tokens: tokens of an answer.
        default_tokens: of an answer whose request names no number; max_tokens where that is less.
        timeout: seconds that a request may take.
    """

    max_body_bytes: int = 32 << 20
    max_documents: int = 256
    max_document_characters: int = 50_000
    max_tokens: int = 512
    default_tokens: int = 64
    timeout: float = 120.0

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        for name, value in asdict(self).items():
            if value <= 0:
                raise ValueError(f"got {name} {value}, expected more than 0")
