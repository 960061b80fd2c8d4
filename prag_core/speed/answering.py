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
from prag_core.adapters.store import AdapterStore
from prag_core.formats.peft_folder import to_peft
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.decoding_rows import end_tokens
from prag_core.model.generate import stream
from prag_core.model.prompts import prompt_ids
from prag_core.pipeline.answerer import Prepared
from prag_core.pipeline.rag import ParametricRAG
from prag_core.speed.measurement import Measurement, Peft, bounded, compared, seconds
from prag_core.speed.workload import WorkloadQuestion, workload_pipeline, workload_questions

K = 3  # documents a question
LATENCY_K = (1, 3, 10)


class Sides:
    """Both sides of a comparison: our pipeline, and the same adapters in the PEFT process."""

    def __init__(self, rag: ParametricRAG, peft: Peft, folder: Path) -> None:
        """Write every document's adapter below this folder, as PEFT loads it."""
        self.rag, self.base, self.peft = rag, rag.base, peft
        self.folders = {
            i: str(to_peft(rag.adapter(i), folder / i, self.base.name)) for i in rag.documents
        }

    def merged(self, question: WorkloadQuestion) -> Adapter:
        """Read and merge, without a prompt: what the part `merge` times."""
        return merge([self.rag.adapter(i) for i in question.document_ids])

    def attach(self, question: WorkloadQuestion) -> None:
        """Read, merge and attach, and restore the model."""
        with attached(self.base, self.merged(question)):
            pass

    def prepare(self, question: WorkloadQuestion, mode: str) -> Prepared:
        """Do all that comes before the model decodes."""
        texts = [question.text]
        hits = self.rag.hits(texts, mode, document_ids=[question.document_ids])
        return self.rag.answerer.prepare(texts, hits, mode)[0]

    def answers(self, questions: Sequence[WorkloadQuestion], dtype: str = "") -> list[str]:
        """Answer all questions in batches, in another dtype where one is named."""
        texts, ids = zip(*((q.text, q.document_ids) for q in questions), strict=True)
        hits, answerer = self.rag.hits(texts, "parametric", document_ids=ids), self.rag.answerer
        if dtype:  # the adapters stay what they are
            base = load_base_model(self.base.name, dtype, str(self.base.device))
            answerer = replace(answerer, base=base)
        return [answer.text for answer in answerer.answer(texts, hits, "parametric")]

    def peft_answer(self, question: WorkloadQuestion, dtype: str, limit: int) -> dict:
        """Load the documents' adapters, sum them and answer; see `peft_baseline.answer`."""
        prompt = self.prepare(question, "parametric").prompt  # ours: no passage, the same wording
        return self.peft(
            "answer", dtype=dtype, adapters=[self.folders[i] for i in question.document_ids],
            ids=prompt_ids(self.base.tokenizer, prompt),
            ends=sorted(end_tokens(self.base)), limit=limit,
        )  # fmt: skip

    def timed_answer(self, question: WorkloadQuestion, mode: str) -> list[float]:
        """Return the milliseconds from the start to each piece of the answer."""
        start = time.perf_counter()
        ready = self.prepare(question, mode)
        # Not `answer`: only a stream tells when the first token is there.
        pieces = stream(self.base, [ready.prompt], ready.adapter, self.rag.generation)
        times = [time.perf_counter() - start for _ in pieces] or [time.perf_counter() - start]
        return [1000 * t for t in times]


@contextmanager
def _sides(base: BaseModel, peft: Peft, folder: str) -> Iterator[Sides]:
    with AdapterStore(folder) as store, tempfile.TemporaryDirectory() as scratch:
        yield Sides(workload_pipeline(base, store), peft, Path(scratch))


def measure_merge(base: BaseModel, peft: Peft, folder: str, quick: bool) -> list[Measurement]:
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


def measure_generate(base: BaseModel, peft: Peft, folder: str, quick: bool) -> list[Measurement]:
    """Answer 256 questions, each with its own 3 adapters; PEFT: one question at a time.

    Both sides read, merge and decode greedily until an end token or 32 tokens. Whether the texts
    are identical is checked in float32: in bfloat16 the rounding of a batch differs from that of a
    single row and turns near ties.
    """
    questions = workload_questions(2 if quick else 256, K)
    few = 1 if quick else 8
    sample = questions[:: max(1, len(questions) // (2 * few))]
    times, replies = [], []  # of all questions; of one
    with _sides(base, peft, folder) as sides:
        options = sides.rag.generation
        limit = options.max_new_tokens
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
    note = f"{len(questions)} questions, batch {options.batch_size}; PEFT {len(spent)}"
    return [
        compared(f"questions with {K} adapters each / PEFT, one by one",
                 len(questions) / mean(times), 1 / mean(spent), "questions/s", 5, note),
        bounded("identical greedy texts, float32", 100 * same, "%", ">=", 100,
                f"{len(sample)} questions"),
    ]  # fmt: skip


def measure_latency(base: BaseModel, peft: Peft, folder: str, quick: bool) -> list[Measurement]:
    """Time to the first token and to the whole answer, one question at a time.

    parametric reads, merges and attaches k adapters; in_context puts k passages into the prompt.
    Retrieval counts on neither side. Answers end where the model ends them.
    """
    rows = []
    with _sides(base, peft, folder) as sides:
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
