"""Parametrizer of the generated path: documents go in, adapters come out, in batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hypernet.network.checkpoint import Checkpoint, load_checkpoint
from hypernet.network.encoder import Encoder
from prag_core.adapters.adapter import Adapter, AdapterSpec, fingerprint
from prag_core.adapters.low_rank import POST_NORM, rank_of_own, reduce_rank
from prag_core.adapters.merge import merge
from prag_core.adapters.ridge_memory import RidgeMemory
from prag_core.augmentation.augmented import Augmenter
from prag_core.corpus.characters import is_blank
from prag_core.corpus.chunking import SENTENCE_END
from prag_core.corpus.documents import Document, as_documents
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.padding import pad
from prag_core.pipeline.setup import Setup

OVERLAP = 32  # tokens


class HypernetParametrizer:
    """Generates one adapter a document with a trained network (`Parametrizer` protocol)."""

    def __init__(
        self,
        base: BaseModel,
        checkpoint: Checkpoint,
        rank: int | None = None,
        max_tokens: int | None = None,
        overlap: int = OVERLAP,
        batch_size: int = 8,
        dtype: str = "bfloat16",
    ) -> None:
        """Put base model and network together.

        Args:
            base: the base model that the checkpoint was trained on.
            checkpoint: see `load_checkpoint`.
            rank: most rows a module may have, on average over an adapter's (see `reduce_rank`);
                None: one row a token.
            max_tokens: tokens encoded at once; longer documents are cut into chunks. None: as many
                as the checkpoint's configuration allows.
            overlap: tokens that a chunk repeats of the one before.
            batch_size: chunks encoded together.
            dtype: of the adapters' tensors (see `AdapterSpec`).

        Raises:
            ValueError: a size out of range.
        """
        shared = checkpoint.network.shared_count
        if rank is not None:
            rank_of_own(rank, shared)
        most = min(checkpoint.config.max_tokens, base.context_length)
        max_tokens = most if max_tokens is None else max_tokens
        if not 0 <= overlap < max_tokens or max_tokens > most or batch_size < 1:
            raise ValueError(
                f"got max_tokens {max_tokens}, overlap {overlap}, batch_size {batch_size}, "
                f"expected overlap < max_tokens <= {most} (the checkpoint's, or the base model's "
                "context) and batch_size >= 1: correct them"
            )
        self.base, self.network, self.config = base, checkpoint.network, checkpoint.config
        self.prompt = checkpoint.prompt
        self.encoder = Encoder(base, self.config.layers, self.config.reads_to_the_end)
        self.rank, self.max_tokens, self.overlap = rank, max_tokens, overlap
        self.batch_size = batch_size
        # A document of one chunk has a row a token; a longer one's are multiplied out to H.
        most = rank or max(max_tokens, base.module_shape("down_proj")[1]) + shared
        self.spec = AdapterSpec(
            base.fingerprint, most, most, ("down_proj",), self.config.layers, dtype
        )
        # In words, since what a budget means is part of what an adapter is.
        rest = "left out" if base.post_norm else "passed on"
        budget = rank and f"{rank} a module, by response of all, the rest {rest}, shared cut"
        self.fingerprint = fingerprint(["hypernet", checkpoint.hash, budget, max_tokens, overlap])

    @classmethod
    def from_pretrained(cls, name: str | Path, base: BaseModel, **options) -> HypernetParametrizer:
        """Load a checkpoint by name, folder or hub name; options as in the constructor."""
        return cls(base, load_checkpoint(name, base), **options)

    @torch.no_grad()
    def parametrize(self, documents: Sequence[Document]) -> list[Adapter]:
        """Return one adapter a document, in order.

        Raises:
            ValueError: a document without text.
        """
        documents = as_documents(documents)
        for document in documents:
            if is_blank(document.text):
                raise ValueError(
                    f"got an empty document ({document.title or document.id}), expected text: "
                    "leave it out of the corpus"
                )
        flat = [(number, ids) for number, d in enumerate(documents) for ids in self._chunks(d)]
        # By length, whichever document they are of: little padding.
        order = sorted(range(len(flat)), key=lambda index: len(flat[index][1]))
        made: dict[int, Adapter] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            numbers, rows = zip(*(flat[index] for index in batch), strict=True)
            adapters = self._generate(rows, [documents[number] for number in numbers])
            made |= zip(batch, adapters, strict=True)
        parts: list[list[Adapter]] = [[] for _ in documents]
        for index, (number, _) in enumerate(flat):
            parts[number].append(made[index])
        return [self._join(*whole) for whole in zip(documents, parts, strict=True)]

    def _chunks(self, document: Document) -> list[list[int]]:
        """Tokenise `title: text` and cut it; every chunk begins with the title."""
        head, text, spans = self._cut(document)
        return [self.encoder.frame([*head, *text[start:end]]) for start, end in spans]

    def _cut(self, document: Document) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Return the tokens of title and text, and which of the text's each chunk holds."""
        title = f"{document.title}: " if document.title else ""
        head, text = text_ids(self.base.tokenizer, [title, document.text])
        # A title is no more than half of a chunk: the text must go on in each.
        head = head[: self.max_tokens // 2]
        room = max(1, self.max_tokens - len(head) - 2)  # 2: start and end
        overlap = min(self.overlap, room - 1)
        starts = range(0, max(len(text) - overlap, 1), room - overlap)
        return head, text, [(start, min(start + room, len(text))) for start in starts]

    def _sentences(self, document: Document) -> Tensor:
        """Return the sentence that each token of its chunks is in, one after another; -1: title."""
        head, text, spans = self._cut(document)
        ends = [match.end() for match in SENTENCE_END.finditer(document.text)]
        counts = map(len, text_ids(self.base.tokenizer, [document.text[:end] for end in ends]))
        places = torch.zeros(len(text), dtype=torch.int16)
        # Counted from the start: nearly everywhere a token ends where a sentence does.
        borders = [0, *(min(count, len(text)) for count in counts), len(text)]
        for number, (start, end) in enumerate(itertools.pairwise(borders)):
            places[start:end] = number
        titled = places.new_full((len(head),), -1)
        return torch.cat([x for start, end in spans for x in (titled, places[start:end])])

    def _generate(self, rows: Sequence[list[int]], documents: list[Document]) -> list[Adapter]:
        ids, lengths = pad(rows, self.base.tokenizer.pad_token_id)
        device = self.base.device
        encoding = self.encoder(ids.to(device), lengths.to(device))
        # float16 overflows in some models; the adapter would be no numbers.
        if not all(torch.isfinite(x).all() for x in (encoding.hidden, encoding.keys)):
            titles = [document.title or document.id for document in documents]
            raise ValueError(
                f"got activations that are not finite for {titles[:3]}, expected numbers: load "
                "the base model in bfloat16 or float32"
            )
        exported = self.network.export(encoding)
        return [
            self._adapter(a, b, memory, document)
            for (a, b, memory), document in zip(exported, documents, strict=True)
        ]

    def _adapter(
        self, a: Tensor, b: Tensor, memory: RidgeMemory | None, document: Document
    ) -> Adapter:
        """Build the adapter of rows a (L, R, I) and b (L, R, H); alpha = rank, so scale 1."""
        dtype = self.spec.torch_dtype
        tensors = {
            path: (a[i].to(dtype).cpu(), b[i].mT.to(dtype).contiguous().cpu())  # (R, I), (H, R)
            for i, path in enumerate(self.spec.paths())
        }
        metadata = {"document_id": document.id, "title": document.title, "path": "generated",
                    "prompt": self.prompt}  # fmt: skip
        if self.base.post_norm:
            metadata[POST_NORM] = "true"
        memory = memory and memory.to("cpu")
        return Adapter(self.spec, tensors, metadata, memory, self.network.shared_count)

    def _join(self, document: Document, parts: list[Adapter]) -> Adapter:
        """Merge a long document's chunks into one adapter, and keep the rank budget."""
        whole = parts[0]
        if len(parts) > 1:  # the title stands in each, so that all answer for it
            whole = replace(merge(parts), spec=self.spec, metadata=parts[0].metadata)
        if whole.memory:
            memory = replace(whole.memory, sentences=self._sentences(document))
            whole = replace(whole, memory=memory)
        if self.rank is not None:
            memory = parts[0].memory
            whole = reduce_rank(whole, self.rank, None if memory is None else memory.whitening)
        return whole.rounded()


def generated(
    base: BaseModel, setup: Setup, augmenter: Callable[[], Augmenter]
) -> HypernetParametrizer:
    """Build the parametrizer of the generated path (entry point `generated`)."""
    rank = setup.hypernet_rank or None  # on the command line 0 is one row a token
    options = {"rank": rank, "dtype": setup.hypernet_dtype}
    return HypernetParametrizer.from_pretrained(setup.hypernet, base, **options)
