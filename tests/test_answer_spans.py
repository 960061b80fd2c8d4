"""Answer spans: short, distinct, and spread over the document."""

from __future__ import annotations

from prag_core.answer_spans import choose_spans, split_sentences
from prag_core.documents import Document

LIGHT = Document(
    "Brannock Light is a lighthouse on the skerry of Ulvaset. It was designed by the engineer "
    "Ottoline Varga and first lit on 9 March 1867. The tower is built of green serpentine and "
    "rises 41 metres above the rock. The last keeper, Josiah Trewin, left the rock in 1988.",
    "Brannock Light",
    "light",
)
DYE = Document(
    "Pelagine is a violet dye. One gram requires the shells of 5,200 snails.", "Pelagine", "dye"
)


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
