"""Question lists: documents go in; the questions that a trained writer asks about them come out.

The writer is a LoRA on the base model (`prag writer`), trained on people's questions: the passage
stands in the prompt, and the answer is a list of questions with their answers, a line each, in the
order of the text. It asks as people ask, in other words than the text, at the cost of decoding a
few lines; some lists are sampled, so that they differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from math import ceil

from prag_core.adapters.adapter import Adapter, fingerprint, hash_adapter
from prag_core.augmentation.augmented import AugmentedDocument, QAPair, add_pairs, check_counts
from prag_core.augmentation.reading_check import CHECK_VERSION, answered_alike
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.chunking import chunk_document
from prag_core.corpus.documents import Document
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import read_prefix
from prag_core.model.prompts import chat, format_passages, prompt_ids

REQUEST = "Ask questions about this text, and answer each in the text's own words."
LINE = re.compile(r"^(.+?\?)[^\S\n]+(\S.*)$", re.MULTILINE)
LIST_TOKENS = 160  # of one list, where the context has room
PASSAGE_TOKENS = 256  # of the text that one list is about
PER_LIST = 5  # questions that people asked about a paragraph of SQuAD, on average
TEMPERATURE, TOP_P = 0.6, 0.95  # of all lists but the first
VERSION = 2  # of what is read and kept; part of the fingerprint


def list_prompt(base: BaseModel, document: Document) -> str:
    """Ask for questions about a document."""
    return chat(base.tokenizer, f"{format_passages([document])}\n{REQUEST}")


def write_list(pairs: Sequence[QAPair]) -> str:
    """Write pairs as the list that a writer is trained to answer with."""
    lines = [f"{pair.question.strip().rstrip('?')}? {pair.answer.strip()}" for pair in pairs]
    return "\n".join(" ".join(line.split()) for line in lines)


def read_list(text: str, document: Document) -> list[QAPair]:
    """Read the pairs of a list whose answers stand in the text, as they stand there."""
    pairs = []
    for question, answer in LINE.findall(text):
        match = re.search(
            rf"(?<!\w){re.escape(answer.strip())}(?!\w)", document.text, re.IGNORECASE
        )
        if match and match[0].lower() not in question.lower():
            pairs.append(QAPair(question.strip(), match[0]))
    return pairs


class ListAugmenter:
    """Let a trained writer ask about documents; what rules ask fills up what it leaves.

    Args:
        base: the base model that the writer was trained on.
        writer: its adapter.
        rewrites: see `SpanAugmenter`.
        qa_pairs: question-answer pairs a document, at most: the writer's first.
        facts: see `SpanAugmenter`.
        batch_size: lists decoded together.
        reader: adapter of the base model that reads (`prag reader`): of the writer's pairs those
            are kept that it answers alike; None: all are.

    Raises:
        ValueError: a number below 0.
    """

    def __init__(
        self,
        base: BaseModel,
        writer: Adapter,
        rewrites: int,
        qa_pairs: int,
        facts: bool,
        batch_size: int = 64,
        reader: Adapter | None = None,
    ) -> None:
        check_counts(rewrites, qa_pairs)
        self.base, self.writer, self.qa_pairs, self.reader = base, writer, qa_pairs, reader
        self.rules, self.batch_size = SpanAugmenter(rewrites, qa_pairs, facts), batch_size
        self.list_tokens = min(LIST_TOKENS, base.context_length // 3)
        asking = [REQUEST, TEMPERATURE, TOP_P, self.list_tokens, PASSAGE_TOKENS, PER_LIST]
        checks = [CHECK_VERSION, hash_adapter(reader)] if reader else []
        self.fingerprint = fingerprint(
            [
                "lists",
                VERSION,
                hash_adapter(writer),
                qa_pairs,
                *asking,
                self.rules.fingerprint,
                *checks,
            ]
        )

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document, in order; `error` says where pairs are missing."""
        augmented = []
        written = self._asked(documents)
        if self.reader:
            written = answered_alike(
                self.base, documents, written, self.reader, batch_size=self.batch_size
            )
        rows = zip(written, self.rules.augment(documents), strict=True)
        for asked, ruled in rows:
            pairs = add_pairs(asked, ruled.qa_pairs)[: self.qa_pairs]
            short = f"got {len(pairs)} question-answer pairs, expected {self.qa_pairs}"
            error = short if len(pairs) < self.qa_pairs else ""
            augmented.append(replace(ruled, qa_pairs=pairs, error=error))
        return augmented

    def _asked(self, documents: Sequence[Document]) -> list[list[QAPair]]:
        """Let the writer ask about each passage of the documents, in turn."""
        if not self.qa_pairs:
            return [[] for _ in documents]
        parts = [(number, part) for number, d in enumerate(documents) for part in self._parts(d)]
        prompts = [list_prompt(self.base, part) for _, part in parts]
        with attached(self.base, self.writer):  # each passage is read once for all its lists
            rows = (prompt_ids(self.base.tokenizer, prompt) for prompt in prompts)
            prefixes = [read_prefix(self.base, ids) for ids in rows]
        counts = Counter(number for number, _ in parts)
        wanted = self.qa_pairs / PER_LIST
        # Every passage has a list, and more where the document has too few passages.
        jobs = [
            (seed, i) for seed in range(ceil(wanted)) for i, (number, _) in enumerate(parts)
            if seed * counts[number] < wanted
        ]  # fmt: skip
        texts = generate(
            self.base, [prompts[i] for _, i in jobs], self.writer,
            [self._options(seed) for seed, _ in jobs], [prefixes[i] for _, i in jobs],
        )  # fmt: skip
        lists: list[dict[int, list]] = [{} for _ in documents]  # of each document, by seed
        for (seed, i), text in zip(jobs, texts, strict=True):
            number, part = parts[i]
            lists[number].setdefault(seed, []).append(read_list(text, part))
        # In turn, so that a long document keeps questions on each of its passages.
        return [
            [pair for row in of.values() for turn in zip_longest(*row) for pair in turn if pair]
            for of in lists
        ]

    def _options(self, seed: int) -> GenerationOptions:
        """Return how a list is decoded: the first one greedily."""
        drawn = {"temperature": TEMPERATURE, "top_p": TOP_P} if seed else {}
        ends = {"stop": ("\n\n",), "batch_size": self.batch_size}
        return GenerationOptions(self.list_tokens, seed=seed, **ends, **drawn)

    def _parts(self, document: Document) -> list[Document]:
        """Cut a document into passages that the writer can read; none where no word has room."""
        beside = prompt_ids(self.base.tokenizer, list_prompt(self.base, replace(document, text="")))
        room = self.base.context_length - self.list_tokens - len(beside)
        # One less: a text may be cut into other tokens where something stands before it.
        most = min(PASSAGE_TOKENS, room - 1)
        return chunk_document(document, self.base.tokenizer, most) if most >= 1 else []
