"""Size of a network: what a checkpoint's config.json and `model.network` in the YAMLs hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from prag_core.adapters.low_rank import rank_of_own

# Ours, and two of the field to compare with.
HEADS = ("ridge", "perceiver", "last_token_mlp")
WHITENINGS = ("diagonal", "none")


@dataclass(frozen=True)
class NetworkConfig:
    """Size of the network.

    Attributes:
        head: `ridge`, `perceiver` or `last_token_mlp`.
        layers: adapted decoder layers (their down_proj); None: see `fitted`.
        width: D, width of the reader, of the perceiver's latents, or of the hidden layer of
            `last_token_mlp` (its paper's p); None: see `fitted`.
        blocks: transformer blocks of the reader, or the perceiver's blocks of cross-attention.
        attention_heads: of each block; None: one for 64 of the width.
        shared_rows: rows learned beside the document's, the same for all (the answer's format).
        ridge: lambda at the start.
        whitening: `diagonal` (keys are scaled to unit root mean square per dimension of general
            text) or `none` (one scale for all dimensions).
        background: directions of general text that adapters are to leave alone, a layer (its
            principal components); 0: none. `ridge` head only.
        background_weight: mu, tokens of general text that every document's memory must map to
            zero, beside lambda (see `RidgeHead.set_background`).
        salience: learn which tokens count in the least squares: keys and values are multiplied
            by s_t, so that a token of none claims nothing of the others' addresses. `ridge` only.
        key_rank: rank of what the reader adds to a document's keys, so that its tokens answer to
            what is asked about them, too, and not to like words alone; 0: nothing. `ridge` only.
        rows: rank of the `perceiver` (which learns as many shared rows beside it) and of the
            `last_token_mlp`.
        max_tokens: tokens that are encoded at once, at most; longer documents are chunks.
    """

    head: str = "ridge"
    layers: tuple[int, ...] | None = None
    width: int | None = None
    blocks: int = 4
    attention_heads: int | None = None
    shared_rows: int = 8
    ridge: float = 0.1
    whitening: str = "diagonal"
    background: int = 0
    background_weight: float = 1000.0
    salience: bool = False
    key_rank: int = 0
    rows: int = 8
    max_tokens: int = 384

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown head or a size out of range."""
        # Frozen, so by the back door: the order of layers is that of the weights' first dimension.
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if self.head not in HEADS:
            raise ValueError(f"got head {self.head!r}, expected one of {list(HEADS)}")
        if self.whitening not in WHITENINGS:
            raise ValueError(
                f"got whitening {self.whitening!r}, expected one of {list(WHITENINGS)}"
            )
        width, heads = self.width or 0, self.attention_heads or 1
        if width % heads or width % 2:  # 2: sine and cosine of a position
            raise ValueError(
                f"got width {self.width} and {self.attention_heads} attention heads, expected an "
                "even width that the number of heads divides"
            )
        counts = self.blocks, self.shared_rows, self.key_rank
        if min(counts) < 0 or self.ridge <= 0 or self.rows < 1:
            raise ValueError(
                f"got blocks, shared_rows and key_rank {counts}, ridge {self.ridge}, rows "
                f"{self.rows}, expected the first three >= 0, ridge > 0, rows >= 1"
            )
        if self.background < 0 or self.background_weight <= 0:
            raise ValueError(
                f"got background {self.background} of weight {self.background_weight}, expected 0 "
                "or more directions and a weight > 0"
            )
        if self.head == "perceiver" and self.whitening == "none":
            raise ValueError(
                "got whitening 'none' with head 'perceiver', which always scales its keys, "
                "expected 'diagonal': leave it out"
            )
        if self.head != "ridge" and (self.background or self.salience or self.key_rank):
            raise ValueError(
                f"got head {self.head!r} with background {self.background}, salience "
                f"{self.salience} and key_rank {self.key_rank}, expected none of them: they are "
                "settings of the ridge head"
            )

    def fitted(self, layers: int, hidden: int) -> NetworkConfig:
        """Return it with what is None taken from the base model's shape.

        Eight layers, spread from 0.13 to 0.83 of the depth: below, keys are those of a word alone,
        and what is written above comes too late. The width grows with the root of H.

        Args:
            layers: decoder layers of the base model.
            hidden: H.
        """
        width = self.width or 64 * max(1, round(hidden**0.5 / 4))
        return replace(
            self,
            layers=self.layers or tuple((4 + 3 * step) * layers // 30 for step in range(8)),
            width=width,
            attention_heads=self.attention_heads or max(1, width // 64),
        )

    @property
    def reads_to_the_end(self) -> bool:
        """Whether the head needs the base model's last hidden state (`Encoding.final`)."""
        return self.head == "last_token_mlp"

    def check_ranks(self, ranks: Iterable[int]) -> None:
        """Raise ValueError for ranks that the head's adapters cannot be trained at."""
        if {*ranks} - {0} and self.head != "ridge":
            raise ValueError(
                f"got data.batch.ranks {[*ranks]} and head {self.head!r}, expected [0]: its rank "
                "is model.network.rows"
            )
        # The shared rows take their part of every rank; raises where none is left.
        for rank in {*ranks} - {0}:
            rank_of_own(rank, self.shared_rows)
