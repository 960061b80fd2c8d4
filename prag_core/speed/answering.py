"""Benchmark of answering: merging, batches with an adapter a row, and latency beside in_context."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import merge
from prag_core.formats.peft_folder import to_peft
from prag_core.model.attach import attached
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.decoding_rows import GenerationOptions, end_tokens
from prag_core.model.generate import generate, stream
from prag_core.model.prompts import question_prompt
from prag_core.speed.measurement import Measurement, PeftProcess, compared, limited, seconds
from prag_core.speed.workload import (
    WorkloadAdapters,
    WorkloadQuestion,
    workload_documents,
    workload_questions,
)

K = 3  # documents a question
LATENCY_K = (1, 3, 10)
MERGE_MILLISECONDS = 5
# Stop strings are PEFT's weak side (a test of the text after each token): none on both sides.
OPTIONS = GenerationOptions(stop=())


class PeftFolders:
    """The workload's adapters as PEFT folders, and questions asked of them in the PEFT process."""

    def __init__(
        self, base: BaseModel, adapters: WorkloadAdapters, peft: PeftProcess, folder: str
    ) -> None:
        """Export every document's adapter below this folder."""
        self.base, self.peft = base, peft
        self.paths = {
            d.id: str(to_peft(adapters.store.get(adapters.key(d)), Path(folder) / d.id, base.name))
            for d in workload_documents()
        }

    def answer(self, question: WorkloadQuestion, dtype: str, max_new_tokens: int) -> dict:
        """Load the documents' adapters, sum them and answer; see `PeftBaseline.answer`."""
        prompt = question_prompt(self.base.tokenizer, question.text)
        return self.peft(
            "answer",
            dtype=dtype,
            adapters=[self.paths[document.id] for document in question.documents],
            ids=self.base.tokenizer(prompt, add_special_tokens=False).input_ids,
            ends=sorted(end_tokens(self.base)),
            max_new_tokens=max_new_tokens,
        )


def measure_merge(
    base: BaseModel, peft: PeftProcess, folder: str, quick: bool = False
) -> list[Measurement]:
    """Read 3 adapters and merge them; and attach them, as PEFT's load_adapter and "cat" do."""
    questions = workload_questions(2 if quick else 20, K)
    repeats = 1 if quick else 5
    merged, ours, theirs = [], [], []
    with WorkloadAdapters(base, folder) as adapters, tempfile.TemporaryDirectory() as scratch:
        folders = PeftFolders(base, adapters, peft, scratch)
        _attach(base, adapters, questions[0])
        folders.answer(questions[0], "bfloat16", 0)
        for question in questions:
            ours += [
                1000 * seconds(lambda q=question: _attach(base, adapters, q))
                for _ in range(repeats)
            ]
            merged += [
                1000 * seconds(lambda q=question: _merged(adapters, q)) for _ in range(repeats)
            ]
            theirs.append(1000 * folders.answer(question, "bfloat16", 0)["load_seconds"])
    note = f"median of {len(ours)}; PEFT of {len(theirs)}"
    name = f"load, merge, attach {K} adapters"
    limit = limited(
        "merge", f"load, merge {K} adapters", median(merged), "ms", MERGE_MILLISECONDS, note
    )
    against = compared("merge", f"{name} / PEFT, cat", median(ours), median(theirs), "ms", 20, note)
    return [limit, against]


def measure_generate(
    base: BaseModel, peft: PeftProcess, folder: str, quick: bool = False
) -> list[Measurement]:
    """Answer 256 questions, each with its own 3 adapters; PEFT: one question at a time.

    Both sides read, merge and decode greedily until an end token or 32 tokens. Whether the texts
    are identical is checked in float32: in bfloat16 the rounding of a batch differs from that of a
    single row and turns near ties.
    """
    questions = workload_questions(2 if quick else 256, K)
    few = 1 if quick else 8
    times, answers = [], []
    with WorkloadAdapters(base, folder) as adapters, tempfile.TemporaryDirectory() as scratch:
        folders = PeftFolders(base, adapters, peft, scratch)
        limit = OPTIONS.max_new_tokens
        folders.answer(questions[0], "bfloat16", limit)
        _answer(base, adapters, questions[:1])
        step = max(1, len(questions) // (2 * few))
        sample = questions[::step]
        for half in (sample[:few], sample[few : 2 * few]):
            times.append(seconds(lambda: _answer(base, adapters, questions)))
            answers += [folders.answer(question, "bfloat16", limit) for question in half]
        precise = load_base_model(base.name, "float32", str(base.device))
        ours = _answer(precise, adapters, sample)
        theirs = [folders.answer(question, "float32", limit)["tokens"] for question in sample]
    texts = [base.tokenizer.decode(t, skip_special_tokens=True).strip() for t in theirs]
    same = mean(a == b for a, b in zip(ours, texts, strict=True))
    spent = [reply["load_seconds"] + reply["generate_seconds"] for reply in answers]
    return [
        compared("generate", "questions with 3 adapters each / PEFT, one by one",
                 len(questions) / mean(times), 1 / mean(spent), "questions/s", 5,
                 f"{len(questions)} questions, batch {OPTIONS.batch_size}; PEFT {len(spent)}"),
        Measurement("generate", "identical greedy texts, float32", 100 * same, "%",
                    target="100 %", met=same == 1, note=f"{len(sample)} questions"),
    ]  # fmt: skip


def measure_latency(base: BaseModel, folder: str, quick: bool = False) -> list[Measurement]:
    """Time to the first token and to the whole answer, one question at a time.

    parametric reads, merges and attaches k adapters; in_context puts k passages into the prompt.
    Retrieval counts on neither side. Answers end where the model ends them.
    """
    measured = []
    with WorkloadAdapters(base, folder) as adapters:
        for k in LATENCY_K:
            first: dict[str, list[float]] = {"parametric": [], "in_context": []}
            whole: dict[str, list[float]] = {"parametric": [], "in_context": []}
            lengths: dict[str, list[float]] = {"parametric": [], "in_context": []}
            for question in workload_questions(1 if quick else 12, k):
                for mode in first:
                    times = _timed_answer(base, adapters, question, mode)
                    first[mode].append(1000 * times[0])
                    whole[mode].append(1000 * times[-1])
                    lengths[mode].append(len(times))
            note = f"medians of {len(lengths['parametric'])} questions"
            tokens = " and ".join(f"{mean(lengths[mode]):.1f}" for mode in first)
            for name, values, extra in (
                ("first token", first, ""),
                ("whole answer", whole, f"; {tokens} pieces of text"),
            ):
                ours, theirs = median(values["parametric"]), median(values["in_context"])
                label = f"{name}, k = {k}: parametric / in_context"
                measured.append(compared("latency", label, ours, theirs, "ms", note=note + extra))
    return measured


def _merged(adapters: WorkloadAdapters, question: WorkloadQuestion) -> Adapter:
    return merge([adapters.store.get(adapters.key(document)) for document in question.documents])


def _attach(base: BaseModel, adapters: WorkloadAdapters, question: WorkloadQuestion) -> None:
    with attached(base, _merged(adapters, question)):
        pass


def _answer(
    base: BaseModel, adapters: WorkloadAdapters, questions: Sequence[WorkloadQuestion]
) -> list[str]:
    """Read and merge every question's adapters and answer all in batches."""
    prompts = [question_prompt(base.tokenizer, question.text) for question in questions]
    merged = [_merged(adapters, question) for question in questions]
    return generate(base, prompts, merged, OPTIONS)


def _timed_answer(
    base: BaseModel, adapters: WorkloadAdapters, question: WorkloadQuestion, mode: str
) -> list[float]:
    """Seconds from the start to each piece of the answer."""
    start = time.perf_counter()
    adapter = _merged(adapters, question) if mode == "parametric" else None
    passages = question.documents if mode == "in_context" else ()
    prompt = question_prompt(base.tokenizer, question.text, passages)
    pieces = stream(base, [prompt], adapter, replace(OPTIONS, batch_size=1))
    return [time.perf_counter() - start for _ in pieces] or [time.perf_counter() - start]
