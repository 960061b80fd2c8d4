"""Written questions: what checks and rules keep, what a run leaves behind, and how it goes on.

The writer and, where their text matters, the model's answers are scripted; the tiny model answers
in the one test that asks it.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from filelock import FileLock

from prag_core.augmentation.question_options import QuestionOptions
from prag_core.augmentation.question_writer import QuestionWriter, judge
from prag_core.augmentation.question_writer import WrittenQuestion as Written
from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import load_question_set
from prag_core.evaluation.written_questions import (
    draw_documents,
    golden_answers,
    is_right,
    write_question_set,
)
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import Answer

PLACES = ("Oslo", "Rome", "Lima", "Bern", "Riga")
DOCUMENTS = [
    Document(f"Person {n} founded a mill in {place}.", f"Person {n}", f"s{n}")
    for n, place in enumerate(PLACES)
]
OPTIONS = QuestionOptions(model="tiny", batch_size=2)


@pytest.fixture
def writer(monkeypatch):
    """A writer that asks every document three questions; returns the ids it was asked about."""
    asked = []

    def write(self, documents):
        asked.extend(d.id for d in documents)
        return [
            [
                judge(
                    d, Written(f"In what town is the mill of {d.title}?", d.text[27:-1], "plain")
                ),
                judge(d, Written(f"Where was {d.title} born?", "Paris", "open")),
                judge(
                    d, Written(f"{d.title} founded a mill in what place?", d.text[27:-1], "open")
                ),
            ]
            for d in documents
        ]

    monkeypatch.setattr(QuestionWriter, "write", write)
    return asked


@pytest.fixture
def answers(monkeypatch):
    """Answers by mode, (question) -> text; those with the passage are right, others unknown."""
    by_mode = {
        "kv_cache": lambda question: PLACES[int(question.split("Person ")[1][0])],
        "closed_book": lambda question: "unknown",
    }

    def answer(self, questions, hits, mode):
        needed = 1 if mode == "kv_cache" else 0  # documents of a question
        assert [len(row) for row in hits] == [needed] * len(questions)
        return [Answer(q, by_mode[mode](q), mode) for q in questions]

    monkeypatch.setattr(Answerer, "answer", answer)
    return by_mode


def problems(folder):
    lines = (folder / "written.jsonl").read_text().splitlines()
    return [[q["problem"] for q in json.loads(line)["questions"]] for line in lines]


def test_a_question_set_comes_out(writer, answers, tiny_base, tmp_path):
    report = write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    loaded = load_question_set(tmp_path)
    assert [d.id for d in loaded.documents] == [d.id for d in DOCUMENTS]
    assert [q.gold_ids for q in loaded.questions[:2]] == [(DOCUMENTS[0].id,)] * 2
    first = loaded.questions[0]
    assert (first.id, first.golden_answers) == (f"{DOCUMENTS[0].id}-0", ("Oslo",))
    assert first.question == "In what town is the mill of Person 0?"
    assert first.metadata == {"kind": "plain", "model": "tiny", "overlap": 0.5}
    assert loaded.documents[0].metadata == {"source_id": "s0"}
    assert json.loads((tmp_path / "report.json").read_text())["kept"] == report["kept"] == 10
    assert (report["documents"], report["written"], report["kept_share"]) == (5, 15, 0.667)
    assert report["dropped"] == {"answer not in the text": 5}
    assert report["kinds"]["open"] == {"written": 10, "kept": 5, "share": 0.5}
    passed = {"asked": 10, "passed": 10, "share": 1.0}
    assert report["checks"] == {"with_passage": passed, "without_passage": passed}
    assert report["seconds"] >= 0 and report["base_fingerprint"] == tiny_base.fingerprint


def test_checks_drop_what_is_wrong_with_and_right_without_the_passage(
    writer, answers, tiny_base, tmp_path
):
    with_passage = answers["kv_cache"]
    answers["kv_cache"] = lambda q: "Cairo" if "Person 1" in q else with_passage(q)
    answers["closed_book"] = lambda q: "It is Lima." if "Person 2" in q else "unknown"
    report = write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    wrong, known = "wrong with the passage", "right without the passage"
    assert [row[0] for row in problems(tmp_path)] == ["", wrong, known, "", ""]
    assert report["checks"]["with_passage"]["share"] == 0.8
    assert report["checks"]["without_passage"] == {"asked": 10, "passed": 8, "share": 0.8}
    # What no question is kept about is no document of the set.
    assert (
        len(load_question_set(tmp_path).documents) == 3 == 5 - report["documents_without_question"]
    )


@pytest.mark.parametrize(
    ("options", "kept"),
    [({"check_with_passage": False}, 0), ({"check_without_passage": False}, 10)],
)
def test_a_check_may_be_left_out(options, kept, writer, answers, tiny_base, tmp_path):
    answers["closed_book"] = answers["kv_cache"]  # knows everything
    report = write_question_set(tiny_base, DOCUMENTS, tmp_path, replace(OPTIONS, **options))
    assert report["kept"] == kept and len(report["checks"]) == 1


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("It is in Oslo.", "Oslo", True), ("2012", "in May 2012", False),
        ("May 2012", "in May 2012", True), ("4", "four", True), ("14", "four", False),
        ("20 ships", "Twenty", True), ("", "Oslo", False),
    ],
)  # fmt: skip
def test_what_counts_as_right(said, answer, right):
    assert is_right(said, answer) is right
    assert golden_answers(answer)[0] == answer


def test_near_copies_and_left_out_relations_are_dropped(writer, answers, tiny_base, tmp_path):
    options = replace(OPTIONS, most_overlap=0.5, leave_out=LeaveOut(relations=["place of birth"]))
    write_question_set(tiny_base, DOCUMENTS, tmp_path / "copies", options)
    copy = "near copy of the text"
    assert problems(tmp_path / "copies") == [["", "answer not in the text", copy]] * 5
    born = [replace(d, text=d.text[:-1] + ", Paris.") for d in DOCUMENTS]
    write_question_set(tiny_base, born, tmp_path / "born", options)
    assert [row[1] for row in problems(tmp_path / "born")] == ["asks for what is left out"] * 5


def test_the_tiny_model_is_asked_with_and_without_the_passage(writer, tiny_base, tmp_path):
    write_question_set(tiny_base, DOCUMENTS[:2], tmp_path, OPTIONS)
    line = (tmp_path / "written.jsonl").read_text().splitlines()[0]
    first, second, _ = json.loads(line)["questions"]
    assert first["with_passage"] != first["without_passage"]
    assert first["problem"] == "wrong with the passage" and "with_passage" not in second


def test_a_killed_run_goes_on_by_document(writer, answers, tiny_base, tmp_path):
    whole = tmp_path / "whole"
    write_question_set(tiny_base, DOCUMENTS, whole, OPTIONS)
    killed = tmp_path / "killed"
    write_question_set(tiny_base, DOCUMENTS[3:], killed, OPTIONS)
    # As kill -9 leaves it: half a line, and no set of what was finished.
    for name in ("corpus.jsonl.gz", "questions.jsonl.gz", "report.json"):
        (killed / name).unlink()
    with (killed / "written.jsonl").open("a") as file:
        file.write('{"id": "' + DOCUMENTS[0].id)
    writer.clear()
    report = write_question_set(tiny_base, DOCUMENTS, killed, OPTIONS)
    assert writer == [d.id for d in DOCUMENTS[:3]] and report["documents"] == 5
    sets = [load_question_set(folder).questions for folder in (whole, killed)]
    assert {q.id: q for q in sets[0]} == {q.id: q for q in sets[1]} and len(sets[0]) == 10
    writer.clear()
    before = (killed / "questions.jsonl.gz").read_bytes()
    write_question_set(tiny_base, DOCUMENTS, killed, OPTIONS)
    assert writer == [] and (killed / "questions.jsonl.gz").read_bytes() == before


def test_an_interrupted_run_leaves_the_set_of_what_is_finished(
    writer, answers, tiny_base, tmp_path
):
    right = answers["kv_cache"]

    def interrupted(question):
        if "Person 3" in question:
            raise KeyboardInterrupt
        return right(question)

    answers["kv_cache"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    assert len(load_question_set(tmp_path).documents) == 2  # the first batch


def test_a_second_process_is_refused(writer, answers, tiny_base, tmp_path):
    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(TimeoutError, match="which another process writes to, expected one"),
    ):
        write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    assert writer == [] and not (tmp_path / "written.jsonl").exists()


def test_other_settings_need_another_folder(writer, answers, tiny_base, tmp_path):
    write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    write_question_set(tiny_base, DOCUMENTS, tmp_path, replace(OPTIONS, limit=3, batch_size=8))
    with pytest.raises(ValueError, match=r"got .*most_overlap 0.9, not 1.0.*: expected the config"):
        write_question_set(tiny_base, DOCUMENTS, tmp_path, replace(OPTIONS, most_overlap=0.9))


def test_a_damaged_line_is_named_and_nothing_is_lost(writer, answers, tiny_base, tmp_path):
    write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    path = tmp_path / "written.jsonl"
    path.write_text(content := path.read_text() + "{}\n")
    with pytest.raises(ValueError, match=r"written.jsonl, line 6, that is no document with"):
        write_question_set(tiny_base, DOCUMENTS, tmp_path, OPTIONS)
    assert path.read_text() == content


def test_documents_are_drawn_and_left_out(tmp_path):
    corpus, titles = tmp_path / "corpus.jsonl", tmp_path / "titles.txt"
    rows = [{"title": f"t{n}", "text": f"text {n}"} for n in range(12)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    titles.write_text("t3\n")
    leave_out = LeaveOut(titles=str(titles), last_documents=3)  # t0 (again), t10, t11
    options = QuestionOptions(leave_out=leave_out)
    every = draw_documents(str(corpus), options)
    assert sorted(d.title for d in every) == sorted(f"t{n}" for n in (1, 2, 4, 5, 6, 7, 8, 9))
    assert draw_documents(str(corpus), replace(options, limit=4)) == every[:4]
    assert draw_documents(str(corpus), replace(options, seed=1)) != every
    with pytest.raises(ValueError, match=r"got no documents .* but those that are left out"):
        draw_documents(str(corpus), replace(options, leave_out=LeaveOut(last_documents=13)))


@pytest.mark.parametrize(
    "options", [{"per_document": 0}, {"limit": -1}, {"most_overlap": 1.1}, {"kinds": ("odd",)}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=r"got .* expected"):
        QuestionOptions(**options)
