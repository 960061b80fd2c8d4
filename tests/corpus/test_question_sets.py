"""Tests of question sets: gold ids, limits, sampling, bad input."""

from __future__ import annotations

import gzip
import random
from collections import Counter
from pathlib import Path

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import (
    Question,
    QuestionSet,
    chunk_question_set,
    load_question_set,
)
from tests.fixtures.question_sets import write
from tests.fixtures.tiny import byte_tokenizer


@pytest.fixture
def folder(tmp_path) -> Path:
    corpus = [{"id": f"d{i}", "title": f"T{i}", "text": f"Text {i}."} for i in range(6)]
    questions = [
        {
            "id": f"q{i}",
            "question": f"Q{i}?",
            "golden_answers": [f"A{i}"],
            "gold_ids": [f"d{i % 4}"],
        }
        for i in range(8)
    ]
    write(tmp_path / "set" / "corpus.jsonl", corpus)
    write(tmp_path / "set" / "questions.jsonl", questions)
    return tmp_path / "set"


def test_folder_links_gold_ids_to_documents(folder):
    question_set = load_question_set(folder)
    assert question_set.name == "set"
    assert (len(question_set.documents), len(question_set.questions)) == (6, 8)
    for i, question in enumerate(question_set.questions):
        [gold_id] = question.gold_ids
        assert question_set.documents_by_id[gold_id].source_id == f"d{i % 4}"
    assert question_set.questions[0] == Question(
        "q0", "Q0?", ("A0",), (Document("Text 0.", "T0").id,)
    )


def test_gzip_folder_equals_plain_folder(folder):
    plain = load_question_set(folder)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load_question_set(folder) == plain


def test_limit_keeps_the_corpus(folder):
    limited = load_question_set(folder, limit=2)
    assert [q.id for q in limited.questions] == ["q0", "q1"]
    assert len(limited.documents) == 6
    with pytest.raises(ValueError, match="got limit 0, expected 1 or more"):
        load_question_set(folder, limit=0)


def test_split_names_the_questions_file(folder):
    (folder / "questions.jsonl").rename(folder / "dev.jsonl")
    assert len(load_question_set(folder, split="dev").questions) == 8
    with pytest.raises(ValueError, match=r"expected questions\.jsonl or BEIR's queries\.jsonl"):
        load_question_set(folder)


def test_path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder, a file, or a hub name"):
        load_question_set(tmp_path / "nowhere.json")


def test_missing_gold_ids(folder):
    lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
    (folder / "corpus.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(
        ValueError,
        match=r"got 2 gold ids that are not among the 5 documents.*\['d0', 'd0'\]",
    ) as error:
        load_question_set(folder)
    assert "add these documents" in str(error.value)
    counts = Counter()
    kept = load_question_set(folder, skip_bad=True, counts=counts)
    assert [q.id for q in kept.questions] == ["q1", "q2", "q3", "q5", "q6", "q7"]
    assert counts["missing_gold"] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", r"questions\.jsonl, line 9: malformed JSON"),
        ('{"id": "x", "text": "t"}', r"line 9: got the fields id, text, expected question and"),
        ('{"id": "q0", "question": "Q?", "golden_answers": ["a"]}', r"question id 'q0' twice"),
        ("[3]", "line 9: got a JSON list, expected an object"),
    ],
)
def test_bad_questions(folder, line, message):
    with (folder / "questions.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        load_question_set(folder)
    counts = Counter()
    assert len(load_question_set(folder, skip_bad=True, counts=counts).questions) == 8
    assert counts["bad"] == 1


def test_one_id_on_two_documents(folder):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"id": "d0", "text": "Something else."}\n')
    with pytest.raises(ValueError, match="got the id 'd0' on two different documents of set"):
        load_question_set(folder)


def test_duplicate_documents_share_their_gold_ids(folder):
    with (folder / "corpus.jsonl").open("a") as file:
        file.write('{"id": "d9", "title": "T0", "text": "Text 0."}\n')
    with (folder / "questions.jsonl").open("a") as file:
        file.write('{"question": "Q?", "answer": "a", "gold_ids": ["d9"]}\n')
    counts = Counter()
    question_set = load_question_set(folder, counts=counts)
    assert question_set.questions[-1].gold_ids == question_set.questions[0].gold_ids
    assert (len(question_set.documents), counts["duplicate"]) == (6, 1)
    assert question_set.aliases == {"d9": Document("Text 0.", "T0").id}
    assert question_set.sample(2, seed=1).aliases == question_set.aliases


def test_no_questions(tmp_path):
    with pytest.raises(ValueError, match="got no questions in"):
        load_question_set(write(tmp_path / "a.json", []))


def test_sample(folder):
    whole = load_question_set(folder)
    sample = whole.sample(2, seed=1)
    assert sample == whole.sample(2, seed=1)
    assert len({whole.sample(2, seed).documents for seed in range(10)}) > 1
    assert len(sample.documents) == 2
    assert len(sample.questions) == 4  # every document has two
    assert {i for q in sample.questions for i in q.gold_ids} == set(sample.documents_by_id)
    kept = whole.sample(2, seed=1, keep_corpus=True)
    assert (kept.documents, kept.questions) == (whole.documents, sample.questions)
    with pytest.raises(ValueError, match="got documents 5, expected 1 to 4"):
        whole.sample(5, seed=1)


def test_sample_of_short_documents_in_the_order_drawn():
    documents = tuple(Document("word " * (n + 1), source_id=str(n)) for n in range(20))
    questions = tuple(
        Question(f"{n}{k}", "Q?", ("a",), (documents[n].id,)) for n in range(20) for k in "ab"
    )
    whole = QuestionSet("s", documents, questions)
    sample = whole.sample(6, seed=0, most_words=9)
    drawn = random.Random(0).sample(range(9), 6)
    assert [int(d.source_id) for d in sample.documents] == drawn
    assert len(sample.questions) == 12 and len(whole.sample(0, 0, most_words=3).documents) == 3
    with pytest.raises(ValueError, match="that have questions and at most 2 words"):
        whole.sample(3, seed=0, most_words=2)


@pytest.mark.parametrize("seed", [0, 1])
def test_sample_of_questions_is_in_order(seed):
    questions = tuple(Question(str(n), "Q?", ("a",)) for n in range(40))
    whole = QuestionSet("s", (), questions)
    sample = whole.sample_questions(9, seed)
    places = [int(question.id) for question in sample.questions]
    assert len(places) == 9 and places == sorted(places)
    assert sample != whole.sample_questions(9, seed + 2)
    assert whole.sample_questions(0, seed) == whole.sample_questions(99, seed) == whole


def test_sample_of_multi_hop_questions_has_every_gold_document():
    documents = tuple(Document(f"Text {i}.") for i in range(6))
    questions = tuple(
        Question(str(i), "Q?", ("a",), (documents[i].id, documents[i + 1].id)) for i in range(5)
    )
    sample = QuestionSet("s", documents, questions).sample(1, seed=0)
    assert 2 <= len(sample.documents) <= 3
    assert all(i in sample.documents_by_id for q in sample.questions for i in q.gold_ids)


@pytest.mark.parametrize(
    ("answers", "places"),
    [
        (("10",), [3]),  # not "1310"
        (("no",), [3]),  # not "known"
        (("1310", "NO!"), [0, 3]),
        (("13",), [0, 1, 2, 3]),  # part of a word: as if there were no answer
        ((), [0, 1, 2, 3]),
    ],
)
def test_gold_chunks_hold_an_answer_as_whole_words(answers, places):
    texts = ("Ulm had 1310 mills.", "It is known.", "Rye grows.", "No, 10 stand.")
    document = Document(" ".join(texts))
    asked = Question("q", "How many stand?", answers, (document.id,))
    cut = chunk_question_set(QuestionSet("s", (document,), (asked,)), byte_tokenizer(), 19)
    assert [d.text for d in cut.documents] == [*texts]
    assert cut.questions[0].gold_ids == tuple(cut.documents[place].id for place in places)


def test_chunks_of_a_gold_document_without_the_answer_stand_behind_those_with_it():
    bridge = Document("Ida wrote Tarn. She lived long.")
    answering = Document("Tarn is a book. Of 1934 it is.")
    asked = Question("q", "Of when is Ida's book?", ("1934",), (bridge.id, answering.id))
    whole = QuestionSet("s", (bridge, answering), (asked,))
    cut = chunk_question_set(whole, byte_tokenizer(), 16)
    gold = [cut.documents_by_id[i].text for i in cut.questions[0].gold_ids]
    assert gold == ["Of 1934 it is.", "Ida wrote Tarn.", "She lived long."]
