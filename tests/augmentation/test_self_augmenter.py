"""Self-augmentation: what parses counts, what does not is asked again and reported."""

from __future__ import annotations

from functools import partial

import pytest

from prag_core.augmentation import self_augmenter
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.self_augmenter import (
    QA_PAIRS,
    SelfAugmenter,
    ask_rewrites,
    keeps_details,
    parse_qa_pairs,
)
from prag_core.augmentation.span_augmenter import SpanAugmenter
from prag_core.corpus.documents import Document
from tests.fixtures.invented_documents import DYE, LIGHT

PAIRS = (
    '[{"question": "Who built it?", "answer": "Varga"}, {"question": "When?", "answer": "1867"}]'
)


def scripted(monkeypatch, *replies):
    """Let each call of `generate` in self_augmenter answer every prompt with the next reply."""
    calls = []

    def fake(base, prompts, options):
        reply = replies[min(len(calls), len(replies) - 1)]
        calls.append((list(prompts), options))
        return [reply(p) if callable(reply) else reply for p in prompts]

    monkeypatch.setattr(self_augmenter, "generate_fitting", fake)
    return calls


@pytest.mark.parametrize(
    "text",
    [
        PAIRS,
        f"Sure! Here you are:\n```json\n{PAIRS}\n```",
        PAIRS[:-1] + ', {"question": "Cut o',
        PAIRS[:-1] + ', {"question": "No answer?"}, {"question": "Who built it?", "answer": "X"}]',
        f'{{"questions": {PAIRS}}}',
        '{"q1": {"question": "Who built it?", "answer": "Varga"}, '
        '"q2": {"question": "When?", "answer": "1867"}}',
    ],
)
def test_parse_qa_pairs_takes_what_is_whole(text):
    assert parse_qa_pairs(text) == (QAPair("Who built it?", "Varga"), QAPair("When?", "1867"))


def test_full_answers_are_read_and_asked_for():
    text = '[{"question": "Who?", "answer": "Ida", "full_answer": " Ida built it."}]'
    assert parse_qa_pairs(text) == (QAPair("Who?", "Ida", "Ida built it."),)
    assert '"full_answer"' in QA_PAIRS.format(count=3, passage="x")


def test_lists_and_numbers_are_answers_and_nothing_is_none():
    answers = ('["Ida", 3]', "0", "null", "[]")
    text = ",".join(f'{{"question": "{i}?", "answer": {a}}}' for i, a in enumerate(answers))
    assert parse_qa_pairs(text) == (QAPair("0?", "Ida, 3"), QAPair("1?", "0"))


def test_self_retries_hotter_and_only_what_is_missing(monkeypatch, tiny_base):
    def second(prompt):
        return PAIRS if "Brannock" in prompt else "no JSON"

    calls = scripted(monkeypatch, second)
    augmenter = SelfAugmenter(tiny_base, rewrites=0, qa_pairs=2, retries=2)
    light, dye = augmenter.augment([LIGHT, DYE])
    assert [len(prompts) for prompts, _ in calls] == [2, 1, 1]
    temperatures = [options.temperature for _, options in calls]
    assert temperatures[0] == 0 and temperatures == sorted(set(temperatures))
    assert len(light.qa_pairs) == 2 and light.error == ""
    assert dye.qa_pairs == () and "got 0 question-answer pairs in 3 attempts" in dye.error


def test_self_keeps_pairs_of_all_attempts(monkeypatch, tiny_base):
    first = '{"question": "A?", "answer": "1"}'
    scripted(monkeypatch, first, '{"question": "B?", "answer": "2"}')
    augmented = SelfAugmenter(tiny_base, rewrites=0, qa_pairs=2).augment([DYE])[0]
    assert augmented.qa_pairs == (QAPair("A?", "1"), QAPair("B?", "2"))


def test_self_leaves_the_passage_its_half_of_the_context(monkeypatch, tiny_base):
    calls = scripted(monkeypatch, "[]")
    SelfAugmenter(tiny_base, rewrites=0, qa_pairs=1000, retries=0).augment([DYE])
    ((_, options),) = calls
    assert options.max_new_tokens == tiny_base.context_length // 2


def test_self_reports_a_document_beyond_the_context(tiny_base):
    augmenter = SelfAugmenter(tiny_base, rewrites=1, qa_pairs=1, retries=0)
    augmented = augmenter.augment([Document("word " * 500)])[0]
    assert augmented.rewrites == () and augmented.qa_pairs == ()
    assert "exceeds the context" in augmented.error and "0 question-answer" in augmented.error


def test_self_runs_on_a_real_model(tiny_base):
    augmented = SelfAugmenter(tiny_base, rewrites=1, qa_pairs=1, retries=1).augment([DYE])
    assert augmented[0].document == DYE


@pytest.mark.parametrize("kind", [SelfAugmenter, SpanAugmenter])
def test_fingerprint_follows_the_settings_and_counts_are_checked(kind, tiny_base):
    make = partial(kind, tiny_base) if kind is SelfAugmenter else kind
    prints = [make(1, 3), make(2, 3), make(1, 4)]
    assert len({augmenter.fingerprint for augmenter in prints}) == 3
    assert make().fingerprint == prints[0].fingerprint
    with pytest.raises(ValueError, match=r"got -1 rewrites and 3 .* expected 0 or more"):
        make(rewrites=-1)


def test_keeps_details():
    reworded = LIGHT.text.replace("is a lighthouse", "stands as a lighthouse")
    assert keeps_details(LIGHT.text, reworded)
    assert not keeps_details(LIGHT.text, LIGHT.text)
    assert not keeps_details(LIGHT.text, reworded[:80])
    assert not keeps_details(LIGHT.text, reworded.replace("41", "77"))
    assert keeps_details(LIGHT.text, f'{reworded[:-1]}!"')
    assert not keeps_details(LIGHT.text, reworded[:-10])  # cut off


def test_a_rewrite_has_a_limit_of_its_own_document(monkeypatch, tiny_base):
    calls = scripted(monkeypatch, "")
    long = Document("A keeper kept goats. " * 8)
    for documents in ([DYE, long], [long, DYE], [DYE]):
        ask_rewrites(tiny_base, documents, 1)
    (small, large), (large_first, small_last), (alone,) = (options for _, options in calls)
    assert alone == small == small_last != large == large_first
    assert alone.max_new_tokens == len(f"{DYE.title}: {DYE.text}") * 5 // 4  # a token a byte


def test_a_rewrite_that_repeats_itself_is_refused(monkeypatch, tiny_base):
    good = LIGHT.text.replace("is a lighthouse", "stands as a lighthouse")
    for text, kept in ((good, (good,)), ("Brannock Light: " * 30, ())):
        scripted(monkeypatch, text)
        augmented = SelfAugmenter(tiny_base, rewrites=1, qa_pairs=0).augment([LIGHT])[0]
        assert augmented.rewrites == kept
        assert ("got no rewrite that keeps the facts" in augmented.error) is (not kept)


def test_the_example_of_the_prompt_is_no_pair():
    assert parse_qa_pairs(QA_PAIRS.format(count=3, passage="x")) == ()
