"""Benchmark of answering: merging, batches with an adapter a row, and latency beside in_context.

Answers go the way of every other: `Answerer` merges, writes the prompt and generates.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.formats.peft_folder import to_peft
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.decoding_rows import GenerationOptions, end_tokens
from prag_core.model.generate import stream
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import AnswerOptions
from prag_core.speed.measurement import Measurement, PeftProcess, bounded, compared, seconds
from prag_core.speed.workload import (
    WorkloadAdapters,
    WorkloadQuestion,
    workload_documents,
    workload_questions,
)

K = 3  # documents a question
LATENCY_K = (1, 3, 10)
# Stop strings are PEFT's weak side (a test of the text after each token): none on both sides.
OPTIONS = GenerationOptions(stop=())


class Sides:
    """Both sides of a comparison: our answerer, and the same adapters in the PEFT process."""

    def __init__(self, base: BaseModel, adapters: WorkloadAdapters, peft: PeftProcess) -> None:
        """Take the adapters of the workload, read from their store for every answer."""
        self.base, self.adapters, self.peft = base, adapters, peft
        documents = {document.id: document for document in workload_documents()}
        self.answerer = Answerer(
            base, documents.__getitem__, adapters.adapter, generation=OPTIONS,
            options=AnswerOptions(merge_weights="ones"),  # PEFT's "cat" is their sum, too
        )  # fmt: skip
        self.folders: dict[str, str] = {}  # by document, of PEFT

    def export(self, folder: str) -> None:
        """Write every document's adapter below this folder, as PEFT loads it."""
        for document in workload_documents():
            place, adapter = Path(folder) / document.id, self.adapters.adapter(document.id)
            self.folders[document.id] = str(to_peft(adapter, place, self.base.name))

    def merged(self, question: WorkloadQuestion) -> Adapter:
        """Read and merge, without a prompt: what the part `merge` times."""
        return merge([self.adapters.adapter(document.id) for document in question.documents])

    def attach(self, question: WorkloadQuestion) -> None:
        """Read, merge and attach, and restore the model."""
        with attached(self.base, self.merged(question)):
            pass

    def answers(self, questions: Sequence[WorkloadQuestion], dtype: str = "") -> list[str]:
        """Answer all questions in batches, in another dtype where one is named."""
        answerer = self.answerer
        if dtype:
            base = load_base_model(self.base.name, dtype, str(self.base.device))
            answerer = replace(answerer, base=base)
        hits = [question.hits for question in questions]
        answers = answerer.answer([question.text for question in questions], hits, "parametric")
        return [answer.text for answer in answers]

    def peft_answer(self, question: WorkloadQuestion, dtype: str, max_new_tokens: int) -> dict:
        """Load the documents' adapters, sum them and answer; see `PeftBaseline.answer`."""
        (asked,) = self.answerer.prepare([question.text], [question.hits], "closed_book")
        ids = self.base.tokenizer(asked.prompt, add_special_tokens=False).input_ids
        folders = [self.folders[document.id] for document in question.documents]
        return self.peft(
            "answer", dtype=dtype, adapters=folders, ids=ids, ends=sorted(end_tokens(self.base)),
            max_new_tokens=max_new_tokens,
        )  # fmt: skip

    def timed_answer(self, question: WorkloadQuestion, mode: str) -> list[float]:
        """Return the milliseconds from the start to each piece of the answer."""
        start = time.perf_counter()
        (ready,) = self.answerer.prepare([question.text], [question.hits], mode)
        pieces = stream(self.base, [ready.prompt], ready.adapter, OPTIONS)
        times = [time.perf_counter() - start for _ in pieces] or [time.perf_counter() - start]
        return [1000 * t for t in times]


@contextmanager
def _sides(base: BaseModel, peft: PeftProcess, folder: str) -> Iterator[Sides]:
    with WorkloadAdapters(base, folder) as adapters, tempfile.TemporaryDirectory() as scratch:
        sides = Sides(base, adapters, peft)
        sides.export(scratch)
        yield sides


def measure_merge(
    base: BaseModel, peft: PeftProcess, folder: str, quick: bool = False
) -> list[Measurement]:
    """Read 3 adapters and merge them; and attach them, as PEFT's load_adapter and "cat" do."""
    questions = workload_questions(2 if quick else 20, K)
    ours, merged, replies = [], [], []
    with _sides(base, peft, folder) as sides:
        # Whatever is loaded or allocated once, neither side pays for.
        sides.attach(questions[0])
        sides.peft_answer(questions[0], "bfloat16", 0)
        for question in questions:
            for _ in range(1 if quick else 5):
                ours.append(1000 * seconds(lambda q=question: sides.attach(q)))
                merged.append(1000 * seconds(lambda q=question: sides.merged(q)))
            replies.append(sides.peft_answer(question, "bfloat16", 0))
    theirs = 1000 * median(reply["load_seconds"] for reply in replies)
    note = f"median of {len(ours)}; PEFT of {len(replies)}"
    return [
        bounded(f"load, merge {K} adapters", median(merged), "ms", "<=", 5, note),
        compared(f"load, merge, attach {K} adapters / PEFT, cat", median(ours), theirs, "ms", 20,
                 note),
    ]  # fmt: skip


def measure_generate(
    base: BaseModel, peft: PeftProcess, folder: str, quick: bool = False
) -> list[Measurement]:
    """Answer 256 questions, each with its own 3 adapters; PEFT: one question at a time.

    Both sides read, merge and decode greedily until an end token or 32 tokens. Whether the texts
    are identical is checked in float32: in bfloat16 the rounding of a batch differs from that of a
    single row and turns near ties.
    """
    questions = workload_questions(2 if quick else 256, K)
    few, limit = 1 if quick else 8, OPTIONS.max_new_tokens
    sample = questions[:: max(1, len(questions) // (2 * few))]
    times, replies = [], []  # of all questions; of one
    with _sides(base, peft, folder) as sides:
        sides.peft_answer(questions[0], "bfloat16", limit)
        sides.answers(questions[:1])
        # The sides alternate: a machine that slows down slows down both.
        for half in (sample[:few], sample[few : 2 * few]):
            times.append(seconds(lambda: sides.answers(questions)))
            replies += [sides.peft_answer(question, "bfloat16", limit) for question in half]
        ours = sides.answers(sample, "float32")
        theirs = [sides.peft_answer(question, "float32", limit)["tokens"] for question in sample]
    texts = [base.tokenizer.decode(t, skip_special_tokens=True).strip() for t in theirs]
    same = mean(a == b for a, b in zip(ours, texts, strict=True))
    spent = [reply["load_seconds"] + reply["generate_seconds"] for reply in replies]
    note = f"{len(questions)} questions, batch {OPTIONS.batch_size}; PEFT {len(spent)}"
    return [
        compared(f"questions with {K} adapters each / PEFT, one by one",
                 len(questions) / mean(times), 1 / mean(spent), "questions/s", 5, note),
        bounded("identical greedy texts, float32", 100 * same, "%", ">=", 100,
                f"{len(sample)} questions"),
    ]  # fmt: skip


def measure_latency(
    base: BaseModel, peft: PeftProcess, folder: str, quick: bool = False
) -> list[Measurement]:
    """Time to the first token and to the whole answer, one question at a time.

    parametric reads, merges and attaches k adapters; in_context puts k passages into the prompt.
    Retrieval counts on neither side. Answers end where the model ends them.
    """
    rows = []
    with WorkloadAdapters(base, folder) as adapters:
        sides = Sides(base, adapters, peft)
        for k in LATENCY_K:
            times: dict[str, list[list[float]]] = {"parametric": [], "in_context": []}
            for question in workload_questions(1 if quick else 12, k):
                for mode, answers in times.items():  # in turn, as above
                    answers.append(sides.timed_answer(question, mode))
            note = f"medians of {len(times['parametric'])} questions"
            pieces = [f"{mean(map(len, answers)):.1f}" for answers in times.values()]
            for name, place, extra in (
                ("first token", 0, ""),
                ("whole answer", -1, f"; {' and '.join(pieces)} pieces of text"),
            ):
                values = (median(answer[place] for answer in t) for t in times.values())
                label = f"{name}, k = {k}: parametric / in_context"
                rows.append(compared(label, *values, "ms", note=note + extra))
    return rows
