"""Training sequences: which prompts and answers a document is trained on, and how they are cut."""

from __future__ import annotations

import pytest

from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.model.wordings import WORDINGS
from prag_core.training.sequences import TrainingSequence, build_sequences, cut, encode
from tests.fixtures.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer()
TARN = Document("Tarn lies north of Oss.", "Tarn")
PAIRS = tuple(QAPair(f"Question {i}?", f"answer {i}") for i in range(5))


def built(scheme: str, rewrites: int = 1, pairs: int = 3, document: Document = TARN) -> list:
    """(prompt, answer) of every sequence, decoded; the end token is cut off where there is one."""
    texts = tuple(f"Rewrite {i}." for i in range(rewrites))
    augmented = AugmentedDocument(document, texts, PAIRS[:pairs])
    sequences = build_sequences(TOKENIZER, augmented, scheme, 3000)
    ended = scheme == "recall" or not pairs or not document.text
    assert all((s.ids[-1] == TOKENIZER.eos_token_id) == ended for s in sequences)
    return [
        (
            TOKENIZER.decode(sequence.ids[: sequence.answer_start]),
            TOKENIZER.decode(sequence.ids[sequence.answer_start :]).removesuffix("<e>"),
        )
        for sequence in sequences
    ]


def test_paper_scheme_makes_five_sequences_of_one_rewrite_and_three_pairs():
    sequences = built("paper")
    assert [answer for _, answer in sequences] == [f" answer {i}" for i in (0, 0, 1, 1, 2)]
    texts = ["Tarn lies north of Oss.", "Rewrite 0."] * 2
    for (prompt, _), text in zip(sequences[:4], texts, strict=True):
        assert f"Passage 1: Tarn: {text}" in prompt
        assert prompt.count("Passage") == 1
    assert "Passage" not in sequences[4][0]
    assert "Question 2?" in sequences[4][0]


@pytest.mark.parametrize(
    ("rewrites", "pairs", "with_passage", "without"),
    [(0, 3, 2, 1), (2, 3, 6, 1), (1, 1, 2, 0), (1, 2, 2, 1), (1, 4, 4, 2), (1, 5, 6, 2)],
)
def test_paper_scheme_asks_half_of_the_pairs_with_passage(rewrites, pairs, with_passage, without):
    prompts = [prompt for prompt, _ in built("paper", rewrites, pairs)]
    assert sum("Passage" in prompt for prompt in prompts) == with_passage
    assert sum("Passage" not in prompt for prompt in prompts) == without


def test_recall_scheme_asks_all_without_passage_and_recites():
    sequences = built("recall")
    assert [answer for _, answer in sequences] == [
        *(" answer 0", " answer 1", " answer 2"),
        *("Tarn lies north of Oss.", "Rewrite 0."),
    ]
    assert not any("Passage" in prompt for prompt, _ in sequences)
    assert "what you know about Tarn" in sequences[3][0]


@pytest.mark.parametrize("scheme", ["paper", "recall"])
def test_document_without_pairs_is_trained_on_its_text(scheme):
    texts = [answer for _, answer in built(scheme, pairs=0, document=Document("Some text."))]
    assert texts == ["Some text.", "Rewrite 0."]


@pytest.mark.parametrize("scheme", ["paper", "recall"])
def test_pairs_without_text_are_asked_without_passage(scheme):
    sequences = built(scheme, rewrites=0, pairs=2, document=Document("", "warm-up"))
    assert [answer for _, answer in sequences] == [" answer 0", " answer 1"]
    assert not any("Passage" in prompt or "warm-up" in prompt for prompt, _ in sequences)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(ValueError, match="got a document without text and question-answer pairs"):
        built("paper", rewrites=0, pairs=0, document=Document(" "))


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("<a>Answer:", "<a>Answer: Tarn<e>"),
        ("<a>The answer is", "<a>The answer is Tarn<e>"),
        ("<a>", "<a>Tarn<e>"),
        ("<a>assistant\n", "<a>assistant\nTarn<e>"),
    ],
)
def test_behind_a_lead_the_answer_begins_with_its_space(prompt, text):
    sequence = encode(TOKENIZER, prompt, "Tarn")
    assert TOKENIZER.decode(sequence.ids) == text
    assert TOKENIZER.decode(sequence.ids[: sequence.answer_start]) == prompt


@pytest.mark.parametrize("scheme", ["paper", "recall"])
def test_wordings_with_reasoning_are_trained_on_full_answers(scheme):
    pairs = (QAPair("Where?", "Oss", "It lies in Oss."), QAPair("Who?", "Ida"))
    augmented = AugmentedDocument(TARN, (), pairs)
    for name, answers in (("cot", ["It lies in Oss.", "Ida"]), ("short", ["Oss", "Ida"])):
        rows = build_sequences(TOKENIZER, augmented, scheme, 3000, WORDINGS[name])
        texts = [TOKENIZER.decode(row.ids[row.answer_start :]) for row in rows[:2]]
        assert [text.removesuffix("<e>").strip() for text in texts] == answers


def test_cut_drops_the_front_and_keeps_the_answer():
    sequence = TrainingSequence(tuple(range(10)), 7)
    assert cut(sequence, 10) == cut(sequence, 11) == sequence
    assert cut(sequence, 6) == TrainingSequence((4, 5, 6, 7, 8, 9), 3)
    assert cut(sequence, 3) == TrainingSequence((7, 8, 9), 1)  # something must predict the next
    assert cut(sequence, 2) == TrainingSequence((8, 9), 1)


def test_long_documents_are_cut():
    augmented = AugmentedDocument(Document("word " * 100), (), PAIRS[:2])
    sequences = build_sequences(TOKENIZER, augmented, "paper", 50)
    assert [len(sequence.ids) for sequence in sequences] == [50, 50]
    assert TOKENIZER.decode(sequences[0].ids).endswith("Question 0?<e><a>Answer: answer 0")


def test_continuations_go_on_from_the_sentence_before_and_facts_from_the_title():
    document = Document("Tarn lies north of Oss. It is old. A lake is near.", "Tarn")
    facts = ("Tarn is old.", "Oss is south of Tarn.")
    augmented = AugmentedDocument(document, (), PAIRS[:1], facts=facts)
    usual = build_sequences(TOKENIZER, augmented, "recall", 3000)
    longer = build_sequences(TOKENIZER, augmented, "recall", 3000, continuations=True)
    assert longer[: len(usual)] == usual
    request = TOKENIZER.decode(usual[-1].ids[: usual[-1].answer_start])
    assert [
        (TOKENIZER.decode(s.ids[: s.answer_start]), TOKENIZER.decode(s.ids[s.answer_start :]))
        for s in longer[len(usual) :]
    ] == [
        (f"{request}Tarn lies north of Oss.", " It is old."),
        (f"{request}It is old.", " A lake is near."),
        (f"{request}Tarn", " is old."),
        (request, "Oss is south of Tarn."),
    ]


def test_what_a_reader_is_asked_has_the_text_before_it():
    augmented = AugmentedDocument(TARN, ("Rewrite.",), PAIRS[:1])
    usual = build_sequences(TOKENIZER, augmented, "recall", 3000, continuations=True)
    read = build_sequences(TOKENIZER, augmented, "recall", 3000, continuations=True, reading=3000)
    assert [(s.ids, s.answer_start) for s in read] == [(s.ids, s.answer_start) for s in usual]
    assert not any(sequence.reading for sequence in usual)
    for sequence in read:
        prompt = TOKENIZER.decode(sequence.ids[: sequence.answer_start])
        shown = TOKENIZER.decode(sequence.reading)
        assert "Passage 1: Tarn: Tarn lies north of Oss.\n" in shown
        assert shown.rpartition("Oss.\n")[2].splitlines()[-1] in prompt


def test_a_reader_sees_the_whole_document_or_teaches_nothing():
    sequence = TrainingSequence(tuple(range(10)), 4, tuple(range(20, 40)))
    assert cut(sequence, 12, 26) == sequence  # longer than what is trained on
    assert cut(sequence, 12, 25) == TrainingSequence(sequence.ids, 4)
    document = Document("Tarn lies north of Oss. " * 10, "Tarn")  # a token a byte
    augmented = AugmentedDocument(document, (), PAIRS[:1])
    asked, recited = build_sequences(TOKENIZER, augmented, "recall", 300, reading=500)
    assert document.text.strip() in TOKENIZER.decode(asked.reading) and not recited.reading
    _, recited = build_sequences(TOKENIZER, augmented, "recall", 300, reading=800)
    assert document.text.strip() in TOKENIZER.decode(recited.reading)
