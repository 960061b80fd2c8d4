"""Question sets: a folder, a file or a hub name goes in, a `QuestionSet` comes out.

Files are recognised by content: SQuAD v1.1 and v2, 2WikiMultihopQA, HotpotQA, PopQA,
ComplexWebQuestions, PRAG's list of {question, answer}, FlashRAG's JSON lines, and tables (TSV, CSV)
with columns of these names. Folders hold
corpus.jsonl and questions.jsonl (FlashRAG fields), or BEIR's corpus, queries and qrels.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.chunking import chunk_document
from prag_core.corpus.documents import Document, iter_documents, lines_file
from prag_core.corpus.questions import Question, read_questions
from prag_core.corpus.records import Reject, iter_records, rejecter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

HUB_NAME = re.compile(r"(hub:)?(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuestionSet:
    """Questions over one corpus; the corpus is empty where the source has none.

    Attributes:
        name: of the set.
        documents: each text once.
        questions: their gold ids are `Document.id`.
        aliases: source id -> `Document.id`, of texts that the source has again under another id.
    """

    name: str
    documents: tuple[Document, ...]
    questions: tuple[Question, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property
    def documents_by_id(self) -> dict[str, Document]:
        """Documents by `Document.id`."""
        return {document.id: document for document in self.documents}

    def sample(
        self, documents: int, seed: int, keep_corpus: bool = False, most_words: int = 0
    ) -> QuestionSet:
        """Draw documents that have questions, and keep all the questions about them.

        The drawn documents come first, in the order drawn. A multi-hop question also brings its
        other gold documents, beyond `documents`.

        Args:
            documents: how many documents to draw; 0 takes all that may be drawn.
            seed: the same seed draws the same documents on every machine.
            keep_corpus: keep the whole corpus, in its order: the others are distractors.
            most_words: longer documents are not drawn; 0 for any length.

        Raises:
            ValueError: fewer documents have questions.
        """
        asked = set().union(*(question.gold_ids for question in self.questions))
        most = most_words or math.inf
        fitting = (d.id for d in self.documents if len(d.text.split()) <= most)
        candidates = [document_id for document_id in fitting if document_id in asked]
        if not 0 <= documents <= len(candidates) or not candidates:
            length = f" and at most {most_words} words" if most_words else ""
            raise ValueError(
                f"got documents {documents}, expected 1 to {len(candidates)}, the "
                f"documents of {self.name} that have questions{length}: ask for fewer"
            )
        count = documents or len(candidates)
        drawn = dict.fromkeys(random.Random(seed).sample(candidates, count))
        questions = tuple(q for q in self.questions if not drawn.keys().isdisjoint(q.gold_ids))
        kept = set().union(*(question.gold_ids for question in questions)) - drawn.keys()
        others = [document for document in self.documents if document.id in kept]
        ordered = (*(self.documents_by_id[i] for i in drawn), *others)
        ordered = self.documents if keep_corpus else ordered
        name = f"{self.name}-{count}-seed{seed}"
        return replace(self, name=name, documents=ordered, questions=questions)

    def sample_questions(self, count: int, seed: int) -> QuestionSet:
        """Draw questions, kept in order, over the same documents; 0 takes all.

        Raises:
            ValueError: a negative number.
        """
        if count < 0:
            raise ValueError(f"got {count} questions, expected 0 (all) or more: correct it")
        if not 0 < count < len(self.questions):
            return self
        drawn = sorted(random.Random(seed).sample(range(len(self.questions)), count))
        return replace(self, questions=tuple(self.questions[place] for place in drawn))


def chunk_question_set(whole: QuestionSet, tokenizer: Tokenizer, max_tokens: int) -> QuestionSet:
    """Cut documents into chunks; a question's gold chunks are those that hold an answer of it.

    As whole words, as `containment` counts. Behind them stand all chunks of a gold document without
    any, such as one that a multi-hop question only passes through.
    """
    chunks = {d.id: chunk_document(d, tokenizer, max_tokens) for d in whole.documents}

    def gold(question: Question) -> tuple[str, ...]:
        holding: list[Document] = []
        others: list[Document] = []
        for own in (chunks.get(i, []) for i in question.gold_ids):
            answering = [chunk for chunk in own if _holds_answer(chunk, question)]
            holding += answering
            others += [] if answering else own
        # Those with an answer first: where k documents are asked for, the first k are taken.
        return tuple(dict.fromkeys(chunk.id for chunk in holding + others))

    questions = tuple(replace(question, gold_ids=gold(question)) for question in whole.questions)
    documents = {c.id: c for document in whole.documents for c in chunks[document.id]}
    return replace(whole, documents=tuple(documents.values()), questions=questions)


def _holds_answer(document: Document, question: Question) -> bool:
    golden = question.golden_answers  # none, in some sets
    return bool(golden) and score_answer(document.text, golden).containment > 0


def load_question_set(
    source: str | Path,
    split: str = "",
    limit: int | None = None,
    skip_bad: bool = False,
    counts: Counter[str] | None = None,
) -> QuestionSet:
    """Load questions, and the corpus where the source has one.

    Questions that are marked as unanswerable (SQuAD v2) are left out.

    Args:
        source: a folder, a file (plain or gzip), or a hub name such as `rajpurkar/squad`; `hub:`
            before it forces the hub, `:config` after it names a configuration.
        split: hub: `validation` unless named; BEIR: `test`; folder: `<split>.jsonl` instead of
            questions.jsonl.
        limit: keep the first questions only; the corpus stays whole.
        skip_bad: leave out bad records, and questions whose gold documents are missing.
        counts: receives the numbers left out, as "bad", "missing_gold", "unanswerable", and
            "duplicate" (documents).

    Raises:
        FileNotFoundError: neither a path nor a name that the hub knows.
        ValueError: a bad record, gold ids that are not in the corpus, or no questions.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"got limit {limit}, expected 1 or more questions: raise it or omit it")
    counts = Counter() if counts is None else counts
    reject = rejecter(skip_bad, counts)
    path = Path(source)
    # A hub name is owner/name: a bare word is never looked up there. A path here goes before a hub
    # name that reads the same; "hub:" makes it no path.
    hub = None if path.exists() else HUB_NAME.fullmatch(str(source))
    documents: list[Document] = []
    if path.is_dir():
        documents, questions = _folder(path, split, reject, skip_bad, counts)
    elif path.is_file():
        questions = read_questions(iter_records(path, reject), documents, reject, counts)
    elif hub:
        questions = read_questions(_hub_records(hub, split), documents, reject, counts)
    else:
        raise FileNotFoundError(
            f"got {source}, which does not exist, expected a folder, a file, or a hub name "
            "such as rajpurkar/squad: check the path"
        )
    # Resolved, so that "." has a name; up to the first dot: questions.jsonl.gz is "questions".
    name = hub["name"].rsplit("/")[-1] if hub else path.resolve().name.split(".")[0]
    if not questions:
        raise ValueError(
            f"got no questions in {source}, expected at least one: check the path; "
            "documents without questions are read with read_documents"
        )
    if counts["unanswerable"]:
        logger.warning("%s: left out %d unanswerable questions", name, counts["unanswerable"])
    unlinked = QuestionSet(name, tuple(documents), tuple(questions[:limit]))
    return _linked(unlinked, skip_bad, counts)


def _linked(unlinked: QuestionSet, skip_bad: bool, counts: Counter[str]) -> QuestionSet:
    """Turn gold ids, given as source ids or document ids, into document ids."""
    name, documents, questions = unlinked.name, unlinked.documents, unlinked.questions
    unique = {document.id: document for document in reversed(documents)}  # the first one stays
    counts["duplicate"] += len(documents) - len(unique)
    targets = {document_id: document_id for document_id in unique}
    # Duplicates too: a question may name either source id of one text.
    for document in documents:
        source_id = document.source_id or document.id
        if targets.setdefault(source_id, document.id) != document.id:
            problem = f"got the id {document.source_id!r} on two different documents of {name}"
            raise ValueError(f"{problem}, expected unique ids: rename one")
    # Told before anything is left out: a corpus of the wrong version misses most of them.
    missing = [i for question in questions for i in question.gold_ids if i not in targets]
    if missing and not skip_bad:
        raise ValueError(
            f"got {len(missing)} gold ids that are not among the {len(unique)} documents of "
            f"{name}, the first ones {missing[:3]}, expected ids of its corpus: add these "
            "documents, or leave the questions out with skip_bad"
        )
    # All or none: a question without one of its gold documents cannot be answered from the rest.
    linked = [
        replace(q, gold_ids=tuple(dict.fromkeys(targets[i] for i in q.gold_ids)))
        for q in questions
        if all(i in targets for i in q.gold_ids)
    ]
    if missing:
        counts["missing_gold"] += len(questions) - len(linked)
        logger.warning("%s: left out %d questions: no gold document", name, counts["missing_gold"])
    aliases = {
        document.source_id: document.id
        for document in documents
        if document.source_id and document is not unique[document.id]
    }
    return QuestionSet(name, tuple(reversed(unique.values())), tuple(linked), aliases)


def _folder(
    folder: Path, split: str, reject: Reject, skip_bad: bool, counts: Counter[str]
) -> tuple[list[Document], list[Question]]:
    corpus = lines_file(folder, "corpus")
    documents = list(iter_documents(corpus, skip_bad, counts)) if corpus else []
    # Our own layout goes first: a BEIR folder may hold both.
    if path := lines_file(folder, split or "questions"):
        records = iter_records(path, reject, "jsonl")
        return documents, read_questions(records, documents, reject, counts)
    if path := lines_file(folder, "queries"):
        return documents, _beir_questions(path, folder / "qrels", split or "test", reject)
    raise ValueError(
        f"got {folder}, expected {split or 'questions'}.jsonl or BEIR's queries.jsonl in it (or "
        "with .gz): check the path; documents without questions are read with read_documents"
    )


def _beir_questions(path: Path, qrels: Path, split: str, reject: Reject) -> list[Question]:
    judgements = qrels / f"{split}.tsv"
    if not judgements.is_file():
        splits = sorted(file.stem for file in qrels.glob("*.tsv"))
        raise ValueError(f"got split {split!r}, expected one of {splits} in {qrels}: name it")
    gold: dict[str, list[str]] = {}  # by query: the corpus' own ids, which `_linked` resolves
    for where, row in iter_records(judgements, reject, "tsv"):
        if not {"query-id", "corpus-id", "score"} <= row.keys():
            reject(where, f"got the columns {list(row)}, expected query-id, corpus-id, score")
            continue
        try:
            relevant = float(row["score"]) > 0  # 0 and less: judged, and not relevant
        except ValueError:
            reject(where, f"got the score {row['score']!r}, expected a number")
            continue
        if relevant:
            gold.setdefault(row["query-id"], []).append(row["corpus-id"])
    questions = []
    for where, record in iter_records(path, reject, "jsonl"):
        if not isinstance(record, Mapping) or not {"_id", "text"} <= record.keys():
            reject(where, "got a query without _id or text, expected both")
        elif gold_ids := gold.get(str(record["_id"])):  # queries.jsonl has those of all splits
            questions.append(Question(str(record["_id"]), record["text"], (), tuple(gold_ids)))
    return questions


def _hub_records(hub: re.Match[str], split: str) -> Iterator[tuple[str, object]]:
    import datasets  # slow to import, and only needed here

    name, split = hub["name"], split or "validation"
    try:
        rows = datasets.load_dataset(name, hub["config"], split=split)
    except Exception as error:  # of many kinds: name, split, access, network, a script in the set
        script = "script" in str(error).lower() and isinstance(error, RuntimeError)
        remedy = (
            "it is loaded by a program, which is not run: fetch its files and name their path"
            if script
            else "check name, split, configuration (name:config), access (`hf auth login`, if it "
            "is gated) and network"
        )
        raise FileNotFoundError(
            f"got {hub[0]} with split {split!r}, neither a path here nor loaded from the hub "
            f"({str(error) or type(error).__name__}): {remedy}"
        ) from error
    yield from ((f"{name}, {split} record {i}", row) for i, row in enumerate(rows, 1))


def demo_question_set() -> QuestionSet:
    """Load the invented corpus and its questions from the package."""
    with as_file(files("prag_core") / "resources" / "demo") as folder:
        return load_question_set(folder)
