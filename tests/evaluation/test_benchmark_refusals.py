"""What the benchmark refuses, and cells that fail without stopping the others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from prag_core.evaluation.benchmark import load_set
from prag_core.evaluation.benchmark_options import BenchmarkModel, BenchmarkSet, expand
from prag_core.pipeline.answerer import Answerer
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.setup import Setup
from tests.fixtures.benchmarks import (
    TYPES,
    prag_benchmark,
    row,
    small,
    table,
    write_set,
)
from tests.fixtures.tiny import byte_tokenizer, tiny_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generation": {"max_new_tokens": 4}}, "run.generation.max_new_tokens 4, not 3"),
        ({"k": 3}, "question_set.k 3, not 2"),
        ({"questions": 6}, "question_set.questions 6, not 0"),
    ],
)
def test_results_of_another_config_are_refused(settings, counted, capsys, change, message):
    settings = small(settings)
    assert prag_benchmark(settings) == 0
    before = {p: p.read_bytes() for p in Path(settings["output"]).rglob("*.jsonl")}
    asked = counted["asked"]
    if "generation" in change:
        settings |= change
    else:
        settings["question_sets"][0] |= change
    capsys.readouterr()
    assert prag_benchmark(settings) == 2
    error = capsys.readouterr().err
    assert f"got {message}" in error and "expected the config" in error
    assert "choose another folder" in error
    assert counted["asked"] == asked
    assert {p: p.read_bytes() for p in before} == before


def test_other_questions_under_the_same_source_are_refused(settings, tmp_path, capsys):
    settings = small(settings)
    assert prag_benchmark(settings) == 0
    shutil.rmtree(tmp_path / "typed")
    write_set(tmp_path / "typed", count=10, types=TYPES)
    settings["question_sets"][0]["conditions"].append("combine")
    assert prag_benchmark(settings) == 2
    assert "got other questions from" in capsys.readouterr().err
    assert row(settings, "typed", "closed_book")["questions"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditions": ["parametric", "closed"]}, "got condition 'closed', expected one of"),
        ({"paths": ["generated"], "conditions": ["sft"]}, "without the path trained"),
        ({"paths": ["generated"], "conditions": ["da_rag@1", "mean"]}, "conditions da_rag@1 with"),
        ({"base_models": [{"name": "x"}]}, "the path generated and no base model with a hypernet"),
        ({"seeds": [1, 1]}, "got seeds [1, 1], expected one or more with different names"),
        ({"question_sets": []}, "got question_sets [], expected one or more"),
        ({"paths": []}, "without the path trained"),
    ],
)
def test_bad_choices_say_what_is_wrong(settings, counted, capsys, change, message):
    assert prag_benchmark({**settings, **change}) == 2
    assert message in capsys.readouterr().err
    assert not counted and not Path(settings["output"]).exists()


@pytest.mark.parametrize("change", [{"paths": ["printed"]}, {"colour": 1}])
def test_unknown_paths_and_options_are_refused(settings, capsys, change):
    with pytest.raises(SystemExit) as exit:
        prag_benchmark({**settings, **change})
    assert exit.value.code == 2
    assert next(iter(change.values()), "") and next(iter(change)) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": 3, "per_type": 3}, "at most one of questions, first and per_type"),
        ({"k": 0}, "k and limits from 1 on"),
        ({"limits": {"trained": 0}}, "k and limits from 1 on"),
    ],
)
def test_bad_numbers_of_a_set_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BenchmarkSet("towns", **change)


def test_limits_of_an_unknown_path_are_refused():
    with pytest.raises(ValueError, match=r"got limits of \['drawn'\] for towns"):
        expand(
            Setup(), Path("x"), [BenchmarkSet("towns", limits={"drawn": 3})], [BenchmarkModel()],
            ["trained"], ["parametric"], [0],
        )  # fmt: skip


def test_a_set_may_have_some_of_the_paths(tmp_path):
    sets = [BenchmarkSet("s", paths=("trained",)), BenchmarkSet("t")]
    models, paths = [BenchmarkModel("a", hypernet="h")], ("trained", "generated")
    groups = expand(Setup(), tmp_path, sets, models, paths, ("parametric",), [0])
    places = [(group.spec.label, group.path) for group in groups]
    assert places == [("s", "trained"), ("t", "trained"), ("t", "generated")]
    sets = [BenchmarkSet("s", paths=("drawn",))]
    with pytest.raises(ValueError, match=r"got paths \['drawn'\] for s, expected some of"):
        expand(Setup(), tmp_path, sets, models, paths, ("parametric",), [0])


def test_the_reader_is_asked_of_base_models_that_have_one(tmp_path):
    """Neither does the trained path gate passages or weigh sentences."""
    sets = [BenchmarkSet("s")]
    conditions = ("in_context", "reader@1", "in_context:gated", "combine:focus:0.5")
    models = [BenchmarkModel("a", hypernet="h", reader="r"), BenchmarkModel("b", hypernet="h")]
    paths = ("generated", "trained")
    groups = expand(Setup(), tmp_path, sets, models, paths, conditions, [0])
    assert [(g.model.name, g.path, g.conditions, g.setup.reader) for g in groups] == [
        ("a", "shared", ("in_context",), ""),
        ("a", "reader", ("reader@1",), "r"),
        ("a", "generated", ("in_context:gated", "combine:focus:0.5"), ""),
        ("b", "shared", ("in_context",), ""),
        ("b", "generated", ("in_context:gated", "combine:focus:0.5"), ""),
    ]
    with pytest.raises(ValueError, match="no base model with a reader, expected its adapter"):
        expand(Setup(), tmp_path, sets, models[1:], paths, conditions, [0])


def test_gates_of_all_conditions_are_refused(tmp_path):
    setup = Setup(answering=AnswerOptions(gated=True, least_relevance=0.1))
    models = [BenchmarkModel("a", hypernet="h")]
    with pytest.raises(ValueError, match=r"got answering\.gated, expected it in the names"):
        expand(setup, tmp_path, [BenchmarkSet("s")], models, ["generated"], ["in_context"], [0])


def test_a_failing_cell_does_not_stop_the_others(settings, capsys, monkeypatch, model):
    settings["question_sets"].insert(0, {"source": "no/such/set"})
    settings["base_models"].insert(0, {"name": "no/such/model", "dtype": "float32"})
    settings["seeds"] = [0]
    answer = Answerer.answer

    def short_of_memory(self, questions, hits, mode, *arguments, **options):
        if mode == "sft":
            raise torch.OutOfMemoryError("out of memory")
        return answer(self, questions, hits, mode, *arguments, **options)

    monkeypatch.setattr(Answerer, "answer", short_of_memory)
    assert prag_benchmark(settings) == 2
    error = capsys.readouterr().err
    assert "tiny, set, seed 0, in_context: got no/such/set" in error
    assert "model, plain, seed 0, in_context: " in error
    assert "tiny, plain, seed 0, sft (trained): OutOfMemoryError('out of memory')" in error
    failed = table(settings)["failed"]
    assert set(failed) >= {"tiny, plain, seed 0, sft (trained)"}
    rows = table(settings)["cells"]
    modes = [r["condition"] for r in rows if r["path"] == "trained" and r["set"] == "plain"]
    assert modes == ["da_rag", "parametric", "shuffled"]
    monkeypatch.undo()
    settings["question_sets"].pop(0)
    settings["base_models"].pop(0)
    assert prag_benchmark(settings) == 0
    assert not table(settings)["failed"]
    assert row(settings, "plain", "sft", "trained")


def test_a_checkpoint_of_another_base_is_a_failing_cell(settings, capsys, tmp_path):
    other = tiny_model(seed=5)
    other.model.save_pretrained(tmp_path / "other")
    byte_tokenizer().save_pretrained(tmp_path / "other")
    settings = small(settings)
    settings["base_models"][0] |= {"name": str(tmp_path / "other")}
    assert prag_benchmark(settings) == 2
    assert "other, typed, seed 0, parametric (generated): " in capsys.readouterr().err
    assert row(settings, "typed", "in_context")["questions"] == 12


def test_a_corpus_is_not_searched_without_the_files_that_cannot_be_read(tmp_path):
    questions, folder = tmp_path / "questions.jsonl", tmp_path / "corpus"
    questions.write_text('{"id": "a", "question": "Q?", "golden_answers": ["x"]}')
    folder.mkdir()
    (folder / "a.txt").write_text("Ana likes red.")
    (folder / "b.txt").write_bytes(b"Bob likes the caf\xe9.")
    spec = BenchmarkSet(str(questions), corpus=str(folder))
    with pytest.raises(ValueError, match=r"got 1 files in .*corpus that cannot be read"):
        load_set(spec)
    assert len(load_set(spec, skip_bad=True).documents) == 1
