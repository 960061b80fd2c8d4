"""Tests of question sets: each original format, names on the hub, the real sets."""

from __future__ import annotations

import json
from collections import Counter

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, load_question_set
from tests.fixtures.paths import DATA
from tests.fixtures.question_sets import write

SETS = {
    "squad_train": (18_891, 87_599),  # 5 paragraphs occur twice
    "squad_dev": (2_067, 10_570),
    "2wikimultihopqa_dev500": (3_301, 500),
    "hotpotqa_100": (994, 100),
    "popqa_250": (380, 250),
}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Oil_crisis",
            "paragraphs": [
                {
                    "context": "It began in October 1973. It ended in 1974.",
                    "qas": [
                        {
                            "id": "a",
                            "question": "When did it begin?",
                            "answers": [
                                {"text": "October 1973", "answer_start": 12},
                                {"text": "1973", "answer_start": 20},
                                {"text": "1973", "answer_start": 20},
                            ],
                        },
                        {"id": "b", "question": "Why?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
HOTPOT = [
    {
        "_id": "h1",
        "question": "Who made the film whose director was born in Oslo?",
        "answer": "Ann Lee",
        "type": "bridge",
        "level": "easy",
        "context": [
            ["Film A", ["Film A is a film.", " It was made by Ann Lee."]],
            ["Ann Lee", ["Ann Lee was born in Oslo."]],
            ["Other", ["Nothing of note."]],
        ],
        "supporting_facts": [["Film A", 1], ["Ann Lee", 0], ["Film A", 0]],
    }
]
POPQA = (
    "id\tsubj\tprop\tobj\tquestion\tpossible_answers\n"
    '9\tJoe\toccupation\tpolitician\tWhat is Joe\'s occupation?\t"[""politician"", ""pol""]"\n'
)
CWQ = [
    {
        "ID": "c1",
        "question": "Which one?",
        "compositionality_type": "conjunction",
        "answers": [{"answer_id": "m.1", "answer": "Jamaica", "aliases": ["JM", "Jam"]}],
    },
    {"ID": "c2", "question": "Which other?", "answer": "Cuba"},
]


def test_beir_folder(tmp_path):
    write(
        tmp_path / "corpus.jsonl", [{"_id": str(i), "title": "", "text": f"t{i}"} for i in (1, 2)]
    )
    write(tmp_path / "queries.jsonl", [{"_id": "q", "text": "Q?"}, {"_id": "r", "text": "R?"}])
    rows = "query-id\tcorpus-id\tscore\nq\t2\t2.0\nq\t1\t0\nr\t1\t-1\nr\t2\t0.0\n"
    write(tmp_path / "qrels" / "test.tsv", rows)
    question_set = load_question_set(tmp_path)  # judged as not relevant: no gold document
    assert question_set.questions == (Question("q", "Q?", (), (Document("t2").id,)),)
    write(tmp_path / "qrels" / "test.tsv", rows + "q\t1\thigh\n")
    with pytest.raises(ValueError, match=r"test\.tsv, line 6: got the score 'high'"):
        load_question_set(tmp_path)
    with pytest.raises(ValueError, match=r"got split 'dev', expected one of \['test'\]"):
        load_question_set(tmp_path, split="dev")
    write(tmp_path / "qrels" / "test.tsv", "q\t0\t2\t1\nq\t0\t1\t0\n")
    with pytest.raises(ValueError, match="expected query-id, corpus-id, score"):
        load_question_set(tmp_path)


@pytest.mark.parametrize("name", ["dev-v2.0.json", "some.bin"])
def test_squad_is_recognised_by_content_and_impossible_questions_left_out(tmp_path, name, caplog):
    counts = Counter()
    question_set = load_question_set(write(tmp_path / name, SQUAD), counts=counts)
    [document] = question_set.documents
    assert document.title == "Oil crisis"
    assert question_set.questions == (
        Question("a", "When did it begin?", ("October 1973", "1973"), (document.id,)),
    )
    assert counts["unanswerable"] == 1 and "left out 1 unanswerable questions" in caplog.text


def test_squad_with_a_missing_field(tmp_path):
    path = write(tmp_path / "a.json", {"data": [{"title": "T", "paragraphs": [{"qas": []}]}]})
    with pytest.raises(ValueError, match=r"without KeyError\('context'\), expected SQuAD's layout"):
        load_question_set(path)


def hub_shape(record: dict) -> dict:
    """The same multi-hop record as the hub has it."""
    titles, sentences = zip(*record["context"], strict=True)
    facts = {"title": [t for t, _ in record["supporting_facts"]], "sent_id": [1, 0, 0]}
    return {
        **{("id" if name == "_id" else name): value for name, value in record.items()},
        "context": {"title": list(titles), "sentences": list(sentences)},
        "supporting_facts": facts,
    }


@pytest.mark.parametrize("shape", ["original", "hub", "strings"])
def test_multi_hop_sets(tmp_path, shape):
    records = {
        "original": HOTPOT,
        "hub": [hub_shape(HOTPOT[0])],
        "strings": [
            {**HOTPOT[0], **{k: json.dumps(HOTPOT[0][k]) for k in ("context", "supporting_facts")}}
        ],
    }[shape]
    question_set = load_question_set(write(tmp_path / "hotpot.json", records))
    assert [d.title for d in question_set.documents] == ["Film A", "Ann Lee", "Other"]
    assert question_set.documents[0].text == "Film A is a film. It was made by Ann Lee."
    [question] = question_set.questions
    assert question.gold_ids == tuple(d.id for d in question_set.documents[:2])
    assert (question.id, question.golden_answers) == ("h1", ("Ann Lee",))
    assert question.metadata == {"type": "bridge", "level": "easy"}


@pytest.mark.parametrize(
    "context",
    [[["Ulm", "The mayor is Bo."]], {"title": ["Ulm"], "content": ["The mayor is Bo."]}],
)
def test_a_paragraph_may_be_one_text(tmp_path, context):
    record = {"question": "Who?", "answer": "Bo", "context": context, "supporting_facts": ["Ulm"]}
    (document,) = load_question_set(write(tmp_path / "a.json", [record])).documents
    assert (document.title, document.text) == ("Ulm", "The mayor is Bo.")


@pytest.mark.parametrize(
    ("context", "message"),
    [("", "got an empty context"), ([["Ulm", 3]], "got a context of 3, expected sentences")],
)
def test_contexts_without_text_are_named(tmp_path, context, message):
    record = {"question": "Who?", "answer": "Bo", "context": context}
    with pytest.raises(ValueError, match=message):
        load_question_set(write(tmp_path / "a.json", [record]))


def test_popqa(tmp_path):
    question_set = load_question_set(write(tmp_path / "popQA.tsv", POPQA))
    assert question_set.documents == ()
    [question] = question_set.questions
    assert question == Question("9", "What is Joe's occupation?", ("politician", "pol"))
    assert question.metadata == {"prop": "occupation"}


def test_complex_web_questions(tmp_path):
    first, second = load_question_set(write(tmp_path / "cwq.json", CWQ)).questions
    assert (first.id, first.golden_answers) == ("c1", ("Jamaica", "JM", "Jam"))
    assert first.metadata == {"type": "conjunction"}
    assert (second.id, second.golden_answers) == ("c2", ("Cuba",))


def test_prag_and_flashrag_question_files(tmp_path):
    prag = [{"question": "A?", "answer": "a"}, {"question": "B?", "answer": ["b", "c"]}]
    questions = load_question_set(write(tmp_path / "prag.json", prag)).questions
    assert [(q.id, q.golden_answers) for q in questions] == [("0", ("a",)), ("1", ("b", "c"))]
    flashrag = [{"id": "x", "question": "A?", "golden_answers": ["a"]}]
    questions = load_question_set(write(tmp_path / "test.jsonl", flashrag)).questions
    assert questions == (Question("x", "A?", ("a",)),)


def test_hub_names(monkeypatch):
    asked = []
    rows = [
        {"id": "a", "title": "T_1", "context": "C.", "question": "Q?", "answers": {"text": ["x"]}},
        {"id": "b", "title": "T_1", "context": "C.", "question": "R?", "answers": {"text": []}},
    ]

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    question_set = load_question_set("rajpurkar/squad")
    assert question_set.name == "squad"
    assert question_set.documents == (Document("C.", "T 1"),)
    assert [q.id for q in question_set.questions] == ["a"]
    load_question_set("hub:hotpotqa/hotpot_qa:distractor", split="train")
    assert asked == [
        ("rajpurkar/squad", None, "validation"),
        ("hotpotqa/hotpot_qa", "distractor", "train"),
    ]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("Unknown split"), r"nor loaded from the hub \(Unknown split\): check name"),
        (
            RuntimeError("Dataset scripts are no longer supported, but found name.py"),
            "found name.py.*a program, which is not run: fetch its files",
        ),
        (
            DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub."),
            "gated dataset.*`hf auth login`",
        ),
        (ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)"), "netw"),
        (TimeoutError(), r"\(TimeoutError\)"),
    ],
)
def test_hub_name_that_does_not_load(monkeypatch, error, message):
    def load_dataset(name, config, split):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(FileNotFoundError, match=rf"got owner/name with split.*{message}"):
        load_question_set("owner/name")


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_tables_of_questions(tmp_path, bom):
    rows = """ID;Question;Golden_Answers;Context;Metadata
a;"Who, when?";"[""Ann"", ""Lee""]";Ann came first.;"{""type"": ""who""}"
b;Where?;Oslo;"In Oslo;
of all places.";
"""
    question_set = load_question_set(write(tmp_path / "questions.csv", bom + rows))
    texts = ["Ann came first.", "In Oslo;\nof all places."]
    assert [document.text for document in question_set.documents] == texts
    ids = [(document.id,) for document in question_set.documents]
    assert question_set.questions == (
        Question("a", "Who, when?", ("Ann", "Lee"), ids[0]),
        Question("b", "Where?", ("Oslo",), ids[1]),
    )
    assert question_set.questions[0].metadata == {"type": "who"}
    named = write(
        tmp_path / "named.tsv", 'question\tanswer\tgold_ids\nA?\ta\t["d1", "d2"]\nB?\tb\td3\n'
    )
    with pytest.raises(ValueError, match=r"got 3 gold ids.*\['d1', 'd2', 'd3'\]"):
        load_question_set(named)
    with pytest.raises(ValueError, match="line 2: got the fields question, text, expected"):
        load_question_set(write(tmp_path / "bad.csv", "question,text\nA?,a\n"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": "C.", "title": 5}, "title"),
        ({"context": [], "supporting_facts": [[]]}, "supporting_facts|index"),
        ({"gold_ids": 5}, "gold_ids"),
        ({"metadata": "x"}, "metadata"),
        ({"question": 3}, "expected question"),
        ({"context": "[" * 99_999, "supporting_facts": []}, "nested too deeply"),
    ],
)
def test_fields_of_another_type_are_named(tmp_path, change, message):
    record = {"question": "Q?", "answer": "a", **change}
    path = write(tmp_path / "a.jsonl", [record, {"question": "R?", "answer": "b"}])
    with pytest.raises(ValueError, match=rf"line 1: .*({message})"):
        load_question_set(path)
    counts = Counter()
    (question,) = load_question_set(path, skip_bad=True, counts=counts).questions
    assert question.question == "R?" and counts["bad"] == 1


def test_supporting_fact_outside_the_context(tmp_path):
    record = {**HOTPOT[0], "supporting_facts": [["Gone", 0]]}
    with pytest.raises(ValueError, match=r"got 1 gold ids .*'Gone'"):
        load_question_set(write(tmp_path / "a.json", [record]))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data sets in {DATA}")
@pytest.mark.parametrize("name", SETS)
def test_real_sets(name):
    question_set = load_question_set(DATA / name)
    assert (len(question_set.documents), len(question_set.questions)) == SETS[name]
    assert all(q.gold_ids and q.golden_answers for q in question_set.questions)
