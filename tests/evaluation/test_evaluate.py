"""Evaluation with a stub pipeline: resuming, samples, the shuffled control, the report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from prag_core.corpus.answer_scores import Scores, score_answer
from prag_core.evaluation.estimates import paired_bootstrap
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.options import EvaluationOptions
from prag_core.evaluation.results import EVALUATED_MODES, SHUFFLED
from prag_core.pipeline.modes import MODES
from prag_core.pipeline.parts import content_hash
from tests.fixtures.evaluations import StubRag, options, town_set


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_modes_are_the_pipelines_and_the_control():
    assert {*EVALUATED_MODES} == {*MODES, SHUFFLED}


def test_every_mode_is_scored_and_written(tmp_path):
    towns = town_set()
    modes = ("closed_book", "in_context", "parametric", "shuffled", "sft")
    report = evaluate(StubRag(towns), towns, options(*modes), tmp_path)
    assert {m: r.metrics["exact_match"].mean for m, r in report.modes.items()} == {
        "closed_book": 0,
        "in_context": 1,
        "parametric": 1,
        "shuffled": 0,
        "sft": 0,
    }
    first = lines(tmp_path / "parametric.jsonl")[0]
    assert first.pop("seconds") >= 0
    assert first == {
        "id": "q0",
        "question": "Who is mayor of town0 ?",
        "golden_answers": ["Mayor0"],
        "prediction": "Mayor0.",
        "documents": [{"id": towns.documents[0].id, "score": 1.0}],
        "scores": asdict(score_answer("Mayor0.", ["Mayor0"])),
    }
    assert report.ratios["specificity"]["f1"] == 1
    assert report.ratios["parametric / in_context"]["f1"] == 1
    assert report.differences["parametric - closed_book"]["f1"].low == 1
    assert json.loads((tmp_path / "results.json").read_text()) == asdict(report)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*(f"{m}.jsonl" for m in modes), "config.json", "results.json"]
    )


def test_retriever_finds_the_documents(tmp_path):
    towns = town_set(6)
    modes = ("parametric", "shuffled")
    report = evaluate(StubRag(towns), towns, options(*modes, retrieval="retriever"), tmp_path)
    assert report.modes["parametric"].metrics["f1"].mean == 1
    assert report.modes["shuffled"].metrics["f1"].mean == 0


def test_interrupted_run_resumes_by_id_to_the_same_results(tmp_path):
    towns = town_set()
    chosen = options("parametric", "shuffled")
    evaluate(StubRag(towns), towns, chosen, tmp_path / "whole")
    broken = StubRag(towns, fail_after=4)  # the second chunk of shuffled
    with pytest.raises(KeyboardInterrupt):
        evaluate(broken, towns, chosen, tmp_path / "parts")
    assert len(lines(tmp_path / "parts" / "shuffled.jsonl")) == 5
    second = StubRag(towns)
    evaluate(second, towns, replace(chosen, chunk=3), tmp_path / "parts")
    assert len(second.asked) == 7
    assert not {*second.asked} & {*broken.asked[12:]}  # none of shuffled's first five again
    for name in ("parametric.jsonl", "shuffled.jsonl"):
        whole, parts = lines(tmp_path / "whole" / name), lines(tmp_path / "parts" / name)
        assert [w | {"seconds": 0} for w in whole] == [p | {"seconds": 0} for p in parts]
    third = StubRag(towns)
    evaluate(third, towns, chosen, tmp_path / "parts")
    assert not third.asked


def test_every_torn_tail_is_dropped_and_redone(tmp_path):
    towns = town_set(5)
    evaluate(StubRag(towns), towns, options(), tmp_path)
    path = tmp_path / "parametric.jsonl"
    content = path.read_bytes()
    last = len(content.splitlines(keepends=True)[-1])
    for cut in (1, 2, last // 2, last - 1, last):  # without newline ... nothing of the line
        path.write_bytes(content[:-cut])
        rag = StubRag(towns)
        report = evaluate(rag, towns, options(), tmp_path)
        assert [question for _, question in rag.asked] == [towns.questions[4].question]
        assert [line["id"] for line in lines(path)] == [f"q{i}" for i in range(5)]
        assert report.modes["parametric"].metrics["f1"].mean == 1


def test_modes_can_be_added_to_a_folder(tmp_path):
    towns = town_set()
    evaluate(StubRag(towns), towns, options("parametric"), tmp_path)
    rag = StubRag(towns)
    report = evaluate(rag, towns, options("in_context"), tmp_path)
    assert {mode for mode, _ in rag.asked} == {"in_context"}
    assert list(report.modes) == ["in_context", "parametric"]


def test_config_without_answers_claims_nothing(tmp_path):
    towns = town_set()
    with pytest.raises(KeyboardInterrupt):
        evaluate(StubRag(towns, fail_after=0), towns, options(), tmp_path)
    report = evaluate(StubRag(towns), towns, options(k=2), tmp_path)
    assert report.modes["parametric"].n == 12


def test_limit_is_a_seeded_sample_in_order(tmp_path):
    towns = town_set(40)
    ids = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        evaluate(StubRag(towns), towns, options(limit=9, seed=seed), tmp_path / name)
        ids.append([line["id"] for line in lines(tmp_path / name / "parametric.jsonl")])
    assert ids[0] == ids[1] != ids[2]
    assert len(ids[0]) == 9 and ids[0] == sorted(ids[0], key=lambda i: int(i[1:]))


def test_few_questions_have_means_without_intervals(tmp_path):
    towns = town_set(3)
    report = evaluate(StubRag(towns), towns, options("parametric", "shuffled"), tmp_path)
    estimate = report.modes["parametric"].metrics["f1"]
    assert (estimate.mean, estimate.low, estimate.high) == (1, None, None)
    assert report.differences["parametric - shuffled"]["f1"].mean == 1


def test_intervals_and_differences_are_over_paired_questions(tmp_path):
    towns = town_set(20)
    half = tuple(
        replace(q, golden_answers=("unknown",)) if i % 2 else q
        for i, q in enumerate(towns.questions)
    )
    towns = replace(towns, questions=half)
    report = evaluate(StubRag(towns), towns, options("parametric", "closed_book"), tmp_path)
    f1 = report.modes["parametric"].metrics["f1"]
    assert f1.low < f1.mean == 0.5 < f1.high
    difference = report.differences["parametric - closed_book"]["f1"]
    expected = paired_bootstrap([1.0, 0.0] * 10, [0.0] * 20)
    assert (difference.mean, difference.low, difference.high) == expected
    assert list(f1.__dataclass_fields__) == ["mean", "low", "high"]
    assert set(report.modes["parametric"].metrics) == set(Scores.__dataclass_fields__)


def test_two_documents_are_exchanged(tmp_path):
    towns = town_set(2)
    report = evaluate(StubRag(towns), towns, options("shuffled"), tmp_path)
    assert report.modes["shuffled"].metrics["f1"].mean == 0


def test_options_are_a_command_line():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(EvaluationOptions, "evaluation")
    arguments = ["--evaluation.modes", "[parametric, sft]", "--evaluation.limit", "7"]
    parsed = parser.instantiate_classes(parser.parse_args(arguments)).evaluation
    assert parsed == EvaluationOptions(modes=("parametric", "sft"), limit=7)


def test_a_card_and_its_pictures_do_not_change_a_checkpoint(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = content_hash(str(tmp_path))
    for name in ("card.md", "benchmark.svg"):
        (tmp_path / name).write_text("new")
    assert content_hash(str(tmp_path)) == before
    weights.write_bytes(b"2")
    assert content_hash(str(tmp_path)) != before
