"""The benchmark on the tiny model: cells, resuming, sub-tasks, samples, intervals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from prag_core.benchmark.options import BenchmarkSet
from prag_core.benchmark.sets import KeptHits, choose
from prag_core.benchmark.table import _estimates

from prag_core.corpus.answer_scores import METRICS
from prag_core.corpus.questions import Question
from prag_core.evaluation.estimates import bootstrap_interval, ratio_interval
from prag_core.retrieval.bm25 import make_retriever
from tests.fixtures.benchmarks import (
    TYPES,
    prag_benchmark,
    row,
    small,
    table,
)


def test_all_cells_run_once_and_a_second_run_repeats_none(settings, counted, capsys):
    assert prag_benchmark(settings) == 0
    printed = capsys.readouterr().out
    assert "plain, tiny" in printed and "typed, tiny" in printed
    assert counted["models"] == 1
    # plain: 8 questions a seed, 6 for the trained path; typed: 12.
    assert counted["asked"] == 2 * (2 * 8 + 2 * 8 + 4 * 6) + 2 * (2 + 2 + 2) * 12
    first = table(settings)
    rows = {(r["question_set"], r["mode"], r["path"]) for r in first["rows"]}
    assert {path for s, m, path in rows if (s, m) == ("plain", "parametric")} == {
        "generated",
        "trained",
    }
    assert {path for _, m, path in rows if m in ("closed_book", "in_context")} == {""}
    assert {path for _, m, path in rows if m in ("sft", "da_rag")} == {"trained"}
    trained = row(settings, "plain", "parametric", "trained")
    assert (trained["answers"], trained["seeds"]) == (12, 2)
    assert set(trained["by_seed"]) == {"0", "1"}
    markdown = (Path(settings["output"]) / "table.md").read_text()
    picture = (Path(settings["output"]) / "figure.svg").read_text()
    assert picture.count("answer contained, %") == len({r["question_set"] for r in first["rows"]})
    assert "| parametric (trained) |" in markdown and "published" not in markdown
    counted.clear()
    assert prag_benchmark(settings) == 0
    assert not counted
    assert table(settings) == first
    stores = [path.parent.parent.name for path in Path(settings["output"]).rglob("data.mdb")]
    assert stores == ["tiny"]  # one for both sets, seeds and paths


def test_a_finished_benchmark_needs_neither_model_nor_data(settings, counted, tmp_path):
    settings = small(settings)
    assert prag_benchmark(settings) == 0
    shutil.rmtree(tmp_path / "typed")
    assert prag_benchmark(settings) == 0
    assert counted["models"] == 1


def test_killed_in_the_middle_and_resumed_gives_the_same_table(settings, counted, capsys):
    assert prag_benchmark(settings) == 0
    whole, asked = table(settings)["rows"], counted["asked"]
    settings = {**settings, "output": settings["output"] + "2"}
    for chunk in (3, 9, 17):
        counted.clear()
        counted["stop_at"] = chunk
        assert prag_benchmark(settings) == 130
        assert "run the same command again" in capsys.readouterr().err
    counted.clear()
    assert prag_benchmark(settings) == 0
    assert 0 < counted["asked"] < asked
    assert table(settings)["rows"] == whole
    first, second = (answers(settings["output"].removesuffix(end)) for end in ("2", ""))
    assert first == second and len(first) == 28


def answers(output: str) -> dict[str, list[dict]]:
    """Every answer file, without what was measured."""
    return {
        str(path.relative_to(output)): [
            json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()
        ]
        for path in Path(output).rglob("*.jsonl")
    }


def test_modes_and_seeds_can_be_added(settings, counted):
    settings["question_sets"][1].pop("modes")
    assert prag_benchmark(small(settings, modes=["closed_book"], paths=["trained"])) == 0
    for change, asked in (({"modes": ["closed_book", "parametric"]}, 12), ({"seeds": [1, 0]}, 24)):
        counted.clear()
        settings |= {"modes": ["closed_book", "parametric"], "seeds": [0]} | change
        found = {"seeds": settings["seeds"], "modes": settings["modes"]}
        assert prag_benchmark(small(settings, **found)) == 0
        assert counted["asked"] == asked


def test_below_five_questions_there_is_no_interval_and_a_word_why(settings, capsys):
    settings = small(settings)
    settings["question_sets"][0] |= {"questions": 4}
    assert prag_benchmark(settings) == 0
    found = row(settings, "typed", "parametric", "generated")
    assert found["metrics"]["f1"]["low"] is None
    assert found["note"] == "below 5 questions an interval means nothing"
    assert found["note"] in (Path(settings["output"]) / "table.md").read_text()


def test_sub_tasks_have_rows_and_the_total_is_over_the_first(settings):
    settings = small(settings)
    settings["question_sets"][0] |= {"per_type": 4}
    assert prag_benchmark(settings) == 0
    counts = {
        r["sub_task"]: r["questions"] for r in table(settings)["rows"] if r["mode"] == "parametric"
    }
    assert counts == {"bridge": 4, "comparison": 4, "total": 4}
    kept = json.loads(next(Path(settings["output"]).rglob("questions.json")).read_text())
    assert [q["id"] for q in kept if q["total"]] == ["q0", "q1", "q2", "q3"]
    markdown = (Path(settings["output"]) / "table.md").read_text()
    assert markdown.index("| bridge |") < markdown.index("| total |")


def questions(count: int = 40) -> list[Question]:
    return [
        Question(f"q{i}", f"q{i}?", ("a",), (), {"type": TYPES[i % 3 == 0]}) for i in range(count)
    ]


@pytest.mark.parametrize("choice", [{}, {"questions": 20}, {"first": 20}, {"per_type": 9}])
def test_a_limit_chooses_a_part_of_the_whole_choice(choice):
    spec = BenchmarkSet("towns", **choice)
    for seed in (0, 1):
        whole, total = choose(questions(), spec, seed)
        part, less = choose(questions(), spec, seed, limit=6)
        assert {q.id for q in part} < {q.id for q in whole} and less <= {q.id for q in part}
        assert len(part) == (12 if "per_type" in choice else 6)
        assert [q.id for q in part] == sorted((q.id for q in part), key=lambda i: int(i[1:]))
        assert len(total) == choice.get("per_type", len(whole))


def test_samples_differ_between_seeds():
    spec = BenchmarkSet("towns", questions=20)
    assert choose(questions(), spec, 0)[0] != choose(questions(), spec, 1)[0]


def test_intervals_are_those_of_evaluate_and_keep_a_question_together():
    scores = np.random.default_rng(0).random((12, len(METRICS)))
    one = _estimates({(0, f"q{i}"): row for i, row in enumerate(scores)})
    low, high = bootstrap_interval(scores[:, 0])
    assert one[METRICS[0]].low == pytest.approx(low) and one[METRICS[0]].high == pytest.approx(high)
    again = _estimates({(s, f"q{i}"): row for i, row in enumerate(scores) for s in range(3)})
    for name in METRICS:  # three equal answers to a question say no more than one
        assert again[name].low == pytest.approx(one[name].low)
    pooled = {(0, f"q{i}"): row for i, row in enumerate(scores)} | {(1, "q0"): scores[3]}
    sums, counts = scores[:, 0].copy(), np.ones(12)
    sums[0] += scores[3, 0]
    counts[0] = 2
    expected = ratio_interval(sums, counts)
    assert _estimates(pooled)[METRICS[0]].mean == pytest.approx(expected[0])
    assert _estimates(pooled)[METRICS[0]].low == pytest.approx(expected[1], abs=0.03)


def test_hits_are_searched_once(settings):
    from prag_core.corpus.question_sets import load_question_set

    found = load_question_set(settings["question_sets"][0]["source"])
    asked = [q.question for q in found.questions]
    kept, plain = KeptHits(make_retriever("bm25", found.documents)), make_retriever("bm25")
    plain.add(found.documents)
    assert kept.retrieve(asked, 2) == plain.retrieve(asked, 2) == kept.retrieve(asked, 2)
    kept.delete([found.documents[0].id])
    assert len(kept) == 11 and kept.retrieve(asked, 2) != plain.retrieve(asked, 2)
    kept.add(found.documents[:1])
    assert kept.get(found.documents[0].id) == found.documents[0]
    assert {h.document_id for h in kept.retrieve(asked, 1)[0]} == {found.documents[0].id}
