"""Other tools' files: documents that another retriever found, answers of another system."""

from __future__ import annotations

import json

import pytest

from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.foreign import read_hits, read_predictions
from prag_core.retrieval.retriever import Hit
from tests.fixtures.evaluations import StubRag, options, town_set


def test_hits_by_source_id_or_id_in_order_of_rank(tmp_path):
    towns = town_set(3)
    a, b, _ = (document.id for document in towns.documents)
    run = tmp_path / "run.trec"
    run.write_text(f"q0 Q0 d1 2 0.5 me\nq0 Q0 {a} 1 7.25 me\n\nq2\tQ0\td0\t1\t3\n")
    assert read_hits(run, towns) == [[Hit(a, 7.25), Hit(b, 0.5)], [], [Hit(a, 3.0)]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q0 Q0 d9 1 1.0 me", r"line 1: 'q0 Q0 d9 1 1.0 me' \(KeyError\('d9'\)\), expected"),
        ("q0 Q0 d1 first 1.0 me", "line 1"),
        ("q0 Q0", "line 1"),
        ("x1 Q0 d1 1 1.0 me", "with hits for x1, expected some for q0, q1, q2"),
        ("", "with hits for no questions"),
        ("q0 Q0 d1 1 1.0 me\nq0 Q0 Zürich 2 1.0 me", r"run\.trec, line 2: got byte 7 that is 0xfc"),
    ],
)
def test_bad_runs_are_refused(tmp_path, text, message):
    run = tmp_path / "run.trec"
    run.write_bytes(text.encode("cp1252"))
    with pytest.raises(ValueError, match=message):
        read_hits(run, town_set(3))


def test_questions_are_answered_from_the_hits(tmp_path):
    towns = town_set(6)
    run = tmp_path / "run.trec"
    run.write_text("".join(f"q{n} Q0 d{(n + 1) % 6} 1 {n + 1} me\n" for n in range(6)))
    hits = read_hits(run, towns)
    rag = StubRag(towns)
    asked = options("parametric", "shuffled", "gold", retrieval="retriever")
    report = evaluate(rag, towns, asked, tmp_path / "out", hits=hits)
    means = {name: cell.metrics["f1"].mean for name, cell in report.conditions.items()}
    assert means == {"parametric": 0, "gold": 1, "shuffled": 0}
    scores = [hit.score for mode, row, _ in rag.used[6:12] for hit in row]
    assert scores == [1, 2, 3, 4, 5, 6]  # shuffled: those of the documents it replaces
    with pytest.raises(ValueError, match=r"evaluation\.hits"):
        evaluate(StubRag(towns), towns, asked, tmp_path / "out")


@pytest.mark.parametrize("lines", [True, False])
def test_predictions_are_scored_beside_the_conditions(tmp_path, lines):
    towns = town_set(6)
    path = tmp_path / "gpt.json"
    said = {f"q{n}": f"Mayor{n}" if n % 2 else "nobody" for n in range(6)}
    rows = [json.dumps({"id": key, "prediction": value}) for key, value in said.items()]
    path.write_text("\n".join(rows) if lines else json.dumps(said))
    foreign = {"gpt": read_predictions(path, towns.questions)}
    report = evaluate(StubRag(towns), towns, options(), tmp_path / "out", predictions=foreign)
    assert [*report.conditions] == ["parametric", "gpt"]
    assert report.conditions["gpt"].metrics["exact_match"].mean == 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gold.json", "{}", "named as a condition is"),
        ("a.json", '{"q0": "x"}', r"without 2 of 3 questions \(q1, q2\)"),
        ("a.json", "q0: x", "which cannot be read"),
        ("a.json", '{"id": "q0"}\n{"id": "q1"}', "which cannot be read"),
        ("a.json", '{"q0": "x",\n"q1": "Zürich"}', "line 2: got byte 8 that is 0xfc"),
        ("a.json", '{"q0": "x", "q0": "y"}', "the key 'q0' twice"),
    ],
)
def test_bad_predictions_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode("cp1252"))
    with pytest.raises(ValueError, match=message):
        read_predictions(tmp_path / name, town_set(3).questions)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark(tmp_path, encoding):
    towns, run, said = town_set(1), tmp_path / "run.trec", tmp_path / "other.json"
    run.write_bytes("q0 Q0 d0 1 1.0 me\n".encode(encoding))
    (row,) = read_hits(run, towns)
    assert row == [Hit(towns.documents[0].id, 1.0)]
    for text in (
        '{"q0": "Zürich"}',
        '{"id": "q0", "prediction": "Zürich"}',
        "id,prediction\nq0,Zürich",
    ):
        said.write_bytes(text.encode(encoding))
        assert read_predictions(said, towns.questions)["q0"]["prediction"] == "Zürich"
