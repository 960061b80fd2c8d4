"""Evaluation with a stub pipeline: resuming, samples, the shuffled control, the report."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from prag_core.augmentation.augmented import AugmentedDocument
from prag_core.corpus.answer_scores import Scores, score_answer
from prag_core.evaluation.conditions import EvaluationOptions
from prag_core.evaluation.estimates import Bootstrap
from prag_core.evaluation.evaluate import evaluate
from prag_core.evaluation.tables import report_table
from prag_core.files import locked
from prag_core.model.checkpoints import SHIPPED
from prag_core.pipeline.setup import content_hash
from tests.fixtures.evaluations import StubAnswerer, StubRag, options, town_set


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_mode_is_scored_and_written(tmp_path):
    towns = town_set()
    modes = ("closed_book", "in_context", "parametric", "shuffled", "sft")
    rag = StubRag(towns)
    report = evaluate(rag, towns, options(*modes), tmp_path)
    assert {*rag.made} == {document.id for document in towns.documents}
    assert {m: r.metrics["exact_match"].mean for m, r in report.conditions.items()} == {
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
        "documents": [{"id": towns.documents[0].id, "score": 1.0, "weight": 1.0, "bytes": None}],
        "path": "stub",
        "prompt": "p",
        "scores": asdict(score_answer("Mayor0.", ["Mayor0"])),
    }
    assert report.ratios["(parametric - shuffled) / parametric"]["f1"].mean == 1
    assert report.ratios["parametric / in_context"]["f1"].mean == 1
    assert report.differences["parametric - closed_book"]["f1"].low == 1
    assert json.loads((tmp_path / "results.json").read_text()) == asdict(report)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*(f"{m}.jsonl" for m in modes), ".lock", "config.json", "results.json"]
    )


def test_retriever_finds_the_documents(tmp_path):
    towns = town_set(6)
    modes = ("parametric", "shuffled")
    report = evaluate(StubRag(towns), towns, options(*modes, retrieval="retriever"), tmp_path)
    assert report.conditions["parametric"].metrics["f1"].mean == 1
    assert report.conditions["shuffled"].metrics["f1"].mean == 0


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


def test_adapters_are_made_for_answers_to_come_alone(tmp_path):
    towns = town_set()
    broken = StubRag(towns, fail_after=2)  # the last two of twelve
    with pytest.raises(KeyboardInterrupt):
        evaluate(broken, towns, options(), tmp_path)
    second, third = StubRag(towns), StubRag(towns)
    evaluate(second, towns, options(), tmp_path)
    assert second.made == [document.id for document in towns.documents[10:]]
    evaluate(third, towns, options(), tmp_path)
    assert third.made == []


def test_what_is_made_once_is_made_before_questions_are_timed(tmp_path):
    towns, rag, made = town_set(), None, []

    class Augmenter:
        fingerprint = "stub"

        def augment(self, documents):
            made.append((rag.calls, "augmented", len(documents)))
            return [AugmentedDocument(document, (), ()) for document in documents]

    rag = StubRag(towns)
    rag.answerer = StubAnswerer(
        rag, corpus_adapter=lambda: made.append((rag.calls, "trained", 1)), augmenter=Augmenter()
    )
    evaluate(rag, towns, options("da_rag", "sft"), tmp_path)
    assert made == [(0, "augmented", 12), (3, "trained", 1)]  # three chunks a condition
    evaluate(rag, towns, options("da_rag", "sft"), tmp_path)
    assert len(made) == 2  # nothing is missing


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
        assert report.conditions["parametric"].metrics["f1"].mean == 1


def test_modes_can_be_added_to_a_folder(tmp_path):
    towns = town_set()
    evaluate(StubRag(towns), towns, options("parametric"), tmp_path)
    rag = StubRag(towns)
    report = evaluate(rag, towns, options("in_context"), tmp_path)
    assert {mode for mode, _ in rag.asked} == {"in_context"}
    assert list(report.conditions) == ["in_context", "parametric"]


def test_one_process_at_a_time_has_a_folder(tmp_path):
    towns = town_set()
    with locked(tmp_path), pytest.raises(TimeoutError, match="which another process writes to"):
        evaluate(StubRag(towns), towns, options(), tmp_path)
    assert not (tmp_path / "config.json").exists()
    evaluate(StubRag(towns), towns, options(), tmp_path)


def test_what_was_measured_on_unrelated_text_stays_with_its_config(tmp_path):
    towns, path = town_set(), tmp_path / "results.json"
    evaluate(StubRag(towns), towns, options("parametric"), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unrelated": {"news": {"n": 1}}}))
    report = evaluate(StubRag(towns), towns, options("in_context"), tmp_path)
    assert report.unrelated == {"news": {"n": 1}}
    for answers in tmp_path.glob("*.jsonl"):
        answers.unlink()
    assert evaluate(StubRag(towns), towns, options("parametric", k=2), tmp_path).unrelated is None


def test_config_without_answers_claims_nothing(tmp_path):
    towns = town_set()
    with pytest.raises(KeyboardInterrupt):
        evaluate(StubRag(towns, fail_after=0), towns, options(), tmp_path)
    report = evaluate(StubRag(towns), towns, options(k=2), tmp_path)
    assert report.conditions["parametric"].n == 12


class Making(StubRag):
    """Says how many adapters it makes; where `stopped`, it is before the first answer."""

    def __init__(self, question_set, stopped):
        super().__init__(question_set, fail_after=0 if stopped else None)

    def ensure_adapters(self, document_ids, progress):
        """Say that none, then all of them are there."""
        progress(0)
        progress(len(list(document_ids)))


def test_costs_of_a_run_without_answers_go_with_its_config(tmp_path):
    towns, making = town_set(), tmp_path / "making.ndjson"
    for config, count in (("a", 1), ("a", 2), ("b", 1), ("b", 2)):  # the same goes on
        with pytest.raises(KeyboardInterrupt):
            evaluate(Making(towns, True), towns, options(), tmp_path, {"name": config})
        assert [row["documents"] for row in lines(making)] == [12] * count
    (tmp_path / "config.json").write_text("{")
    evaluate(Making(towns, False), towns, options(), tmp_path, {"name": "b"})
    evaluate(Making(towns, False), towns, options("in_context", "gold"), tmp_path, {"name": "b"})
    assert len(lines(making)) == 2  # of answers that are there


def test_few_questions_have_means_without_intervals(tmp_path):
    towns = town_set(3)
    report = evaluate(StubRag(towns), towns, options("parametric", "shuffled"), tmp_path)
    estimate = report.conditions["parametric"].metrics["f1"]
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
    f1 = report.conditions["parametric"].metrics["f1"]
    assert f1.low < f1.mean == 0.5 < f1.high
    difference = report.differences["parametric - closed_book"]["f1"]
    documents = Bootstrap([q.gold_ids[0] for q in towns.questions])
    alone = documents.difference([1.0, 0.0] * 10, [0.0] * 20)
    assert difference == replace(alone, adjusted_p=alone.p)  # nothing else is tested beside it
    assert set(report.conditions["parametric"].metrics) == {
        *Scores.__dataclass_fields__, "abstained", "invented"
    }  # fmt: skip


def test_shares_of_answers_that_abstain_and_that_are_invented(tmp_path):
    towns = town_set(8)
    known = {"Mayor3": "I do not know.", "Mayor5": ""}  # what two of the documents make it say
    rag = StubRag(towns, says=known)
    names = ("parametric", "parametric:unanswerable", "parametric:unanswerable:abstain")
    report = evaluate(rag, towns, options(*names), tmp_path)
    shares = {n: c.metrics for n, c in report.conditions.items()}
    assert shares["parametric"]["abstained"].mean == 2 / 8
    assert shares["parametric"]["invented"].mean == 0
    assert shares["parametric:unanswerable"]["containment"].mean == 0
    for metrics in shares.values():
        assert sum(metrics[m].mean for m in ("abstained", "invented", "containment")) == 1
    asked = {options.abstain for _, _, options in rag.used}
    assert asked == {False, True}
    headings = report_table(report).headings
    assert headings[-2:] == ("abstained", "invented")
    plain = evaluate(StubRag(towns), towns, options("parametric"), tmp_path / "plain")
    assert report_table(plain).headings == headings[:-2]


def test_questions_of_a_document_are_resampled_together(tmp_path):
    towns = town_set(20)
    again = [replace(q, id=f"{q.id}-{n}") for q in towns.questions for n in range(4)]
    many = replace(towns, questions=tuple(again))
    mixed = [replace(q, golden_answers=("x",)) if i % 8 < 4 else q for i, q in enumerate(again)]
    many = replace(many, questions=tuple(mixed))
    once = replace(many, questions=tuple(mixed[::4]))
    found = [
        evaluate(StubRag(towns), chosen, options(), tmp_path / name).conditions["parametric"]
        for name, chosen in (("many", many), ("once", once))
    ]
    assert found[0].metrics == found[1].metrics  # four times the same says no more
    assert (found[0].n, found[1].n) == (80, 20)


def test_conditions_of_gold_documents_have_files_that_every_system_takes(tmp_path):
    towns = town_set(8)
    names = ("gold", "rank:4", "gold+2", "gold+2:relative", "gold+3:concatenate", "mean")
    rag = StubRag(towns)
    report = evaluate(rag, towns, options(*names, retrieval="retriever", k=2), tmp_path)
    assert [*report.conditions] == [
        "gold", "mean", "rank:4", "gold+2", "gold+2:relative", "gold+3:concatenate",
    ]  # fmt: skip
    assert (tmp_path / "gold+2=relative.jsonl").exists() and (tmp_path / "rank=4.jsonl").exists()
    used = {}
    for (_, hits, chosen), name in zip(rag.used, [n for n in names for _ in range(8)], strict=True):
        used.setdefault(name, []).append((hits, chosen))
    assert all(chosen.rank == 4 for _, chosen in used["rank:4"])
    gold = [document.id for document in towns.documents]
    for name, size in (("gold", 1), ("rank:4", 1), ("gold+2", 3), ("gold+3:concatenate", 4)):
        rows = [hits for hits, _ in used[name]]
        assert [row[0].document_id for row in rows] == gold
        assert all(len({h.document_id for h in row}) == size for row in rows)
        assert {h.score for row in rows for h in row} == {1.0}
    assert {chosen.merge_method for _, chosen in used["gold+3:concatenate"]} == {"concatenate"}
    scores = [[h.score for h in hits] for hits, _ in used["gold+2:relative"]]
    assert all(row[0] == max(row) > row[1] for row in scores)  # what the retriever gave them
    assert not any(hits for hits, _ in used["mean"])
    assert {*rag.made} == {*gold}


def test_two_documents_are_exchanged(tmp_path):
    towns = town_set(2)
    report = evaluate(StubRag(towns), towns, options("shuffled"), tmp_path)
    assert report.conditions["shuffled"].metrics["f1"].mean == 0


def test_options_are_a_command_line():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(EvaluationOptions, "evaluation")
    arguments = ["--evaluation.conditions", "[parametric, 'gold+9:relative']"]
    parsed = parser.instantiate_classes(parser.parse_args(arguments)).evaluation
    assert parsed == EvaluationOptions(conditions=("parametric", "gold+9:relative"))


def test_a_card_and_its_pictures_do_not_change_a_checkpoint(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = content_hash(str(tmp_path))
    for name in ("card.md", "benchmark.svg", "results.json"):
        (tmp_path / name).write_text("new")
    assert content_hash(str(tmp_path)) == before
    weights.write_bytes(b"2")
    assert content_hash(str(tmp_path)) != before


def test_a_shipped_name_stands_for_its_files():
    name = "smollm2-135m-ridge"
    assert content_hash(name) == content_hash(str(SHIPPED / name)) != ""
    assert content_hash("owner/of-a-hub") == ""
