"""Data module: what is held out, how long documents may be, which process reads what."""

from __future__ import annotations

import json

import pytest

from hypernet.training.batches import BatchConfig
from hypernet.training.datamodule import DocumentStream, HypernetDataModule
from hypernet.training.sources import corpus_file
from prag_core.corpus.documents import iter_documents
from prag_core.files import write_lines
from tests.fixtures.hypernetworks import DOCUMENTS, FACTS, write_question_set

BATCH = BatchConfig(documents=4, groups=(1, 2), questions=1, completions=1, unrelated=1)


def write_corpus(path, titles):
    lines = [{"title": t, "text": f"{t} lives in house number {i}."} for i, t in enumerate(titles)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def articles(items) -> set[str]:
    return {item.article for item in items}


@pytest.mark.parametrize("on_disk", [False, True])
def test_corpora_do_not_train_on_held_out_articles(tiny_base, tmp_path, monkeypatch, on_disk):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    folder = write_question_set(tmp_path / "set")
    corpus = write_corpus(tmp_path / "corpus.jsonl", [*FACTS, "Gil", "Hal"])
    data = HypernetDataModule(
        [str(folder)], [corpus], batch=BATCH, validation_articles=3, corpus_on_disk=on_disk
    )
    data.load(tiny_base)
    held = articles(data.validation)
    assert len(held) == 3 and len(data.validation) == 3
    assert articles(data.training[1]) == {*FACTS, "Gil", "Hal"} - held


def test_another_question_set_does_not_change_what_is_held_out_of_one(tiny_base, tmp_path):
    first = write_question_set(tmp_path / "first")
    second = write_question_set(tmp_path / "second")
    text = (second / "corpus.jsonl").read_text().replace("Ana", "Zoe").replace("Bob", "Yan")
    (second / "corpus.jsonl").write_text(text)
    alone = HypernetDataModule([str(first)], batch=BATCH, validation_articles=2)
    alone.load(tiny_base)
    held = articles(alone.validation)
    both = HypernetDataModule([str(first), str(second)], batch=BATCH, validation_articles=2)
    both.load(tiny_base)
    assert len(held) == 2 and held <= articles(both.validation)
    assert not articles(both.validation) & {a for pool in both.training for a in articles(pool)}


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("titles", ["abcdefgh", [""] * 8])
def test_corpora_alone_are_split_by_article(tiny_base, tmp_path, monkeypatch, on_disk, titles):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    corpus = write_corpus(tmp_path / "corpus.jsonl", titles)
    data = HypernetDataModule(
        [], [corpus], batch=BATCH, validation_articles=2, corpus_on_disk=on_disk
    )
    data.load(tiny_base)
    assert len(data.training[0]) == 6 and len(data.validation) == 2
    assert not articles(data.training[0]) & articles(data.validation)
    batch = data.val_dataloader()[0].dataset[0]
    assert len(batch["document_ids"]) == 4
    assert len(data.calibration_ids(100)) == 6


def test_articles_of_corpora_are_held_out_whole_and_some_are_left(tiny_base, tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", "abc" * 10)
    data = HypernetDataModule([], [corpus], batch=BATCH, validation_articles=40)
    data.load(tiny_base)
    assert len(data.training[0]) == 10 and len(data.validation) == 20
    assert not articles(data.training[0]) & articles(data.validation)


def test_held_out_documents_of_a_length_of_their_own_are_not_compared_with_themselves(
    tiny_base, tmp_path
):
    corpus = tmp_path / "corpus.jsonl"
    texts = {"a": "x" * 20, "b": "x" * 20, "c": "x" * 300, "d": "x" * 20}
    lines = [{"title": title, "text": text} for title, text in texts.items()]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = HypernetDataModule(
        [], [str(corpus)], batch=BATCH, validation_articles=3, max_document_tokens=512
    )
    data.load(tiny_base)
    data.validation = [*data.training[0], *data.validation]
    steps = data.val_dataloader()[0].dataset
    assert max(int(steps[step]["lengths"].max()) for step in range(4)) < 100
    data.validation = [item for item in data.validation if item.article in "ac"]
    with pytest.raises(ValueError, match="got 2 documents, expected 2 or more of similar length"):
        data.val_dataloader()


def test_nothing_held_out_says_so(tiny_base, tmp_path):
    data = HypernetDataModule([str(write_question_set(tmp_path))], validation_articles=0)
    data.load(tiny_base)
    with pytest.raises(ValueError, match="got 0 held-out documents to validate on"):
        data.val_dataloader()


def test_a_set_without_questions_is_refused(tiny_base, tmp_path):
    folder = write_question_set(tmp_path)
    records = [json.loads(x) for x in (folder / "questions.jsonl").read_text().splitlines()]
    lines = [json.dumps(record | {"gold_ids": []}) + "\n" for record in records]
    (folder / "questions.jsonl").write_text("".join(lines))
    with pytest.raises(ValueError, match="got no questions about the documents of"):
        HypernetDataModule([str(folder)]).load(tiny_base)


def test_of_two_corpora_in_a_folder_the_plain_one_is_read_by_all(tmp_path):
    for name in ("corpus.jsonl.gz", "corpus.jsonl"):
        write_lines(tmp_path / name, [{"text": f"Of {name}."}])
    for place in (tmp_path, corpus_file(str(tmp_path))):
        assert [d.text for d in iter_documents(place)] == ["Of corpus.jsonl."]


def test_long_documents_are_drawn_too(tiny_base, tmp_path):
    text = " ".join(f"Word {number} of a long text." for number in range(60))  # a byte a token
    corpus = tmp_path / "corpus.jsonl"
    titles = "abcd"
    corpus.write_text("".join(json.dumps({"title": t, "text": t + text}) + "\n" for t in titles))
    data = HypernetDataModule(
        [], [str(corpus)], batch=BATCH, validation_articles=1, max_document_tokens=2000
    )
    data.load(tiny_base)
    batch = data.train_dataloader().dataset[0]
    assert batch["lengths"].min() > 1000
    with pytest.raises(ValueError, match="got max_document_tokens 10000, expected at most 8192"):
        HypernetDataModule(max_document_tokens=10_000)


def test_a_step_draws_no_document_twice(tiny_base, tmp_path):
    data = HypernetDataModule(
        [str(write_question_set(tmp_path))], batch=BATCH, validation_articles=1
    )
    data.load(tiny_base)
    steps = data.train_dataloader().dataset
    assert all(len(set(steps[step]["document_ids"])) == 4 for step in range(40))


def test_validation_has_another_document(tiny_base, tmp_path):
    one = BatchConfig(documents=1, groups=(1,), questions=1)
    data = HypernetDataModule([str(write_question_set(tmp_path))], batch=one, validation_articles=2)
    data.load(tiny_base)
    assert len(set(data.val_dataloader()[0].dataset[0]["document_ids"])) == 2


def test_processes_share_the_documents_to_predict(tmp_path):
    corpus = write_corpus(tmp_path / "corpus.jsonl", "abcde")
    parts = [[d.title for d in DocumentStream(corpus, rank, 2)] for rank in (0, 1)]
    assert parts == [["a", "c", "e"], ["b", "d"]]


def test_questions_of_held_out_corpora_are_asked(tiny_base, tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    lines = [
        {"title": d.title, "text": f"The mill of {d.title} was built in 1871."} for d in DOCUMENTS
    ]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = HypernetDataModule(
        [], [str(corpus)], corpus_pairs=2, batch=BATCH, validation_articles=2
    )  # fmt: skip
    data.load(tiny_base)
    answers = {a for question in data.sample(2).questions for a in question.golden_answers}
    assert "1871" in answers
    with pytest.raises(ValueError, match=r"got 1 held-out documents .* expected 2 or more"):
        data.sample(1)
