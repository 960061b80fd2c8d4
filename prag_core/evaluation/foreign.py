"""Foreign results: files of other tools go in, hits and scored answers of questions come out."""

from __future__ import annotations

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
    have in their own corpus, or by `Document.id`; they are ordered by rank.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a malformed line, an unknown document, or no hit for any question.
    """
    # The corpus' own ids first; ours are hashes and cannot be confused with them.
    known = {d.source_id: d.id for d in question_set.documents if d.source_id}
    known |= {identifier: identifier for identifier in question_set.documents_by_id}
    ranked: dict[str, list[tuple[int, Hit]]] = {}
    for number, line in file_lines(Path(path)):
        fields = line.split()
        if not fields:
            continue
        try:
            question, _, document, rank, score = fields[:5]
            hit = Hit(known[document], float(score))
            # Runs are not always sorted by rank.
            ranked.setdefault(question, []).append((int(rank), hit))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"got {path}, line {number}: {line[:80]!r} ({error!r}), expected `question Q0 "
                f"document rank score tag` with a document of {question_set.name}: correct it"
            ) from error
    rows = [
        [hit for _, hit in sorted(ranked.get(q.id, ()), key=lambda pair: pair[0])]
        for q in question_set.questions
    ]
    # Ids that match nothing are a mistake, no retriever that is always wrong.
    if not any(rows):
        raise ValueError(
            f"got {path} with hits for {name_some(ranked) or 'no questions'}, expected some for "
            f"{name_some(q.id for q in question_set.questions)}: name questions by their id"
        )
    return rows


def read_predictions(path: Path | str, questions: Sequence[Question]) -> dict[str, dict]:
    """Read and score answers: JSON {id: prediction}, or JSON lines {"id", "prediction"}.

    Returns:
        Question id -> record, as `prag_core.evaluation.results` reports on it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no such format, questions without prediction, or a name that a condition has.
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
    return {question.id: scored(question, texts[question.id]) for question in questions}


def _texts(path: Path) -> dict[str, str]:
    """Return {question id: prediction}."""
    try:
        rows = [row for _, row in iter_records(path, refuse)]
        if not rows:
            raise ValueError("no records")
        first = rows[0]
        # One line of {"id", "prediction"} is JSON by itself, too.
        if len(rows) == 1 and isinstance(first, Mapping) and not {"id", "prediction"} <= {*first}:
            return {str(key): str(value) for key, value in first.items()}
        return {str(row["id"]): str(row["prediction"]) for row in rows}  # type: ignore[index]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"got {path}, which cannot be read ({error!r}), expected JSON {{id: prediction}} or "
            'lines of {"id": ..., "prediction": ...}: convert it'
        ) from error
