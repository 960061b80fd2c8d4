"""Benchmark of scale: a corpus or a place of many adapters goes in; times and memory come out.

Retrievers are built in a process each, so that their memory is their own. A place is opened with an
empty cache, as on a machine that has never seen it.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import median

from prag_core.adapters.shards import open_store
from prag_core.corpus.documents import read_documents
from prag_core.corpus.question_sets import load_question_set
from prag_core.evaluation.compare.parts import peak_bytes, reset_peak
from prag_core.evaluation.retrieval import retrieval_scores
from prag_core.retrieval.factory import make_retriever
from prag_core.speed.measurement import Measurement, seconds

RETRIEVERS = ("bm25s", "lancedb")
READS, THREADS = 1000, 8


def measure_retrieval(corpus: str, question_sets: Sequence[str], k: int = 3) -> list[Measurement]:
    """Index a corpus with the documents of question sets in it, and ask their questions.

    Args:
        corpus: documents beside those of the sets.
        question_sets: folders of sets with gold documents.
        k: documents a question.
    """
    rows = []
    for name in RETRIEVERS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            found = pool.submit(_retrieval, name, corpus, list(question_sets), k).result()
        times, note = found["times"], f"{found['documents']} documents"
        p50, p95 = median(times), times[len(times) * 95 // 100]
        rows += [
            Measurement(f"{name}: build", found["built"], "s", note=note),
            Measurement(f"{name}: memory of the index at its peak", found["megabytes"], "MB"),
            Measurement(f"{name}: a question, p50", p50, "ms", note=f"of {len(times)}"),
            Measurement(f"{name}: a question, p95", p95, "ms"),
            *(Measurement(f"{name}: recall@{k}, {s}", x, "%") for s, x in found["recall"].items()),
        ]
    return rows


def _retrieval(name: str, corpus: str, folders: Sequence[str], k: int) -> dict:
    sets = [load_question_set(folder) for folder in folders]
    documents = [*read_documents(corpus), *(d for s in sets for d in s.documents)]
    reset_peak(False)  # reading the corpus took more for a moment
    before = peak_bytes(False)
    began = time.perf_counter()
    retriever = make_retriever(name, documents)
    retriever.retrieve(["first"], k)  # what is built at the first question
    built, after = time.perf_counter() - began, peak_bytes(False)
    times, recall = [], {}
    for question_set in sets:
        hits = []
        for question in question_set.questions:
            began = time.perf_counter()
            hits += retriever.retrieve([question.question], k)
            times.append(1000 * (time.perf_counter() - began))
        recall[question_set.name] = 100 * retrieval_scores(question_set, hits, k)["recall"]
    return {
        "documents": len(retriever), "built": built, "megabytes": (after - before) / 2**20,
        "times": sorted(times), "recall": recall,
    }  # fmt: skip


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get("PRAG_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PRAG_CACHE"] = cache
        try:
            yield
        finally:
            del os.environ["PRAG_CACHE"]
            if before is not None:
                os.environ["PRAG_CACHE"] = before


def _open(place: str) -> None:
    with open_store(place, create=False) as store:
        len(store)  # a single store opens its index at the first question


def measure_place(place: str) -> list[Measurement]:
    """Open a place as a machine does that has not seen it, and read adapters at random.

    Args:
        place: folder of a store or of shards, or url.
    """
    with _empty_cache():
        openings = [seconds(lambda: _open(place)) for _ in range(2)]
        with open_store(place, create=False) as store:
            stats, keys = store.stats(), list(store.keys())
            if len(keys) < 2:
                raise ValueError(
                    f"got {len(keys)} adapters in {place}, expected 2 or more to read at random"
                )
            chosen = random.Random(0).sample(keys, min(2 * READS, len(keys)))
            half = len(chosen) // 2
            alone = sorted(1000 * seconds(lambda k=key: store.get(k)) for key in chosen[:half])
            began = time.perf_counter()
            with ThreadPoolExecutor(THREADS) as pool:
                count = len(list(pool.map(store.get, chosen[half:])))
            rate = count / (time.perf_counter() - began)
    note = f"{len(keys)} adapters, {stats['bytes'] / len(keys):,.0f} bytes each"
    return [
        Measurement(f"{place}: first opening, empty cache", openings[0], "s", note=note),
        Measurement(f"{place}: next opening", openings[1], "s"),
        Measurement(f"{place}: an adapter at random, p50", median(alone), "ms", note=f"of {half}"),
        Measurement(f"{place}: an adapter at random, p95", alone[half * 95 // 100], "ms"),
        Measurement(f"{place}: adapters, {THREADS} threads", rate, "/s", note=f"of {count}"),
    ]
