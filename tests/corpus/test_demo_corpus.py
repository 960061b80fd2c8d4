"""The demo corpus: every answer is in its own document and nowhere else."""

from __future__ import annotations

import json
from importlib import resources

import pytest

DEMO = resources.files("prag_core") / "resources" / "demo"


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DEMO / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus() -> dict[str, dict]:
    return {row["id"]: row for row in read("corpus.jsonl")}


@pytest.fixture(scope="module")
def questions() -> list[dict]:
    return read("questions.jsonl")


def test_sizes(corpus, questions):
    assert len(corpus) == 12
    for row in corpus.values():
        assert 60 <= len(row["text"].split()) <= 110, row["id"]
    for source_id in corpus:
        assert 4 <= sum(q["gold_ids"] == [source_id] for q in questions) <= 5


def test_ids_are_unique_and_resolve(corpus, questions):
    assert len(corpus) == len(read("corpus.jsonl"))
    assert len({q["id"] for q in questions}) == len(questions)
    assert len({q["question"] for q in questions}) == len(questions)
    assert all(len(q["gold_ids"]) == 1 and q["gold_ids"][0] in corpus for q in questions)


def test_answers_occur_in_their_document_and_in_no_other(corpus, questions):
    for question in questions:
        assert question["golden_answers"]
        for answer in question["golden_answers"]:
            holders = [
                source_id
                for source_id, row in corpus.items()
                if answer.lower() in f"{row['title']} {row['text']}".lower()
            ]
            assert holders == question["gold_ids"], answer


def test_answers_are_short_and_not_in_their_question(questions):
    for question in questions:
        for answer in question["golden_answers"]:
            assert len(answer.split()) <= 6
            assert answer.lower() not in question["question"].lower()


def test_no_answer_is_shared(questions):
    answers = [answer.lower() for q in questions for answer in q["golden_answers"]]
    assert len(set(answers)) == len(answers)


def test_questions_name_their_document(corpus, questions):
    for question in questions:
        title = corpus[question["gold_ids"][0]]["title"]
        assert title.lower() in question["question"].lower()
