"""Analyzer: what counts as a word."""

from __future__ import annotations

from prag_core.retrieval.analyzer import analyze


def test_analyzer():
    assert analyze("The DOGS' owner’s dog_houses; who's running?") == [
        "dog", "owner", "dog", "hous", "who", "run"
    ]  # fmt: skip
    assert analyze("What is it?") == []
