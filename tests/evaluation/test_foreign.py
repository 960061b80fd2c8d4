"""Other tools' files: documents that another retriever found, answers of another system."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import chunk_question_set, load_question_set
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.foreign import read_hits, read_predictions, read_systems
from prag_core.retrieval.retriever import Hit
from tests.fixtures.evaluations import StubRag, options, town_set
from tests.fixtures.question_sets import write
from tests.fixtures.tiny import byte_tokenizer


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
        ("q0 Q0 d1 1 nan me", r"line 1: .*no finite score"),
        ("q0 Q0 d1 1 -inf me", r"line 1: .*no finite score"),
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


def test_a_document_that_a_question_has_twice_counts_once_by_its_best_rank(tmp_path):
    towns = town_set(2)
    a, b = (document.id for document in towns.documents)
    rows = ("q0 Q0 d1 3 1.5", "q0 Q0 d0 2 2", f"q0 Q0 {b} 1 7", "q1 Q0 d1 1 4")
    run = write(tmp_path / "run.trec", "\n".join(rows))
    assert read_hits(run, towns) == [[Hit(b, 7.0), Hit(a, 2.0)], [Hit(b, 4.0)]]


def test_a_text_under_two_ids_is_found_by_either(tmp_path):
    corpus = [{"id": name, "text": "Ulm is old."} for name in ("d0", "d1")]
    write(tmp_path / "set" / "corpus.jsonl", [*corpus, {"id": "d2", "text": "Bonn is not."}])
    record = {"id": "q0", "question": "Old?", "answer": "Ulm", "gold_ids": ["d1"]}
    write(tmp_path / "set" / "questions.jsonl", [record])
    whole = load_question_set(tmp_path / "set")
    run = write(tmp_path / "run.trec", "q0 Q0 d1 1 2.5 me")
    assert read_hits(run, whole) == [[Hit(whole.documents[0].id, 2.5)]]
    with pytest.raises(ValueError, match=r"KeyError\('d1'\)"):  # as for any that was not drawn
        read_hits(run, replace(whole, documents=whole.documents[1:]))


def test_an_id_that_chunks_share_is_refused_and_each_chunk_has_its_own(tmp_path):
    long = Document("The mayor of Ulm is Ida. She is old.", source_id="d3")
    towns = town_set(2)
    towns = replace(towns, documents=(*towns.documents, long))
    cut = chunk_question_set(towns, byte_tokenizer(), 32)
    assert [document.source_id for document in cut.documents] == ["d0", "d1", "d3", "d3"]
    run = write(tmp_path / "run.trec", "q0 Q0 d1 1 2\nq0 Q0 d3 2 1")
    with pytest.raises(ValueError, match=r"line 2: 'd3', which 2 documents of towns have"):
        read_hits(run, cut)
    ids = [document.id for document in cut.documents]
    write(run, f"q0 Q0 d1 1 2\nq0 Q0 {ids[2]} 2 1")
    assert read_hits(run, cut)[0] == [Hit(ids[1], 2.0), Hit(ids[2], 1.0)]


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
        (
            "a.json",
            '{"id": "q0", "prediction": "x"}\n{"id": "q0", "prediction": "y"}',
            "the id 'q0' twice",
        ),
        ("a.json", '{"q0": "None", "q1": null, "q2": 3}', "with None as prediction for q1, exp"),
        (
            "a.json",
            '[{"id": "q0", "prediction": ["x"]}, {"id": "q1", "prediction": null},'
            ' {"id": "q2", "prediction": ""}]',
            r"with \['x'\] as prediction for q0, q1, expected",
        ),
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


def test_two_systems_of_one_name_are_refused(tmp_path):
    paths = [
        write(tmp_path / folder / name, {"q0": folder})
        for folder, name in (("a", "preds.json"), ("b", "preds.jsonl"), ("b", "other.json"))
    ]
    questions = town_set(1).questions
    with pytest.raises(
        ValueError, match=r"got the predictions .*a/preds\.json, .*b/preds\.jsonl, wh"
    ):
        read_systems(paths, questions)
    systems = read_systems(paths[1:], questions)
    assert {n: a["q0"]["prediction"] for n, a in systems.items()} == {"preds": "b", "other": "b"}
