"""Score: a question set and a checkpoint go in, what the adapters carry comes out.

Containment, exact match and F1 by condition (see `hypernet.generation.conditions`), what is kept of
the document's own score, and what an adapter does to questions and text that its document does
not answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from hypernet.generation.conditions import Scorer, draw_sample, table
from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.training.sources import corpus_file
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document, iter_documents
from prag_core.corpus.question_sets import load_question_set
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, ratio_interval
from prag_core.files import write_json
from prag_core.model.base_model import EMBEDDED_NAME, load_base_model
from prag_core.model.decoding_rows import GenerationOptions


def score(
    source: str,
    weights: str = "smollm2-135m-ridge",
    base_model: str = EMBEDDED_NAME,
    conditions: tuple[str, ...] = ("closed_book", "in_context", "gold", "shuffled"),
    documents: int = 400,
    questions: int | None = None,
    most_words: int = 200,
    unrelated: str = "",
    texts: int = 48,
    max_new_tokens: int = 32,
    least_relevance: float = 0.0,
    seed: int = 0,
    output: str = "",
) -> dict:
    """Ask a question set about single documents with a checkpoint's adapters.

    Args:
        source: question set with one gold document a question.
        weights: exported checkpoint.
        base_model: the model that it belongs to.
        conditions: closed_book, in_context, in_context_rows, gold, shuffled, combine, gold+K,
            gold+K:relative, gold+K:concatenate, rank:R (see `hypernet.generation.conditions`).
        documents: drawn among those of at most most_words words.
        questions: drawn among theirs; all when omitted.
        most_words: longest document.
        unrelated: folder or file of a corpus: the loss of its texts, each with the adapter of a
            document of the question set.
        texts: of the corpus, drawn from its first 5,000.
        max_new_tokens: of an answer.
        least_relevance: adapters of full rank that respond less to a question, or to the first 32
            tokens of a text, are left out (see `prag_core.pipeline.relevance`); 0: none.
        seed: of all draws.
        output: file for the result as JSON, written after every condition.
    """
    settings = dict(locals())
    base = load_base_model(base_model)
    parametrizer = HypernetParametrizer.from_pretrained(weights, base)
    sample = draw_sample(load_question_set(source), documents, seed, most_words, questions)
    if len(sample.questions) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {len(sample.questions)} questions about documents of at most {most_words} words, "
            f"expected {SMALLEST_SAMPLE} or more: raise most_words, documents or questions"
        )
    strangers = draw_texts(unrelated, texts, seed) if unrelated else []
    result = {"settings": settings, "questions": len(sample.questions), "conditions": {}}
    size = f"{len(sample.documents)} documents, {len(sample.questions)} questions"
    print(f"{size}; %, 95 % intervals\ncondition | containment | exact match | F1", flush=True)
    contained: dict[str, list[float]] = {}
    scorer = Scorer(base, parametrizer, GenerationOptions(max_new_tokens), least_relevance)
    for name, said in scorer.each(sample, conditions, seed):
        row = result["conditions"][name] = table(sample, {name: said})[name]
        contained[name] = [
            score_answer(text, golden).containment
            for text, (_, golden, _) in zip(said, sample.questions, strict=True)
        ]
        print(" | ".join([name, *map(_percent, row.values())]), flush=True)
        result["ratios"] = ratios(contained)
        _write(result, output)
    for name, row in result.get("ratios", {}).items():
        print(f"{name}: {row[0]:.2f} ({row[1]:.2f} to {row[2]:.2f})")
    if strangers:
        row = result["unrelated"] = _unrelated(scorer, strangers, sample.documents)
        print(f"unrelated text: {row['plain']:.3f} nats a token; with an adapter x {row['ratio']}")
        _write(result, output)
    return result


def draw_texts(source: str, count: int, seed: int) -> list[str]:
    """Draw texts from the first 5,000 of a corpus.

    Raises:
        ValueError: too few for an interval.
    """
    found = [document.text for document in islice(iter_documents(corpus_file(source)), 5000)]
    if min(count, len(found)) < SMALLEST_SAMPLE:
        raise ValueError(
            f"got {min(count, len(found))} unrelated texts of {source}, expected "
            f"{SMALLEST_SAMPLE} or more: raise texts, or name a larger corpus"
        )
    return random.Random(seed).sample(found, min(count, len(found)))


def ratios(contained: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return ratios of containment over the same questions: [ratio, low, high] (95 %).

    gold and combine to the best that reads; gold+K and rank:R to gold; (gold - shuffled) / gold; of
    what closed_book contains, the share that is contained with another document's adapter, too.
    """
    pairs = {}
    reading = [name for name in contained if name.startswith("in_context")]
    best = max(reading, key=lambda name: sum(contained[name]), default=None)
    for name in ("gold", "combine"):
        if best and name in contained:
            pairs[f"{name} / {best}"] = contained[name], contained[best]
    gold = contained.get("gold")
    if gold is not None:
        for name, values in contained.items():
            if name.startswith(("gold+", "rank:")):
                pairs[f"{name} / gold"] = values, gold
    others = contained.get("shuffled")
    if gold is not None and others is not None:
        lost = [own - other for own, other in zip(gold, others, strict=True)]
        pairs["(gold - shuffled) / gold"] = lost, gold
    plain = contained.get("closed_book")
    if plain is not None and others is not None:
        both = [a * b for a, b in zip(plain, others, strict=True)]
        pairs["closed_book's that shuffled keeps"] = both, plain
    return {
        name: [round(value, 4) for value in ratio_interval(top, bottom)]
        for name, (top, bottom) in pairs.items()
        if sum(bottom)
    }


def _unrelated(scorer: Scorer, texts: Sequence[str], documents: Sequence[Document]) -> dict:
    """Return the loss a token of texts, and how many times as large it is with adapters."""
    owners = [documents[number % len(documents)] for number in range(len(texts))]
    plain, tokens = scorer.unrelated_nll(texts, [None] * len(texts))
    attached, _ = scorer.unrelated_nll(texts, scorer.parametrizer.parametrize(owners))
    ratio = [round(value, 4) for value in ratio_interval(attached, plain)]
    return {"plain": sum(plain) / tokens, "ratio": ratio, "texts": len(texts)}


def _write(result: Mapping, output: str) -> None:
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(output), result)


def _percent(row: Sequence[float]) -> str:
    mean, low, high = (100 * value for value in row)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"
