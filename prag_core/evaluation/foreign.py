"""Foreign results: files of other tools go in, hits and scored answers of questions come out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.corpus.records import file_lines, iter_records, refuse
from prag_core.evaluation.assignment import Rows, name_some
from prag_core.evaluation.conditions import condition_of
from prag_core.evaluation.evaluate import scored
from prag_core.retrieval.retriever import Hit


def read_hits(path: Path | str, question_set: QuestionSet) -> Rows:
    """Read a run in TREC's format: lines of `question Q0 document rank score tag`.

    A question that the run leaves out has no documents. Documents are named by the id that they
    have in their own corpus, or by `Document.id`; they are ordered by rank, each once a question.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line, an unknown document, an id that several documents have, or no
            hit for any question.
    """
    known, shared = _known_ids(question_set)
    ranked: dict[str, list[tuple[int, Hit]]] = {}
    for number, line in file_lines(Path(path)):
        fields = line.split()
        if not fields:
            continue
        try:
            question, _, document, rank, score = fields[:5]
            hit = Hit(known[document], float(score))
            if not math.isfinite(hit.score):
                raise ValueError("no finite score")
            ranked.setdefault(question, []).append((int(rank), hit))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"got {path}, line {number}: {line[:80]!r} ({error!r}), expected `question Q0 "
                f"document rank score tag` with a document of {question_set.name}: correct it"
            ) from error
        if document in shared:
            raise ValueError(
                f"got {path}, line {number}: {document!r}, which {shared[document]} documents of "
                f"{question_set.name} have, as chunks of one do, expected the id of one: name each "
                "by its Document.id, or leave out chunk_tokens"
            )
    rows = [_best_first(ranked.get(question.id, ())) for question in question_set.questions]
    # Ids that match nothing are a mistake, no retriever that is always wrong.
    if not any(rows):
        raise ValueError(
            f"got {path} with hits for {name_some(ranked) or 'no questions'}, expected some for "
            f"{name_some(q.id for q in question_set.questions)}: name questions by their id"
        )
    return rows


def _known_ids(question_set: QuestionSet) -> tuple[dict[str, str], dict[str, int]]:
    """Return {id that a run may name: `Document.id`}, and how many have one that is shared."""
    documents = question_set.documents_by_id
    known = {alias: i for alias, i in question_set.aliases.items() if i in documents}
    known |= {document.source_id: i for i, document in documents.items() if document.source_id}
    # Ours last: they are hashes and cannot be confused with the corpus' own.
    known |= {identifier: identifier for identifier in documents}
    counts = Counter(document.source_id for document in documents.values())
    return known, {source_id: count for source_id, count in counts.items() if count > 1}


def _best_first(ranked: Sequence[tuple[int, Hit]]) -> list[Hit]:
    """Order hits by rank; of a document that occurs twice, as of passages, the best one stays."""
    hits: dict[str, Hit] = {}
    for _, hit in sorted(ranked, key=lambda pair: pair[0]):  # runs are not always sorted
        hits.setdefault(hit.document_id, hit)
    return [*hits.values()]


def read_systems(
    paths: Sequence[Path | str], questions: Sequence[Question]
) -> dict[str, dict[str, dict]]:
    """Read files of answers, a system each; returns {name: answers as `read_predictions` has them}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: two files of one name, or what `read_predictions` refuses.
    """
    counts = Counter(Path(path).stem for path in paths)
    if twice := [str(path) for path in paths if counts[Path(path).stem] > 1]:
        raise ValueError(
            f"got the predictions {', '.join(twice)}, which have one name without folder and "
            "ending, expected one each, by which tables tell them apart: rename them"
        )
    return {Path(path).stem: read_predictions(path, questions) for path in paths}


def read_predictions(path: Path | str, questions: Sequence[Question]) -> dict[str, dict]:
    """Read and score answers: JSON {id: prediction}, or JSON lines {"id", "prediction"}.

    Returns:
        Question id -> record, as `prag_core.evaluation.results` reports on it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such format, questions without prediction or with one that is no text, or a
            name that a condition has.
    """
    path = Path(path)
    if condition_of(f"{path.stem}.jsonl"):
        raise ValueError(
            f"got predictions {path}, named as a condition is, expected another name: rename it"
        )
    texts = _texts(path)
    # A part of the answers would be compared with the whole of others.
    missing = [question.id for question in questions if question.id not in texts]
    if missing:
        raise ValueError(
            f"got {path} without {len(missing)} of {len(questions)} questions "
            f"({name_some(missing)}), expected a prediction for each: add them"
        )
    # As text, null would be the answer "None".
    others = [q.id for q in questions if not isinstance(texts[q.id], (str, int, float))]
    if others:
        raise ValueError(
            f"got {path} with {texts[others[0]]!r:.80} as prediction for {name_some(others)}, "
            'expected a text for each question: correct it, "" where there is no answer'
        )
    return {question.id: scored(question, str(texts[question.id])) for question in questions}


def _texts(path: Path) -> dict[str, object]:
    """Return {question id: prediction}."""
    try:
        rows = [row for _, row in iter_records(path, refuse)]
        if not rows:
            raise ValueError("no records")
        first = rows[0]
        # One line of {"id", "prediction"} is JSON by itself, too.
        if len(rows) == 1 and isinstance(first, Mapping) and not {"id", "prediction"} <= {*first}:
            return {str(key): value for key, value in first.items()}
        texts = {str(row["id"]): row["prediction"] for row in rows}  # type: ignore[index]
        if len(texts) < len(rows):
            counts = Counter(str(row["id"]) for row in rows)  # type: ignore[index]
            raise ValueError(f"the id {counts.most_common(1)[0][0]!r} twice")
        return texts
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"got {path}, which cannot be read ({error!r}), expected JSON {{id: prediction}} or "
            'lines of {"id": ..., "prediction": ...}: convert it'
        ) from error
