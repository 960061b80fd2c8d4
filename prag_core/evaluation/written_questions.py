"""Written questions: a corpus and a model go in; a question set that the model wrote comes out.

    documents -> QuestionWriter -> asked with the passage, and without -> written.jsonl (resumable)
              -> corpus.jsonl.gz, questions.jsonl.gz, report.json

A question says something about a document where the model answers it right with the passage in the
prompt and wrong without: the answer stands there, and is not known anyway. written.jsonl has a line
a document with every question, the kept ones and the others with what speaks against them; the set
is made of it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from prag_core.adapters.adapter import Adapter
from prag_core.augmentation.question_options import QuestionOptions
from prag_core.augmentation.question_writer import (
    QuestionWriter,
    WrittenQuestion,
    golden_answers,
    is_right,
)
from prag_core.corpus.documents import Document
from prag_core.evaluation.results import append_answers, claim_folder
from prag_core.files import locked, require_no_set, whole_lines, write_json, write_set
from prag_core.model.base_model import BaseModel
from prag_core.model.hardware import machine
from prag_core.model.options import GenerationOptions
from prag_core.model.wordings import reading_wording
from prag_core.pipeline.answerer import Answerer
from prag_core.retrieval.retriever import Hit
from prag_core.terminal import progress_bar

RECORDS, REPORT = "written.jsonl", "report.json"
WITH, WITHOUT = "with_passage", "without_passage"
# What a check drops, and the reason in the report.
WRONG, KNOWN = "wrong with the passage", "right without the passage"
COPY, LEFT_OUT = "near copy of the text", "asks for what is left out"
ANSWER_TOKENS = 24  # of a check's answer: golden ones have a few words


def draw_documents(source: str, options: QuestionOptions) -> list[Document]:
    """Return the documents of a corpus that questions may be asked about, in the order drawn.

    The order is that of a hash of seed and id: a larger limit adds documents, and changes none.

    Raises:
        ValueError: none is left.
    """
    leave_out = options.leave_out
    documents = {d.id: d for d in leave_out.remaining(source) if d.title not in leave_out.articles}
    if not documents:
        raise ValueError(
            f"got no documents in {source} but those that are left out, expected at least one: "
            "check the path, or leave out less"
        )

    def place(document: Document) -> bytes:
        return hashlib.blake2b(f"{options.seed}-{document.id}".encode(), digest_size=8).digest()

    return sorted(documents.values(), key=place)[: options.limit or None]


def write_question_set(
    base: BaseModel, documents: Sequence[Document], folder: Path, options: QuestionOptions
) -> dict:
    """Write questions about documents, as far as the folder has none, and the set of those kept.

    May be stopped at any time: a second run goes on, by document id. Documents may be added.

    Args:
        base: the model that `options` name.
        documents: see `draw_documents`.
        folder: gets written.jsonl, the set, report.json and config.json.
        options: of the questions.

    Returns:
        What report.json says of the whole folder.

    Raises:
        TimeoutError: another process writes to the folder.
        ValueError: the folder was made with other settings.
    """
    require_no_set(folder, RECORDS)
    checker = _Checker(base, options)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / RECORDS
        config = {
            "questions": options.answer_config(),
            "writer": checker.writer.fingerprint,
            "checked_with": reading_wording(base.fingerprint).id,
        }
        claim_folder(folder, config, [RECORDS] * path.exists())
        done = {record["id"] for record in _records(path)}
        pending = [document for document in documents if document.id not in done]
        try:
            with progress_bar("documents", len(documents)) as advance:
                for start in range(0, len(pending), options.batch_size):
                    advance(len(documents) - len(pending) + start)
                    append_answers(path, checker.records(pending[start:][: options.batch_size]))
                advance(len(documents))
        finally:  # also of what an interrupted run has
            _write_set(folder, options.model)
            report = _summary(_records(path)) | _origin(base, options)
            write_json(folder / REPORT, report)
    return report


class _Checker:
    """Writes questions about a batch of documents and asks the model each of them."""

    def __init__(self, base: BaseModel, options: QuestionOptions) -> None:
        self.base, self.options = base, options
        self.writer = QuestionWriter(
            base, options.per_document, options.kinds, options.question_tokens, options.batch_size
        )
        # On a CPU each passage is read once for all its questions; a GPU reads a batch as quickly.
        reading = "kv_cache" if base.device.type == "cpu" else "in_context"
        self.modes = {}  # of the checks that are wanted
        if options.check_with_passage:
            self.modes[WITH] = reading
        if options.check_without_passage:
            self.modes[WITHOUT] = "closed_book"

    def records(self, documents: Sequence[Document]) -> list[dict]:
        """Return one record a document, with all its questions."""
        start = time.perf_counter()
        rows = [
            [self._question(written) for written in questions]
            for questions in self.writer.write(documents)
        ]
        self._ask(documents, rows)
        seconds = round((time.perf_counter() - start) / max(1, len(documents)), 3)
        return [
            {"id": d.id, "title": d.title, "text": d.text, "source_id": d.source_id,
             "seconds": seconds, "questions": row}
            for d, row in zip(documents, rows, strict=True)
        ]  # fmt: skip

    def _question(self, written: WrittenQuestion) -> dict:
        question = asdict(written)
        if not written.problem:
            if self.options.leave_out.asks(written.question, [written.answer]):
                question["problem"] = LEFT_OUT
            elif written.overlap > self.options.most_overlap:
                question["problem"] = COPY
        return question

    def _ask(self, documents: Sequence[Document], rows: Sequence[Sequence[dict]]) -> None:
        """Add the answers of both checks to the questions that no rule objects to."""
        pairs = zip(documents, rows, strict=True)
        asked = [(d.id, q) for d, row in pairs for q in row if not q["problem"]]
        by_id = {document.id: document for document in documents}
        options = GenerationOptions(ANSWER_TOKENS, batch_size=self.options.batch_size)
        answerer = Answerer(self.base, by_id.__getitem__, _no_adapter, generation=options)
        texts, hits = [q["question"] for _, q in asked], [[Hit(i, 1.0)] for i, _ in asked]
        for check, mode in self.modes.items():
            answers = answerer.answer(texts, hits if check == WITH else [[] for _ in hits], mode)
            for (_, question), answer in zip(asked, answers, strict=True):
                question[check] = answer.text
        for _, question in asked:
            if WITH in question and not is_right(question[WITH], question["answer"]):
                question["problem"] = WRONG
            elif WITHOUT in question and is_right(question[WITHOUT], question["answer"]):
                question["problem"] = KNOWN


def _no_adapter(document_id: str) -> Adapter:
    raise AssertionError(f"no mode of a check attaches an adapter (asked for {document_id})")


def _records(path: Path) -> Iterator[dict]:
    """Yield the documents that were finished; a last line cut off by an interruption is removed."""
    for number, line in enumerate(whole_lines(path), 1):
        try:
            record = json.loads(line)
            complete = {"id", "title", "text", "seconds", "questions"} <= record.keys()
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise ValueError(
                f"got {path}, line {number}, that is no document with its questions, expected JSON "
                "of this command: delete the line, and its document is written about again"
            )
        yield record


def _kept(record: Mapping) -> list[tuple[int, dict]]:
    return [(n, q) for n, q in enumerate(record["questions"]) if not q["problem"]]


def _write_set(folder: Path, model: str) -> None:
    """Write the kept questions, and the documents that they are about."""
    kept = [record for record in _records(folder / RECORDS) if _kept(record)]
    documents = (
        {"id": r["id"], "title": r["title"], "text": r["text"]}
        | ({"metadata": {"source_id": r["source_id"]}} if r.get("source_id") else {})
        for r in kept
    )
    questions = (
        {"id": f"{r['id']}-{number}", "question": q["question"],
         "golden_answers": golden_answers(q["answer"]), "gold_ids": [r["id"]],
         "metadata": {"kind": q["kind"], "model": model, "overlap": q["overlap"]}}
        for r in kept for number, q in _kept(r)
    )  # fmt: skip
    write_set(folder, documents, questions, "jsonl.gz")


def _summary(records: Iterable[Mapping]) -> dict:
    """Count documents, questions by what became of them, and what each check keeps."""
    counts, reasons = Counter[str](), Counter[str]()
    kinds: dict[str, Counter[str]] = {}
    checks: dict[str, Counter[str]] = {}
    seconds = 0.0
    for record in records:
        seconds += record["seconds"]
        counts.update(documents=1, documents_without_question=not _kept(record))
        for question in record["questions"]:
            kept = not question["problem"]
            counts.update(written=1, kept=kept)
            reasons.update([question["problem"]] * (not kept))
            kinds.setdefault(question["kind"], Counter()).update(written=1, kept=kept)
            for check in {WITH, WITHOUT} & question.keys():
                right = is_right(question[check], question["answer"])
                passed = right if check == WITH else not right
                checks.setdefault(check, Counter()).update(asked=1, passed=passed)
    return {
        **{name: counts[name] for name in ("documents", "written", "kept")},
        "documents_without_question": counts["documents_without_question"],
        "kept_share": _share(counts["kept"], counts["written"]),
        "dropped": dict(reasons.most_common()),
        "checks": {
            name: {**row, "share": _share(row["passed"], row["asked"])}
            for name, row in sorted(checks.items())
        },
        "kinds": {
            name: {**row, "share": _share(row["kept"], row["written"])}
            for name, row in sorted(kinds.items())
        },
        "seconds": round(seconds, 1),
        "documents_per_second": round(counts["documents"] / seconds, 3) if seconds else 0.0,
    }


def _origin(base: BaseModel, options: QuestionOptions) -> dict:
    """Say what questions come from: model, options, command, machine and versions."""
    return {
        "model": options.model,
        "base_fingerprint": base.fingerprint,
        "options": asdict(options),
        "command": shlex.join(["prag", *sys.argv[1:]]),
        "machine": machine(),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 3) if whole else 0.0
