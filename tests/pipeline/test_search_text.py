"""Search text: what documents are searched for, of conversations and of texts to go on from."""

from __future__ import annotations

import pytest

from prag_core.corpus.questions import Question
from prag_core.model.prompts import Continuation
from prag_core.pipeline.search_text import as_questions, search_text

TARN = ("Who painted the lighthouse of Tarn?", "Jon Belk")


def conversation(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


@pytest.mark.parametrize(
    "last", ["And in which year was that?", "When?", "Was he born in Berlin?", "Tell me more"]
)
def test_a_turn_that_refers_back_brings_what_it_refers_to(last):
    assert set(search_text(conversation(*TARN, last)).splitlines()) == {*TARN, last}
    text = search_text(conversation(*TARN, "Who was he?", "A painter", last))
    assert {*TARN, last} <= set(text.splitlines())


@pytest.mark.parametrize(
    "last",
    [
        "Who founded the bakery in Ostrel?", "what is radium", "What about Ostrel?",
        "Who was Ada Lovelace, and when did she die?", "Who designed the ships that fought?",
    ],
)  # fmt: skip
def test_a_new_subject_is_searched_for_alone(last):
    assert search_text(conversation(*TARN, last)) == last


def test_other_scripts_refer_back_too():
    assert "故宫" in search_text(conversation("故宫在哪里？", "北京", "它建于哪一年？"))


@pytest.mark.parametrize(
    "last",
    [
        "Und in welchem Jahr war das?", "In welchem Jahr?", "Wo wurde er geboren?",
        "Et en quelle année ?", "C'était quand ?", "¿Y en qué año fue eso?", "E in che anno?",
        "En in welk jaar was dat?", "哪一年？", "为什么？", "いつですか？", "언제입니까?",
    ],
)  # fmt: skip
def test_a_turn_refers_back_in_other_languages_too(last):
    assert set(search_text(conversation(*TARN, last)).splitlines()) == {*TARN, last}


@pytest.mark.parametrize(
    "last",
    ["Wer hat die Brücke von Oss gebaut?", "Qui a fondé Ostrel ?", "¿Quién fundó Ostrel?"],
)
def test_a_new_subject_in_other_languages_is_searched_for_alone(last):
    assert search_text(conversation(*TARN, last)) == last


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who baked? Mira\nWho painted Tarn?", "Who painted Tarn?"),
        ("1. Who baked?\nMira\n2. Who painted Tarn?\n", "2. Who painted Tarn?"),
        ("France => Paris\nTarn =>", "Tarn =>"),
        ("Tarn is far.\nWho painted it?", "Tarn is far.\nWho painted it?"),
        ("Q: a one?\nA: b\n\nQ: who painted Tarn?\nA:", "who painted Tarn?"),
        ("Q: a\nA: b\nQ: who painted it?\nA:", "who painted it?"),
        ("Question: a\nAnswer: b\n\nQuestion: who?\nOf Tarn?\nAnswer:", "who?\nOf Tarn?"),
        ("What is X?\nAnswer: Y\nWhat is Zed?\nAnswer: The", "What is Zed?"),
        ("English: cat\nFrench: chat\n\nEnglish: dog\nFrench:", "dog"),
        ("Q: a A: b Q: who painted Tarn? A:", "who painted Tarn?"),
        ("Context: much text\nQuestion: Who?\nAnswer:", "Who?"),
        ("The lighthouse of Tarn was painted by", "The lighthouse of Tarn was painted by"),
        ("A bakery.\n\nThe lighthouse of Tarn", "The lighthouse of Tarn"),
        ("The lighthouse.\n\nIt", "The lighthouse.\n\nIt"),
        ("", ""),
    ],
)
def test_shots_are_searched_for_the_question_at_their_end(text, expected):
    assert search_text(Continuation(text)) == expected


def test_questions_in_any_shape():
    turns = [{"role": "user", "content": "Who?"}]
    assert as_questions("Who?") == as_questions(["Who?"]) == ["Who?"]
    assert as_questions([Question("1", "Who?", ())]) == ["Who?"]
    assert as_questions(turns) == as_questions([turns]) == [turns]
    assert as_questions(Continuation("Who")) == [Continuation("Who")]
    for wrong in (None, {"question": "Who?"}, ["Who?", None], b"a"):
        with pytest.raises(ValueError, match=r"got a \w+.*, expected"):
            as_questions(wrong)


def test_a_turn_without_content_is_empty():
    asked = {"role": "user", "content": "Who?"}
    turns = [asked, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, asked]
    assert as_questions(turns) == [[asked, {"role": "assistant", "content": ""}, asked]]
    for wrong in ({"role": "user"}, {"content": "Who?"}, {"role": "user", "content": [1]}, "Who?"):
        with pytest.raises(ValueError, match="expected turns of role and content"):
            as_questions([[asked, wrong]])


def test_paragraphs_without_words_go_with_the_last_one_that_has_some():
    text = Continuation("The mill.\n\nThe bridge of Oss\n\n---\n\n...")
    assert search_text(text) == "The bridge of Oss\n\n---\n\n..."
