"""Options of decoding; importing them loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are decoded.

    Attributes:
        max_new_tokens: longest answer in tokens.
        temperature: 0 is greedy; above it, sampling.
        top_p: nucleus of the distribution that sampling draws from.
        stop: strings that end an answer (they are cut off); one may stand by itself.
        seed: of the sampling.
        batch_size: rows decoded together.
    """

    max_new_tokens: int = 32  # answers to questions are short, and a long one is a runaway
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ("\n",)
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        if isinstance(self.stop, str):  # else its letters would be taken
            object.__setattr__(self, "stop", (self.stop,))
        sizes = self.max_new_tokens >= 1 and self.batch_size >= 1
        if not sizes or self.temperature < 0 or not 0 < self.top_p <= 1:
            expected = "1 or more tokens and rows, temperature >= 0 and 0 < top_p <= 1"
            raise ValueError(f"got {self}, expected {expected}: correct it")
