"""Augmentation: records, files, the cache, spans, questions by rule, and both model strategies."""

from __future__ import annotations

import json

import pytest

from prag_core import self_augmentation, span_augmentation
from prag_core.answer_spans import choose_spans, find_details, split_sentences
from prag_core.augmentation import (
    AugmentedDocument,
    CachedAugmenter,
    FileAugmenter,
    QAPair,
    read_qa_pairs,
)
from prag_core.documents import Document
from prag_core.rule_questions import question_words, rule_question
from prag_core.self_augmentation import SelfAugmenter, parse_qa_pairs
from prag_core.span_augmentation import (
    SpanAugmenter,
    choose_pairs,
    is_plausible,
    keeps_details,
    rule_rewrite,
)

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
PAIRS = (
    '[{"question": "Who built it?", "answer": "Varga"}, {"question": "When?", "answer": "1867"}]'
)


class MemoryStore:
    """Records in a dict, through JSON as in a real store."""

    def __init__(self):
        self.records = {}

    def get_record(self, kind, key):
        text = self.records.get((kind, key))
        return text and json.loads(text)

    def put_record(self, kind, key, record):
        self.records[kind, key] = json.dumps(record)


class CountingAugmenter:
    """Augments with fixed pairs; fails at a document when told to."""

    fingerprint = "counting"

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = [], fail_at

    def augment(self, documents):
        for document in documents:
            if document.text == self.fail_at:
                raise KeyboardInterrupt
            self.seen.append(document.text)
        return [
            AugmentedDocument(d, (f"{d.text}!",), (QAPair("q?", d.text),), "e") for d in documents
        ]


def scripted(monkeypatch, module, *replies):
    """Let each call of `generate` in self_augmentation answer every prompt with the next reply."""
    calls = []

    def fake(base, prompts, options):
        reply = replies[min(len(calls), len(replies) - 1)]
        calls.append((list(prompts), options))
        return [reply(p) if callable(reply) else reply for p in prompts]

    monkeypatch.setattr(module, "generate_fitting", fake)
    return calls


# Cache


def test_cache_returns_the_same_and_asks_once():
    store, inner = MemoryStore(), CountingAugmenter()
    documents = [Document("a"), Document("b"), Document("a")]
    first = CachedAugmenter(inner, store).augment(documents)
    again = CachedAugmenter(CountingAugmenter(fail_at="a"), store).augment(documents)
    assert first == again == [inner.augment([d])[0] for d in documents]
    assert inner.seen[:2] == ["a", "b"] and len(store.records) == 2


def test_cache_resumes_after_an_interruption():
    store = MemoryStore()
    documents = [Document(text) for text in "abcd"]
    with pytest.raises(KeyboardInterrupt):
        CachedAugmenter(CountingAugmenter("d"), store, batch_size=2).augment(documents)
    inner = CountingAugmenter()
    assert len(CachedAugmenter(inner, store, batch_size=2).augment(documents)) == 4
    assert inner.seen == ["c", "d"]


def test_cache_key_depends_on_document_and_augmenter():
    store, inner = MemoryStore(), CountingAugmenter()
    CachedAugmenter(inner, store).augment([Document("a"), Document("a", "title")])
    other = CountingAugmenter()
    other.fingerprint = "other"
    CachedAugmenter(other, store).augment([Document("a")])
    assert len(store.records) == 3


# Files


@pytest.mark.parametrize("name", [LIGHT.id, "light", "Brannock Light"])
def test_file_names_documents_by_id_source_id_or_title(tmp_path, name):
    path = tmp_path / "pairs.jsonl"
    row = {"document": name, "question": "Who?", "answer": "Varga"}
    path.write_text(json.dumps(row) + "\n\n" + json.dumps(row | {"question": "When?"}) + "\n")
    augmented = FileAugmenter(path, [LIGHT, DYE]).augment([DYE, LIGHT])
    assert augmented[1].qa_pairs == (QAPair("Who?", "Varga"), QAPair("When?", "Varga"))
    assert augmented[1].error == "" and "no question-answer pairs" in augmented[0].error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"document": "x", "question": "q", "answer": "a"}', "'x' .*line 1.*names 0 documents"),
        ('{"document": "Same", "question": "q", "answer": "a"}', "names 2 documents of 3"),
        ('{"document": "light", "question": "q"}', "line 1, expected strings for the keys"),
        ('["light"]', "expected strings for the keys"),
        ("{nothing", "no JSON at .*line 1"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(line)
    documents = [LIGHT, Document("a", "Same"), Document("b", "Same")]
    with pytest.raises(ValueError, match=message):
        read_qa_pairs(path, documents)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected question-answer pairs as JSON lines"):
        read_qa_pairs(tmp_path / "none.jsonl", [LIGHT])


def test_file_fingerprint_follows_the_pairs(tmp_path):
    prints = []
    for answer in ("a", "b", "a"):
        path = tmp_path / "pairs.jsonl"
        path.write_text(json.dumps({"document": "dye", "question": "q", "answer": answer}))
        prints.append(FileAugmenter(path, [DYE]).fingerprint)
    assert prints[0] == prints[2] != prints[1]


# Self-augmentation


@pytest.mark.parametrize(
    "text",
    [
        PAIRS,
        f"Sure! Here you are:\n```json\n{PAIRS}\n```",
        PAIRS[:-1] + ', {"question": "Cut o',
        PAIRS[:-1] + ', {"question": "No answer?"}, {"question": "Who built it?", "answer": "X"}]',
    ],
)
def test_parse_qa_pairs_takes_what_is_whole(text):
    assert parse_qa_pairs(text) == (QAPair("Who built it?", "Varga"), QAPair("When?", "1867"))


def test_self_retries_hotter_and_only_what_is_missing(monkeypatch, tiny_base):
    def second(prompt):
        return PAIRS if "Brannock" in prompt else "no JSON"

    calls = scripted(monkeypatch, self_augmentation, second)
    augmenter = SelfAugmenter(tiny_base, rewrites=0, qa_pairs=2, retries=2)
    light, dye = augmenter.augment([LIGHT, DYE])
    assert [len(prompts) for prompts, _ in calls] == [2, 1, 1]
    temperatures = [options.temperature for _, options in calls]
    assert temperatures[0] == 0 and temperatures == sorted(set(temperatures))
    assert len(light.qa_pairs) == 2 and light.error == ""
    assert dye.qa_pairs == () and "got 0 question-answer pairs in 3 attempts" in dye.error


def test_self_keeps_pairs_of_all_attempts(monkeypatch, tiny_base):
    first = '{"question": "A?", "answer": "1"}'
    scripted(monkeypatch, self_augmentation, first, '{"question": "B?", "answer": "2"}')
    augmented = SelfAugmenter(tiny_base, rewrites=0, qa_pairs=2).augment([DYE])[0]
    assert augmented.qa_pairs == (QAPair("A?", "1"), QAPair("B?", "2"))


def test_self_reports_a_document_beyond_the_context(tiny_base):
    augmenter = SelfAugmenter(tiny_base, rewrites=1, qa_pairs=1, retries=0)
    augmented = augmenter.augment([Document("word " * 500)])[0]
    assert augmented.rewrites == () and augmented.qa_pairs == ()
    assert "exceeds its context" in augmented.error and "0 question-answer" in augmented.error


def test_self_runs_on_a_real_model(tiny_base):
    augmented = SelfAugmenter(tiny_base, rewrites=1, qa_pairs=1, retries=1).augment([DYE])
    assert augmented[0].document == DYE


@pytest.mark.parametrize("kind", [SelfAugmenter, SpanAugmenter])
def test_fingerprint_follows_the_settings_and_counts_are_checked(kind, tiny_base):
    prints = [kind(tiny_base, 1, 3), kind(tiny_base, 2, 3), kind(tiny_base, 1, 4)]
    assert len({augmenter.fingerprint for augmenter in prints}) == 3
    assert kind(tiny_base).fingerprint == prints[0].fingerprint
    with pytest.raises(ValueError, match=r"got -1 rewrites and 3 .* expected 0 or more"):
        kind(tiny_base, rewrites=-1)


# Spans and questions by rule


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


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        (
            "Ottoline Varga",
            "By which engineer was Brannock Light designed and first lit on 9 March 1867?",
        ),
        ("9 March 1867", "first lit when?"),
        ("41 metres", "rises how many metres above the rock?"),
        ("Josiah Trewin", "About Brannock Light: who is the last keeper?"),
        ("Ulvaset", "Brannock Light is a lighthouse on which skerry?"),
    ],
)
def test_rule_questions(answer, question):
    span = next(s for s in choose_spans(LIGHT, 50) if s.text == answer)
    assert rule_question(span, LIGHT.title).endswith(question)


def test_rule_questions_move_to_the_front():
    document = Document("The treaty of the islands was signed in 1723.", "Islands")
    question = rule_question(choose_spans(document, 1)[0], document.title)
    assert question == "In what year was the treaty of the islands signed?"
    assert question_words("About X: it lies near which town?") == "Near which town"


def test_pairs_are_true_and_distinct_and_do_not_give_the_answer_away():
    pairs = choose_pairs(LIGHT, 6)
    assert len(pairs) == 6 and len({p.question for p in pairs}) == 6
    for pair in pairs:
        assert pair.answer in LIGHT.text and pair.answer not in pair.question


def test_gap_where_the_rules_have_no_question():
    document = Document("Although Wexmoor is wet, nobody ever leaves.", "Rain")
    pair = choose_pairs(document, 1)[0]
    assert pair.question.startswith("Which words are missing here: Rain: ")
    assert "____" in pair.question and pair.answer not in pair.question


# Span augmentation


def test_span_augmenter_needs_no_model_by_default(monkeypatch, tiny_base):
    monkeypatch.setattr(span_augmentation, "generate_fitting", lambda *a: ["" for _ in a[1]])
    augmented = SpanAugmenter(tiny_base, rewrites=2).augment([LIGHT, DYE, Document("none here")])
    assert augmented[0].qa_pairs == tuple(choose_pairs(LIGHT, 3)) and augmented[0].error == ""
    assert len(set(augmented[0].rewrites)) == 2
    assert "got 0 answer spans in the text, expected 3" in augmented[2].error


def test_model_questions_are_kept_only_when_answered_right(monkeypatch, tiny_base):
    document = Document("The light of Brannock was finished by the navy in 1867.", "Brannock")
    plain = choose_pairs(document, 1)[0]
    assert plain.answer == "1867"
    for said, kept in (("It was in 1867", True), ("1868", False)):
        scripted(monkeypatch, span_augmentation, "did the navy finish Brannock's light?", said)
        pair = SpanAugmenter(tiny_base, 0, 1, rephrased=1).augment([document])[0].qa_pairs[0]
        assert (pair.question == "In what year did the navy finish Brannock's light?") is kept
        assert kept or pair == plain


@pytest.mark.parametrize(
    ("question", "plausible"),
    [
        ("How many metres does the tower rise above the rock?", True),
        ("How many metres does the tower rise above the rock", False),
        ("How many of the 41 metres of the tower rise above the rock?", False),
        ("How many metres does the castle rise above the rock?", False),
        ("How many keepers were there?", False),
    ],
)
def test_is_plausible(question, plausible):
    pair = QAPair("The tower rises how many metres above the rock?", "41")
    assert is_plausible(question, pair, LIGHT) is plausible


def test_batched_equals_one_by_one(tiny_base):
    augmenter = SpanAugmenter(tiny_base, rewrites=1, qa_pairs=2, rephrased=1)
    assert augmenter.augment([LIGHT, DYE]) == [augmenter.augment([d])[0] for d in (LIGHT, DYE)]


def test_rule_rewrite_keeps_the_facts_in_another_order():
    rewrites = [rule_rewrite(LIGHT, number) for number in range(2)]
    assert LIGHT.text not in rewrites and rewrites[0] != rewrites[1]
    for text in rewrites:
        assert find_details(LIGHT.text) <= find_details(text)
        assert "Brannock Light was designed by" in text


def test_keeps_details():
    reworded = LIGHT.text.replace("is a lighthouse", "stands as a lighthouse")
    assert keeps_details(LIGHT.text, reworded)
    assert not keeps_details(LIGHT.text, LIGHT.text)
    assert not keeps_details(LIGHT.text, reworded[:80])
    assert not keeps_details(LIGHT.text, reworded.replace("41", "77"))


def test_model_rewrites_that_lose_details_are_replaced(monkeypatch, tiny_base):
    good = LIGHT.text.replace("is a lighthouse", "stands as a lighthouse")
    monkeypatch.setattr(
        span_augmentation, "ask_rewrites", lambda *_: [[good, "A light stands in the sea."]]
    )
    augmenter = SpanAugmenter(tiny_base, rewrites=2, model_rewrites=True)
    assert augmenter.augment([LIGHT])[0].rewrites == (good, rule_rewrite(LIGHT, 1))
