"""`prag questions` on the tiny model, whose replies are scripted where it should write some."""

from __future__ import annotations

import json

import pytest

from hypernet.training.sources import read_question_set
from prag_core.augmentation import question_writer
from prag_core.corpus.question_sets import load_question_set
from tests.fixtures.command_line import run

NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo"]  # as in the corpus


@pytest.fixture
def scripted(monkeypatch):
    """The model asks about every person's house, which it is told first."""

    def fake(base, prompts, options, prefixes):
        asked = [next(n for n in NAMES if n in p.split("<u>")[-1]) for p in prompts]
        return [f"house {NAMES.index(n)} | Where does {n} stay?" for n in asked]

    monkeypatch.setattr(question_writer, "generate_fitting", fake)


def options(tiny_folder, **more):
    settings = {"model": tiny_folder, "dtype": "float32", "kinds": "[open]"} | more
    return [f"--{name}={value}" for name, value in settings.items()]


def test_a_set_to_train_on_and_to_evaluate(
    corpus, tiny_folder, tiny_base, scripted, tmp_path, capsys
):
    out = tmp_path / "out"
    more = {"check_with_passage": "false", "limit": 4, "batch_size": 3}
    assert run("questions", corpus, out, *options(tiny_folder, **more)) == 0
    printed = capsys.readouterr().out
    assert "4 documents, 4 questions written, 4 kept (100%)" in printed
    assert "check without_passage: 4 of 4 pass (100%)" in printed
    items = read_question_set(str(out), tiny_base.tokenizer)
    assert len(items) == 4 and items[0].pairs[0][1].startswith("house ")
    report = json.loads((out / "report.json").read_text())
    assert report["options"]["limit"] == 4 and report["command"].startswith("prag")
    assert {"cpu", "versions"} <= report["machine"].keys()
    asked = [
        "--generation.max_new_tokens=2", "--evaluation.conditions=[closed_book,in_context]",
        "--evaluation.retrieval=gold", "--evaluation.k=1",
    ]  # fmt: skip
    results = tmp_path / "results"
    model = [f"--base_model={tiny_folder}", "--dtype=float32", "--path=trained"]
    model += ["--augmentation.strategy=span"]
    assert run("evaluate", out, f"--output={results}", *model, *asked) == 0
    assert json.loads((results / "results.json").read_text())["questions"] == 4


def test_titles_that_are_left_out_are_not_asked_about(corpus, tiny_folder, scripted, tmp_path):
    (tmp_path / "titles.txt").write_text("Ada\nFlo\n")
    out, more = tmp_path / "out", {"check_with_passage": "false"}
    more |= {"leave_out.titles": tmp_path / "titles.txt", "leave_out.last_documents": 2}
    assert run("questions", corpus, out, *options(tiny_folder, **more)) == 0
    assert {d.title for d in load_question_set(out).documents} == {"Bo", "Cy", "Di"}


def test_nothing_kept_is_told_and_what_was_written_stays(
    corpus, tiny_folder, scripted, tmp_path, capsys
):
    out = tmp_path / "out"
    assert run("questions", corpus, out, *options(tiny_folder)) == 2  # it answers at random
    printed = capsys.readouterr()
    assert "dropped: 6 wrong with the passage" in printed.out
    assert (
        "got no question that passes the checks" in printed.err and "Traceback" not in printed.err
    )
    assert len((out / "written.jsonl").read_text().splitlines()) == 6


def test_a_model_without_room_for_the_examples_writes_nothing(
    corpus, tiny_folder, tmp_path, capsys
):
    assert run("questions", corpus, tmp_path / "out", *options(tiny_folder, kinds="[plain]")) == 2
    assert "6 documents, 0 questions written" in capsys.readouterr().out


def test_bad_input_is_refused_in_words(tmp_path, tiny_folder, capsys):
    assert run("questions", tmp_path / "none", tmp_path / "out", *options(tiny_folder)) == 2
    assert "which does not exist, expected a file or folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
