"""Analyzer: what counts as a word."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prag_core.retrieval.analyzer import analyze
from tests.fixtures.examples import examples


def test_analyzer():
    words, weak = analyze("The DOGS' owner’s dog_houses; who's running?")
    assert words == ["dog", "owner", "dog", "hous", "run"] and weak == ["the", "who"]
    assert analyze("What is it?") == ([], ["what", "is", "it"])
    assert analyze("do n't run") == (["run"], ["do"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ｃａｆé", "cafe\u0301"), ("straße ẞ", "STRASSE SS"), ("İstanbul", "istanbul"),
        ("ΟΔΟΣ", "οδός"), ("Łódź Malmø", "Lodz Malmo"), ("\ufeffde\u00adsk", "desk"),
        ("iPhone™", "iphone"), ("١٩٨٤", "1984"), ("1\u00a0840", "1840"), ("3,5", "3.5"),
        ("أحمد الـكتاب", "احمد الكتاب"), ("שָׁלוֹם", "שלום"), ("ज़मीन", "जमीन"),
        ("ｶﾞｲﾄﾞ", "ガイド"), ("l’homme", "homme"), ("O'Brien", "OBrien"), ("don't isn't", "do is"),
    ],
)  # fmt: skip
def test_what_looks_alike_is_one_term(one, other):
    assert analyze(one) == analyze(other)


def test_a_digit_that_python_does_not_know_stays():
    assert analyze("\U00010d40 7") == (["\U00010d40", "7"], [])  # of Unicode 16


def test_letters_that_differ_stay_apart():
    for one, other in (("か", "が"), ("दिन", "दीन"), ("น้ำ", "นา"), ("C", "C++"), ("C#", "C++")):
        assert analyze(one) != analyze(other)
    assert {"f16", "at&t", "us", ".net"} <= set(analyze("F-16 AT&T U.S. .NET").words)


@settings(max_examples=examples(200), deadline=None)
@given(st.text(st.characters(), max_size=30) | st.text("aBnts1.,-+#&' _東のé\u0301", max_size=15))
def test_any_text_has_its_terms(text):
    words, weak = analyze(text)
    assert all(term and not any(map(str.isspace, term)) for term in words + weak)
    for form in ("NFC", "NFD"):  # the one encoding or the other
        assert analyze(unicodedata.normalize(form, text)) == (words, weak)
    assert analyze(text + "\u200b") == (words, weak)  # the way of ASCII is that of all scripts
