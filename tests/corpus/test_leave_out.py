"""What is kept for measuring: articles, relations, the last documents."""

from __future__ import annotations

import json

import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import Question, QuestionSet

BOTH = LeaveOut(relations=("occupation", "place of birth"))


@pytest.mark.parametrize(
    "question",
    [
        "What is Ida Brandt's occupation?",
        "What does Ida Brandt do for a living?",
        "What did Ida Brandt do?",
        "Who was Ida Brandt?",
        "What is Ida Brandt known for?",
        "Which PROFESSION did she have?",
        "In what city was Ida Brandt born?",
        "Where was Ida Brandt born?",
        "Brandt was born in which village?",
        "What is her birthplace?",
        "Where does Ida Brandt come from?",
        "Where is Ida Brandt from?",
        "Who was born in Ulm?",
        "What kind of scientist is Ida Brandt?",
        "What type of artist was Brandt?",
        "What kind of work does Ida Brandt do?",
        "What is Brandt by trade?",
        "How does she earn her living?",
        "What is Ida Brandt famous for?",
        "What else was Brandt known as?",
        "What is Brandt's position?",
        "In what city did Ida Brandt grow up?",
        "In which hospital was Ida Brandt born?",
        "What is Ida Brandt's native city?",
        "What city was Ida Brandt from?",
        "Brandt is from which city?",
        "In what year and city was Ida Brandt born?",
        "On what date and where was she born?",
        "In what year was Ida Brandt born in Ulm?",
        "Where was Ida Brandt raised?",
    ],
)
def test_relations_are_recognised_however_they_are_asked(question):
    assert BOTH.asks(question)
    assert not LeaveOut().asks(question)


@pytest.mark.parametrize(
    "question",
    [
        "When was Ida Brandt born?",
        "Who was the first bishop of Ulm?",
        "What is a bilaterian?",
        "Where is Ulm located?",
        "Who directed Glass?",
        "What is Ida Brandt's nationality?",
        "In what year was Ida Brandt born?",
        "What type of work is Glass?",
        "What did Ulm trade with Genoa?",
    ],
)
def test_other_questions_stay(question):
    assert not BOTH.asks(question)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is Ida Brandt?", "German poet"),
        ("What is ida?", "a volleyball player"),
        ("What were the Brandts?", "businessmen"),
        ("Who is it?", "biologist"),
        ("What is Ida Brandt?", "Poet"),
        ("What are they?", "secretaries"),
        ("What did Ida become?", "a politician"),
        ("What kind of person is she?", "the first singer-songwriter"),
    ],
)
def test_an_occupation_is_recognised_by_the_answer(question, answer):
    assert BOTH.asks(question, ["Brandt", answer])
    assert not BOTH.asks(question, ["a checklist", "a poet's house", "human"])
    assert not BOTH.asks("Who found it?", [answer])


def test_one_relation_alone():
    assert LeaveOut(relations=("occupation",)).asks("What is her job?")
    assert not LeaveOut(relations=("occupation",)).asks("Where was she born?")


def test_remaining_leaves_out_the_last_documents_and_their_copies(tmp_path):
    path = tmp_path / "corpus.jsonl"
    texts = ["one", "five", "two", "four", "five"]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def remaining(count: int) -> list[str]:
        return [document.text for document in LeaveOut(last_documents=count).remaining(path)]

    assert remaining(2) == ["one", "two"]
    assert remaining(9) == []
    assert remaining(0) == texts


def test_documents_without_title_are_held_out_one_by_one():
    documents = tuple(Document(f"Town {i} has a mill.", source_id=f"d{i}") for i in range(6))
    questions = tuple(Question(f"q{i}", "Where?", ("a",), (d.id,)) for i, d in enumerate(documents))
    kept = LeaveOut().questions(QuestionSet("towns", documents, questions), held_out=2)
    assert len(kept) == 4


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got relations \['age'\].*expected relations among occu"):
        LeaveOut(relations=("age",))
    (tmp_path / "titles.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="got no titles in"):
        _ = LeaveOut(titles=str(tmp_path / "titles.txt")).articles


def test_last_documents_are_of_a_corpus():
    with pytest.raises(ValueError, match=r"got leave_out\.last_documents 4 for a"):
        LeaveOut(last_documents=4).questions(QuestionSet("s", (), ()))


def test_a_byte_order_mark_is_no_part_of_the_first_title(tmp_path):
    (tmp_path / "titles.txt").write_bytes("\ufeffOss\r\nTarn\r\n".encode())
    assert LeaveOut(titles=str(tmp_path / "titles.txt")).articles == {"Oss", "Tarn"}
