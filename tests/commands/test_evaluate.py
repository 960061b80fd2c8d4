"""`prag evaluate` on the tiny model and a random hypernetwork."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prag_core import cli
from prag_core.adapters.adapter import AdapterSpec
from prag_core.corpus.question_sets import load_question_set
from prag_core.formats.peft_folder import to_peft
from prag_core.model.base_model import load_base_model
from prag_core.model.wordings import DEFAULT, WORDINGS, Wording, reading_wording
from tests.fixtures.benchmarks import NAMES, write_set
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def run(model, tmp_path):
    """Evaluate a set of 12 documents, with these options."""
    source = write_set(tmp_path / "set")

    def evaluate(*options: str) -> int:
        return cli.main([
            "evaluate", source, f"--output={tmp_path / 'out'}", "--path=generated",
            f"--base_model={model / 'tiny'}", f"--hypernet={model / 'hypernet'}",
            "--dtype=float32", "--generation.max_new_tokens=3", *options,
        ])  # fmt: skip

    return evaluate


def results(tmp_path: Path, name: str = "results") -> dict:
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


def test_results_and_resolved_config_are_written(run, tmp_path, capsys):
    names = ["closed_book", "gold", "shuffled", "gold+2:relative", "rank:8"]
    options = [f"--evaluation.conditions=[{','.join(names)}]", "--evaluation.k=1"]
    sample = ["--documents=9", "--questions=6", "--most_words=20"]
    assert run(*options, *sample) == 0
    printed = capsys.readouterr().out
    assert "6 questions in 6 groups by document" in printed and "gold+2:relative" in printed
    found = results(tmp_path)
    assert {*found["conditions"]} == {*names}
    assert {cell["n"] for cell in found["conditions"].values()} == {6}
    assert {"(gold - shuffled) / gold", "rank:8 / gold"} <= {*found["ratios"]}
    record = json.loads((tmp_path / "out" / "gold+2=relative.jsonl").read_text().split("\n")[0])
    # Neighbours that share no word with the question weigh nothing: it was not made from them.
    assert len(record["documents"]) == 1 and record["path"] == "generated" and record["prompt"]
    assert max(document["weight"] for document in record["documents"]) == 1
    assert results(tmp_path, "config")["run"]["generation"]["max_new_tokens"] == 3
    assert run(*options, *sample, "--generation.max_new_tokens=5") == 2
    assert "generation.max_new_tokens" in capsys.readouterr().err


def test_reading_is_measured_without_a_hypernetwork(run, tmp_path, capsys):
    names = "[closed_book,in_context,kv_cache]"
    options = ["--evaluation.k=1", "--questions=4", "--hypernet=auto"]
    assert run(f"--evaluation.conditions={names}", *options) == 0
    assert {*results(tmp_path)["conditions"]} == {"closed_book", "in_context", "kv_cache"}
    assert run("--evaluation.conditions=[parametric]", *options) == 2
    assert "no hypernetwork is shipped" in capsys.readouterr().err
    gates = ["--answering.gated=true", "--answering.least_relevance=0.14"]
    assert run("--evaluation.conditions=[in_context]", *options, *gates) == 2
    assert "no hypernetwork is shipped" in capsys.readouterr().err


def test_a_file_of_pairs_may_name_documents_that_a_sample_leaves_out(run, tmp_path):
    rows = [{"document": f"d{i}", "question": "Who?", "answer": n} for i, n in enumerate(NAMES)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [f"--augmentation.file={tmp_path / 'pairs.jsonl'}", "--path=trained"]
    small = ["--training.rank=1", "--training.layers=[0]", "--training.max_steps=1"]
    conditions = "--evaluation.conditions=[parametric]"
    assert run(conditions, "--documents=3", "--most_words=9", *asked, *small) == 0
    assert results(tmp_path)["conditions"]["parametric"]["n"] == 3


def two_hits(folder: Path) -> str:
    """Every question's own document, then the next one's."""
    rows = [(n, f"d{m % 12}", 3 - rank) for n in range(12) for rank, m in ((1, n), (2, n + 1))]
    lines = [f"q{n} Q0 {identifier} 1 {score} me" for n, identifier, score in rows]
    (folder / "two.trec").write_text("\n".join(lines) + "\n")
    return f"--hits={folder / 'two.trec'}"


def test_reading_baselines(run, tmp_path, model, capsys):
    base = load_base_model(str(model / "tiny"), "float32")
    spec = AdapterSpec(base.fingerprint, 4, 8, layers=(0, 1))
    adapter = replace(random_adapter(spec, base), metadata={"prompt": DEFAULT.id, "path": "reader"})
    reader = to_peft(adapter, tmp_path / "reader", "tiny")
    names = ["closed_book", "in_context", "in_context@1", "in_context:gated", "kv_cache@1"]
    names += ["reader"]
    options = [f"--evaluation.conditions=[{','.join(names)}]", "--evaluation.k=2"]
    options += ["--answering.prompt=short", "--answering.least_relevance=1e9"]  # none responds
    options.append(two_hits(tmp_path))
    assert run(*options) == 2  # before anything is asked
    assert "got no adapter for mode reader" in capsys.readouterr().err
    assert not (tmp_path / "out" / "in_context.jsonl").exists()
    assert run(*options, f"--reader={reader}") == 0
    assert {*results(tmp_path)["conditions"]} == {*names}

    def answers(name: str) -> list[dict]:
        lines = (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    read, kept = answers("in_context@1"), answers("kv_cache@1")
    assert [a["prediction"] for a in kept] == [a["prediction"] for a in read]
    assert all(len(a["documents"]) == 1 and a["documents"][0]["bytes"] > 0 for a in kept)
    assert len([*(tmp_path / "out" / "store" / "kv").iterdir()]) == len(
        {a["documents"][0]["id"] for a in kept}
    )
    shown, whole = answers("in_context=gated"), answers("in_context")
    assert {len(a["documents"]) for a in whole} == {2} and not any(a["documents"] for a in shown)
    without = [a["prediction"] for a in answers("closed_book")]
    assert [a["prediction"] for a in shown] == without != [a["prediction"] for a in whole]
    assert [a["prediction"] for a in answers("reader")] != [a["prediction"] for a in whole]
    assert {a["path"] for a in answers("reader")} == {"reader"}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("kv_cache", "in mode kv_cache, expected one, as several would have to be read together"),
        ("in_context:gated", "with least_relevance 0, which leaves no document out"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(run, tmp_path, capsys, condition, message):
    options = [f"--evaluation.conditions=[in_context,{condition}]", "--evaluation.k=2"]
    assert run(*options, two_hits(tmp_path)) == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out" / "in_context.jsonl").exists()


def test_hits_and_predictions_of_other_tools(run, tmp_path, capsys):
    hits, said = tmp_path / "run.trec", tmp_path / "other.json"
    hits.write_text("".join(f"q{n} Q0 d{n} 1 2.5 me\n" for n in range(12)))
    said.write_text(json.dumps({f"q{n}": str(n) for n in range(12)}))
    options = ["--evaluation.conditions=[parametric,gold]", f"--hits={hits}"]
    assert run(*options, f"--predictions=[{said}]") == 0
    found = results(tmp_path)["conditions"]
    assert found["other"]["metrics"]["f1"]["mean"] == 1
    assert found["parametric"]["metrics"] == found["gold"]["metrics"]  # the right documents
    assert run(*options, "--evaluation.retrieval=gold") == 2
    assert "got hits beside gold documents" in capsys.readouterr().err
    assert run(*options, "--predictions=[nowhere.json]") == 2
    assert run(*options, f"--predictions=[{said},{tmp_path / 'b' / 'other.json'}]") == 2
    assert "which have one name without folder and ending" in capsys.readouterr().err


def test_unrelated_text(run, tmp_path, capsys):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"{n} is a name."}) + "\n" for n in NAMES))
    options = ["--evaluation.conditions=[closed_book]", "--texts=6"]
    choices = f"choices:{tmp_path / 'set'}"
    assert run(*options, f"--unrelated=[{corpus},package:Jinja2,{choices}]") == 0
    found = results(tmp_path)["unrelated"]
    assert [*found] == [str(corpus), "package:Jinja2", choices]
    for source in (str(corpus), "package:Jinja2"):
        measured = found[source]
        assert measured["texts"] == 6 and measured["ratio"]["low"] <= measured["ratio"]["high"]
    assert found["package:Jinja2"]["licence"].startswith("Jinja2 3")
    assert found[choices]["questions"] == 6
    printed = " ".join(capsys.readouterr().out.split())
    assert "Unrelated text of package:Jinja2 (Jinja2 3." in printed and "chance 25" in printed
    assert run(*options[:1], f"--unrelated={corpus}", "--texts=2") == 2
    assert "got 2 unrelated texts" in capsys.readouterr().err


def test_chunks_are_searched_in_place_of_documents(run, tmp_path):
    conditions = "--evaluation.conditions=[in_context,gold]"
    assert run("--evaluation.k=1", conditions, "--chunk_tokens=8") == 0
    lines = (tmp_path / "out" / "in_context.jsonl").read_text().splitlines()
    read = [[document["id"] for document in json.loads(line)["documents"]] for line in lines]
    assert {*map(len, read)} == {1}
    whole = load_question_set(tmp_path / "set").documents_by_id
    assert not any(i in whole for (i,) in read)


@pytest.mark.parametrize("hits", [False, True])
def test_of_a_set_without_golden_answers_retrieval_is_scored(tmp_path, capsys, hits):
    source, output = tmp_path / "beir", tmp_path / "out"
    (source / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "text": f"{name} has cats."} for i, name in enumerate(NAMES[:4])]
    queries = [{"_id": f"q{i}", "text": f"{name}?"} for i, name in enumerate(NAMES[:4])]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (source / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # The last question's document is another one; the third has two, of which one is found.
    judged = ["q0\td0\t1", "q1\td1\t2", "q1\td2\t0", "q2\td2\t1", "q2\td0\t1", "q3\td0\t1"]
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "\n".join(judged))
    options = [f"--output={output}", "--evaluation.k=1", "--base_model=none/such"]
    if hits:
        (tmp_path / "run.trec").write_text("".join(f"q{n} Q0 d1 1 1 me\n" for n in range(4)))
        options.append(f"--hits={tmp_path / 'run.trec'}")
    assert cli.main(["evaluate", str(source), *options]) == 0  # no model is loaded
    recall, hit = (0.25, 0.25) if hits else (0.625, 0.75)
    assert f"recall@1 {recall:.3f}, hit@1 {hit:.3f} (4 questions)" in capsys.readouterr().out
    written = results(tmp_path, "retrieval")
    assert written == {"questions": 4, "k": 1, "recall": recall, "hit": hit}
    assert cli.main(["evaluate", str(source), *options, "--chunk_tokens=9"]) == 2
    assert "got chunk_tokens for a set without golden answers" in capsys.readouterr().err


def test_documents_recited_in_place_of_answers(run, tmp_path, capsys):
    text = " ".join(f"word{number}" for number in range(24))
    corpus = tmp_path / "set" / "corpus.jsonl"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    corpus.write_text("".join(json.dumps(r | {"text": f"{r['text']} {text}"}) + "\n" for r in rows))
    options = ["--recite", "--documents=5", "--evaluation.conditions=[closed_book,gold,shuffled]"]
    assert run(*options, "--evaluation.retrieval=gold") == 0
    found = results(tmp_path)
    assert found["questions"] == 15 and found["documents"] == 5
    for cell in found["conditions"].values():
        assert cell["metrics"]["recited"]["low"] is not None
    config = results(tmp_path, "config")["run"]["generation"]
    assert config["max_new_tokens"] > 100 and config["stop"] == []
    assert "by title" in capsys.readouterr().out
    assert run("--recite") == 2
    assert "in_context, combine with recite" in capsys.readouterr().err


def test_the_best_prompt_for_reading_is_kept(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    # The tiny model reads bytes: of all wordings, only short ones leave room in its context.
    short = {name: Wording(name, lead=name) for name in ("one", "two")}
    for name, wording in short.items():
        monkeypatch.setitem(WORDINGS, name, wording)
    conditions = tuple(f"in_context:prompt:{name}" for name in short)
    monkeypatch.setattr("prag_core.evaluation.results.READING", (*short,))
    monkeypatch.setattr("prag_core.evaluation.results.READING_CONDITIONS", conditions)
    assert run("--choose_prompts", "--questions=6") == 0
    (kept,) = (tmp_path / "cache" / "prompts").glob("*.json")
    assert str(kept) in capsys.readouterr().out
    ((fingerprint, choice),) = json.loads(kept.read_text()).items()
    assert choice["questions"] == 6 and {*choice["scores"]} == {*short}
    best = max(scores["f1"] for scores in choice["scores"].values())
    assert choice["scores"][choice["prompt"]]["f1"] == best
    cell = results(tmp_path)["conditions"][f"in_context:prompt:{choice['prompt']}"]
    assert cell["metrics"]["f1"]["mean"] == best
    assert reading_wording(fingerprint) is short[choice["prompt"]]
