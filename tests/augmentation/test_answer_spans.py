"""Answer spans: short, distinct, and spread over the document."""

from __future__ import annotations

from prag_core.augmentation.answer_spans import choose_spans, split_sentences
from tests.fixtures.invented_documents import LIGHT


def test_spans_are_short_distinct_and_spread():
    spans = choose_spans(LIGHT, 4)
    assert [s.sentence for s in spans] == split_sentences(LIGHT.text)
    assert {s.kind for s in spans} >= {"name", "date", "number"}
    more = [s.text for s in choose_spans(LIGHT, 50)]
    assert len(set(more)) == len(more) and all(len(text.split()) <= 4 for text in more)
    assert {"Ulvaset", "Ottoline Varga", "9 March 1867", "41 metres", "Josiah Trewin"} <= set(more)
    assert "Brannock Light" not in more and "Light" not in more
    assert all(s.sentence[s.start :].startswith(s.text) for s in choose_spans(LIGHT, 50))


def test_sentences_do_not_end_at_initials():
    text = "It was made by J. R. Oake. Dr. Lind died in 1900. Then? Yes."
    assert split_sentences(text) == [
        "It was made by J. R. Oake.", "Dr. Lind died in 1900.", "Then?", "Yes."
    ]  # fmt: skip
