"""Data module: folders of documents and questions go in, batches of a step come out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import lightning
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset

from hypernet.training.batches import LENGTH_CLASSES, Batch, BatchBuilder, BatchConfig
from hypernet.training.sources import (
    NOTHING,
    Item,
    Pool,
    articles_of,
    corpus_file,
    fitting,
    held_out_articles,
    read_corpus,
    read_question_set,
    split,
    without,
)
from prag_core.corpus.documents import iter_documents
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.model.base_model import BaseModel

DEFAULT_BATCH = BatchConfig()
LEAST_TOKENS = 4  # of a document, start and end included, that is trained on
ENDLESS = 10_000_000  # steps; `trainer.max_steps` ends a run
PREDICTED = 32  # documents whose adapters are made together


@dataclass(frozen=True)
class Steps(Dataset):
    """Map step -> batch, for steps first .. first + count - 1."""

    builder: BatchBuilder
    count: int
    first: int = 0
    rank: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        if index >= self.count:  # ends a `for` loop over it
            raise IndexError(index)
        return self.builder.build(self.first + index, self.rank)


@dataclass(frozen=True)
class DocumentStream(IterableDataset):
    """The part of a file's documents of one of so many processes, read as they are needed."""

    path: Path
    rank: int = 0
    processes: int = 1

    def __iter__(self):
        return islice(iter_documents(self.path), self.rank, None, self.processes)


@dataclass(eq=False)  # a module is itself, whatever its settings
class HypernetDataModule(lightning.LightningDataModule):
    """Question sets and corpora, split by article.

    Attributes:
        question_sets: folders with corpus.jsonl(.gz) and questions.jsonl(.gz), or names of a hub,
            whose split `train` is taken.
        corpora: folders with corpus.jsonl(.gz): completions, and questions from patterns.
        corpus_share: share of the groups that come from the corpora; sets of one kind share
            by size.
        weights: instead, one a question set and then one a corpus: the mixture.
        corpus_limit: documents taken of each corpus; all when omitted.
        corpus_pairs: question-answer pairs made of each of their documents by rule, beside the
            patterns' (see `prag_core.augmentation.span_augmenter`).
        corpus_on_disk: keep the corpora on disk (memory-mapped) and tokenise what is drawn, for
            corpora that the machine cannot hold.
        leave_out: articles, relations and documents that are kept for measuring: neither training
            nor validation draws them.
        batch: what a step holds.
        validation_articles: articles (titles) held out of each question set (no other set or
            corpus trains on them either), or of the corpora where there is no question set.
        validation_steps: batches a validation.
        max_document_tokens: longer documents are left out of training; no more than the network
            encodes at once.
        workers: processes that build batches; each keeps a copy of the memory that this one
            had when it began, so on a CPU rather 0.
        predict_corpus: folder or file of documents that `predict` parametrizes.
        seed: of the split and of all draws.
    """

    question_sets: Sequence[str] = ()
    corpora: Sequence[str] = ()
    corpus_share: float = 0.25
    weights: Sequence[float] = ()
    corpus_limit: int | None = None
    corpus_pairs: int = 0
    corpus_on_disk: bool = False
    leave_out: LeaveOut = NOTHING
    batch: BatchConfig = DEFAULT_BATCH
    validation_articles: int = 40
    validation_steps: int = 4
    max_document_tokens: int = 256
    workers: int = 0
    predict_corpus: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: another number of weights than of sets and corpora, or documents of more
                tokens than a batch takes.
        """
        super().__init__()
        if self.max_document_tokens > LENGTH_CLASSES[-1]:
            raise ValueError(
                f"got max_document_tokens {self.max_document_tokens}, expected at most "
                f"{LENGTH_CLASSES[-1]}: cut longer documents"
            )
        sources = len(self.question_sets) + len(self.corpora)
        if self.weights and len(self.weights) != sources:
            raise ValueError(
                f"got {len(self.weights)} weights, expected {sources}: one a question set, then "
                "one a corpus"
            )
        self.training: list[Pool] = []
        self.validation: list[Item] = []

    def load(self, base: BaseModel) -> None:
        """Read and tokenise everything once; called with the module's base model.

        Raises:
            ValueError: no documents, or no questions in a question set.
            FileNotFoundError: a folder or file is missing.
        """
        self.base = base  # its tokenizer cuts the documents
        bounds = LEAST_TOKENS, self.max_document_tokens
        left_out, never = self.leave_out, self.leave_out.articles
        settings = self.corpus_pairs, self.corpus_limit, bounds, self.corpus_on_disk, left_out
        paths = [corpus_file(source) for source in self.corpora]
        # Of every source: question sets may be written about documents of a corpus.
        texts = set().union(*map(left_out.last_texts, paths))
        sets = [
            without(read_question_set(source, base.tokenizer, left_out), texts)
            for source in self.question_sets
        ]
        corpora = [without(read_corpus(path, base, *settings), texts) for path in paths]
        # All sets first: an article that one holds out may be in another one, too.
        drawn_from = [articles_of([items]) for items in sets] or [articles_of(corpora)]
        held_out = set().union(
            *(
                held_out_articles(names - never, self.validation_articles, self.seed)
                for names in drawn_from
            )
        )
        self.training, self.validation = [], []
        for number, pool in enumerate([*(fitting(items, bounds) for items in sets), *corpora]):
            rest, others = split(pool, held_out | never)
            others = [item for item in others if item.article not in never]
            self.training.append(rest)
            # Beside question sets a corpus only loses these articles: its facts validate nothing.
            if number < len(sets) or not sets:
                self.validation += others

    @property
    def held_out(self) -> list[str]:
        """Articles that validation alone draws: what the weights may be measured on."""
        return sorted({item.article for item in self.validation})

    def calibration_ids(self, count: int) -> list[list[int]]:
        """Return documents that a new network is calibrated on."""
        documents = ConcatDataset(self.training)  # of lists and corpora on disk alike
        total = len(documents)
        places = random.Random(self.seed).sample(range(total), min(count, total))
        items = [documents[place] for place in places]
        return [[*item.title_ids, *item.text_ids] for item in items]

    def train_dataloader(self) -> DataLoader:
        """Return batches from the trainer's step on (after a resume: where it stopped)."""
        trainer = self.trainer
        # A step of the optimiser takes several batches where gradients are accumulated.
        first = trainer.global_step * trainer.accumulate_grad_batches if trainer else 0
        rank = trainer.global_rank if trainer else 0
        builder = self._builder(self.training, self._shares(), self.batch)
        return self._loader(Steps(builder, ENDLESS, first, rank))

    def _shares(self) -> list[float]:
        """Return what share of the groups each question set and corpus gives."""
        if self.weights:
            return list(self.weights)
        count = len(self.question_sets)
        shares = []
        # Within each kind by size, so that every document comes as often as any other of its kind.
        for pools, share in (
            (self.training[:count], 1 - self.corpus_share),
            (self.training[count:], self.corpus_share),
        ):
            total = sum(map(len, pools)) or 1  # no set or no corpus: no share to give
            shares += [share * len(pool) / total for pool in pools]
        return shares

    def val_dataloader(self) -> list[DataLoader]:
        """Return held-out articles one document at a time, and in groups of the largest size.

        Outside of `fit` single documents come with prompts that hold the passage, too.

        Raises:
            ValueError: fewer than two documents were held out.
        """
        if len(self.validation) < 2:
            raise ValueError(
                f"got {len(self.validation)} held-out documents to validate on, expected 2 or "
                "more: raise data.validation_articles, or train without "
                "(trainer.limit_val_batches=0, and no checkpoint that monitors val/...)"
            )
        # With the passage only in `validate` and `test`: reading it doubles a validation's time.
        alone = self.trainer is not None and self.trainer.state.fn != "fit"
        documents = max(2, self.batch.documents)
        common = {
            "no_title_share": 0.0,
            "combine_share": 0.0,
            "ranks": (0,),
            "documents": documents,
        }
        loaders = []
        for group in sorted({1, max(self.batch.groups)}):
            reads = alone and group == 1
            # With at least two documents: another one's adapter is compared with the right one.
            config = replace(self.batch, groups=(group,), passages=reads, **common)
            builder = self._builder([self.validation], [1.0], config, least=2)
            loaders.append(self._loader(Steps(builder, self.validation_steps)))
        return loaders

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> DataLoader:
        """Stream this process's documents of `predict_corpus` in lists of PREDICTED.

        Raises:
            ValueError: no `predict_corpus`.
            FileNotFoundError: it does not exist.
        """
        if self.predict_corpus is None:
            raise ValueError("got no documents to predict for, expected --data.predict_corpus")
        trainer = self.trainer
        part = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        # Each process reads the whole file and keeps every n-th document.
        documents = DocumentStream(corpus_file(self.predict_corpus), *part)
        return DataLoader(documents, batch_size=PREDICTED, collate_fn=list)

    def sample(self, documents: int) -> QuestionSet:
        """Return held-out documents and all their questions.

        Raises:
            ValueError: fewer than 2 documents, or no questions.
        """
        items = random.Random(self.seed).sample(
            self.validation, min(documents, len(self.validation))
        )
        rows = [
            (question, answers, item.document.id)
            for item in items
            for question, *answers in (*item.pairs, *((ways[0], said) for ways, said in item.facts))
        ]
        if len(items) < 2 or not rows:
            raise ValueError(
                f"got {len(items)} held-out documents with {len(rows)} questions to score, "
                "expected 2 or more with some: raise model.score_documents and "
                "data.validation_articles, set data.corpus_pairs, or set model.score_documents to 0"
            )
        questions = [Question(str(n), q, tuple(a), (i,)) for n, (q, a, i) in enumerate(rows)]
        return QuestionSet("held-out", tuple(item.document for item in items), tuple(questions))

    def _builder(self, pools, weights, config: BatchConfig, least: int = 1) -> BatchBuilder:
        return BatchBuilder(self.base.tokenizer, pools, weights, config, self.seed, least)

    def _loader(self, steps: Steps) -> DataLoader:
        # batch_size None: an item is a batch already.
        return DataLoader(
            steps, batch_size=None, num_workers=self.workers, pin_memory=self.workers > 0
        )
