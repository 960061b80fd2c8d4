"""Left out: neither training nor validation draws what is kept for measuring."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from hypernet.training.batches import BatchConfig
from hypernet.training.datamodule import HypernetDataModule
from prag_core.corpus.leave_out import LeaveOut
from tests.fixtures.hypernetworks import FACTS, write_question_set
from tests.fixtures.paths import CONFIGS, DATA

BATCH = BatchConfig(documents=4, groups=(1, 2), questions=2, completions=1, unrelated=1)
BOTH = LeaveOut(relations=("occupation", "place of birth"))


@pytest.mark.parametrize("on_disk", [False, True])
def test_no_pool_holds_what_is_left_out(tiny_base, tmp_path, monkeypatch, on_disk):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    folder = write_question_set(tmp_path / "set")
    names = [*FACTS]
    lines = [
        {"title": name, "text": f"{name} Roe (born 4 May 1971 in Ulm) is a German poet."}
        for name in [*names, "Gil", "Hal", "Ivo", "Jan"]
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with (folder / "corpus.jsonl").open("a") as file:  # one of the last, under another title
        file.write(json.dumps({"id": "ivo", "title": "Ivo R.", "text": lines[-2]["text"]}) + "\n")
    with (folder / "questions.jsonl").open("a") as file:
        asked = {"question": "When was Ivo born?", "golden_answers": ["1971"], "gold_ids": ["ivo"]}
        file.write(json.dumps({"id": "q-ivo"} | asked) + "\n")
    second = tmp_path / "second.jsonl"
    second.write_text("".join(json.dumps(x) + "\n" for x in [lines[-1], *lines[:1], *lines[:1]]))
    (tmp_path / "titles.txt").write_text(f"{names[0]}\nHal\n")
    leave_out = LeaveOut(str(tmp_path / "titles.txt"), BOTH.relations, last_documents=2)
    data = HypernetDataModule(
        [str(folder)], [str(corpus), str(second)], corpus_on_disk=on_disk, corpus_pairs=4,
        leave_out=leave_out, batch=BATCH, validation_articles=2,
    )  # fmt: skip
    data.load(tiny_base)
    pools = [*data.training, data.validation]
    items = [pool[place] for pool in pools for place in range(len(pool))]
    articles = Counter(item.article for item in items)
    assert set(articles) == {*names[1:], "Gil"}
    ways = [way for item in items for asked, _ in item.facts for way in asked]
    assert "When was Gil born?" in ways
    assert not any(map(BOTH.asks, ways))


def _records(path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _questions_over(documents: list[dict], folder) -> Path:
    """Write a question set that asks one question a document."""
    folder.mkdir()
    questions = [
        {"id": d["id"], "question": "What is it?", "golden_answers": ["x"], "gold_ids": [d["id"]]}
        for d in documents
    ]
    for name, records in (("corpus", documents), ("questions", questions)):
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _drawn(steps, count: int) -> set[str]:
    return {i for step in range(count) for i in steps[step]["document_ids"]}


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
def test_the_shipped_configuration_keeps_the_benchmarks_out(tiny_base, tmp_path):
    """From the real data: popqa_250's relations, the titles, the last introductions.

    A question set over introductions names some of the last ones.
    """
    settings = yaml.safe_load((CONFIGS / "hypernet.yaml").read_text())["data"]
    assert settings["leave_out"]["last_documents"] == 4000
    titles = DATA / "leave_out_titles.txt"
    leave_out = LeaveOut(str(titles), tuple(settings["leave_out"]["relations"]), 4000)
    corpora = [DATA / "wiki_intros_80k"]
    introductions = _records(corpora[0] / "corpus.jsonl.gz")
    over = _questions_over(introductions[-3:] + introductions[:3], tmp_path / "over")
    sets = [DATA / "squad_train", DATA / "qamr", over]
    # A tokenizer of bytes: every document is long.
    data = HypernetDataModule(
        [*map(str, sets)], [*map(str, corpora)], leave_out=leave_out,
        batch=BATCH, max_document_tokens=8192,
    )  # fmt: skip
    data.load(tiny_base)

    popqa = _records(DATA / "popqa_250" / "questions.jsonl.gz")
    assert all(leave_out.asks(record["question"]) for record in popqa)
    items = [item for pool in [*data.training, data.validation] for item in pool]
    assert len(items) > 80_000
    named = set(titles.read_text(encoding="utf-8").splitlines())
    assert len(named) == 36 and not named & {item.article for item in items}
    questions = [q for item in items for q, *_ in item.pairs]
    questions += [way for item in items for asked, _ in item.facts for way in asked]
    assert len(questions) > 200_000 and not any(map(leave_out.asks, questions))
    # Whatever the words: what popqa_250 has for occupations answers no pattern's question for what
    # a title is.
    occupations = {
        answer.lower()
        for record in popqa
        if "occupation" in record["question"]
        for answer in record["golden_answers"]
    }
    assert {"politician", "actor", "journalist"} <= occupations
    facts = [fact for item in items for fact in item.facts]
    said = {ways for ways, answer in facts if answer.lower() in occupations}
    assert [ways for ways in said if "nationality" not in ways[0]] == []

    last = {record["text"] for record in introductions[-4000:]}
    assert len(last) > 3900 and not last & {item.document.text for item in items}
    steps = data.train_dataloader().dataset
    texts = {item.document.id: item.document.text for item in items}
    assert not last & {texts[i] for i in _drawn(steps, 50)}
