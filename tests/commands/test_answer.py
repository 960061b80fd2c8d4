"""`prag answer`: answers with their documents, on the terminal and in a file."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from prag_core.commands.answer import _as_utf8
from prag_core.pipeline.rag import ParametricRAG
from tests.fixtures.command_line import run


def test_an_answer_comes_with_its_documents(corpus, options, tmp_path, capsys, monkeypatch):
    store, answers = tmp_path / "store", tmp_path / "answers.jsonl"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    assert run("answer", "Where is Bo?", "--store", store, "--output", answers, *options) == 0
    assert capsys.readouterr().out.count("\n") == 2  # the answer and the document
    assert json.loads(answers.read_text())["mode"] == "parametric"
    config = json.loads(answers.with_suffix(".config.json").read_text())
    assert config["dtype"] == "float32"
    before = answers.read_bytes()  # what is refused leaves it as it was
    refused = ("answer", "Where is Bo?", "--store", store, "--output", answers, *options)
    assert run(*refused, "--where", '{"year": 1901}') == 2
    assert answers.read_bytes() == before != b""
    assert json.loads(answers.with_suffix(".config.json").read_text()) == config
    monkeypatch.setattr(ParametricRAG, "answer", None)  # it is not come to
    assert run(*refused[: -len(options)], "--output", tmp_path, *options) == 2
    assert "directory" in capsys.readouterr().err


def test_answers_are_kept_before_the_last_question(corpus, options, tmp_path, monkeypatch):
    store, output = tmp_path / "store", tmp_path / "answers.jsonl"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    monkeypatch.setattr("prag_core.commands.answer.KEPT", 2)
    answer, rounds = ParametricRAG.answer, []

    def stopped(*args, **kwargs):
        rounds.append(args)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return answer(*args, **kwargs)

    monkeypatch.setattr(ParametricRAG, "answer", stopped)
    asked = io.TextIOWrapper(io.BytesIO(b"Where is Bo?\nWhere is Al?\nWhere is Cy?\n"))
    monkeypatch.setattr("sys.stdin", asked)
    assert run("answer", "-", "--store", store, "--output", output, *options) == 130
    assert [json.loads(line)["mode"] for line in output.open()] == ["parametric"] * 2


def test_every_mode_of_a_store_may_be_asked(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    question = ("answer", "Where is Bo?", "--store", store, "--k", "1", *options)
    texts = []
    for mode in ("in_context", "kv_cache"):
        assert run(*question, "--mode", mode) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert run(*question, "--mode", "reader") == 2
    assert "train it (`prag reader`)" in capsys.readouterr().err


def test_only_documents_with_the_metadata_are_found(options, tmp_path, capsys):
    corpus, store = tmp_path / "corpus.jsonl", tmp_path / "store"
    spans = ["--augmentation.strategy=span", "--augmentation.file="]
    for year in (1901, 1902):  # of the same id: the second replaces the first
        lines = [{"id": i, "title": f"T{i}", "text": f"T{i}, {year}.", "year": year} for i in "ab"]
        corpus.write_text("\n".join(map(json.dumps, lines)))
        chosen = [] if year == 1901 else ["--replace"]
        assert run("parametrize", corpus, "--store", store, *chosen, *options, *spans) == 0
    corpus.write_text('{"id": "c", "title": "Tc", "text": "Tc, 1903", "year": 1903}')
    assert run("parametrize", corpus, "--store", store, "--replace", *options, *spans) == 0
    capsys.readouterr()
    assert (
        run("answer", "1902?", "--store", store, "--where", '{"year": 1902}', *options, *spans) == 0
    )
    titles = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if "  " in line]
    assert sorted(titles) == ["Ta", "Tb"]
    assert (
        run("answer", "Tc?", "--store", store, "--where", '{"year": 1901}', *options, *spans) == 2
    )
    assert "which fits none of 3 documents" in capsys.readouterr().err


def test_answer_without_store_names_the_command_that_makes_one(options, tmp_path, capsys):
    assert run("answer", "Who?", "--store", tmp_path / "none", *options) == 2
    assert "prag parametrize" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_question_in_utf8_is_read_so_in_any_locale(encoding, monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda word: word.encode(encoding, "surrogateescape"))
    word = "Zürich 北京?".encode().decode(encoding, "surrogateescape")
    assert _as_utf8(word) == "Zürich 北京?"
    assert _as_utf8("caf\udce9") == "caf\udce9"  # refused by name later


def test_questions_that_are_no_text_are_named_and_the_others_answered(
    corpus, options, tmp_path, capsys, monkeypatch
):
    store, answers = tmp_path / "store", tmp_path / "answers.jsonl"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert run("answer", "caf\udce9?", "--store", store, *options) == 2
    assert "which is not UTF-8" in capsys.readouterr().err
    raw = io.TextIOWrapper(io.BytesIO(b"caf\x81\xff?\nWhere is Ada?\n"))
    monkeypatch.setattr(sys, "stdin", raw)
    options = [option for option in options if option != "--path=trained"]  # the store knows it
    assert run("answer", "-", "--store", store, "--output", answers, *options) == 2
    assert "standard input, line 1" in capsys.readouterr().err
    (reply,) = map(json.loads, answers.read_text().splitlines())
    assert (reply["question"], reply["path"]) == ("Where is Ada?", "trained")
    assert json.loads(answers.with_suffix(".config.json").read_text())["path"] == "trained"


def test_reading_needs_no_hypernetwork_of_the_base_model(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    question = ("answer", "Where is Bo?", "--store", store, *options, "--path", "generated")
    assert run(*question, "--mode", "in_context") == 0
    assert run(*question, "--mode", "parametric") == 2
    assert "no hypernetwork is shipped" in capsys.readouterr().err
    gates = ("--answering.gated", "true", "--answering.least_relevance", 0.14)
    assert run(*question, "--mode", "in_context", *gates) == 2
    assert "no hypernetwork is shipped" in capsys.readouterr().err


def test_a_package_that_a_retriever_needs_is_named(corpus, options, tmp_path, capsys, monkeypatch):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "bm25s", None)
    question = ("answer", "Where is Bo?", "--store", store, *options)
    assert run(*question, "--retriever", "bm25s") == 2
    assert "pip install 'prag[bm25s]'" in capsys.readouterr().err
