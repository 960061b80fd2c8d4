"""The benchmark on the tiny model: cells, resuming, sub-tasks, samples, intervals."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from prag_core.adapters.store import AdapterStore
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.benchmark import choose_questions
from prag_core.evaluation.benchmark_options import BenchmarkModel, BenchmarkSet, expand
from prag_core.model.wordings import DEFAULT, Wording
from prag_core.pipeline.setup import Setup
from tests.fixtures.benchmarks import (
    NAMES,
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
    rows = {(r["set"], r["condition"], r["path"]) for r in first["cells"]}
    assert {path for s, m, path in rows if (s, m) == ("plain", "parametric")} == {
        "generated",
        "trained",
    }
    assert {path for _, m, path in rows if m in ("closed_book", "in_context")} == {""}
    assert {path for _, m, path in rows if m in ("sft", "da_rag")} == {"trained"}
    trained = row(settings, "plain", "parametric", "trained")
    # 6 of each seed, about documents that the seeds may share.
    assert trained["questions"] == 12 and trained["documents"] <= 12
    markdown = (Path(settings["output"]) / "table.md").read_text()
    assert "| parametric (trained) |" in markdown and "published" not in markdown
    counted.clear()
    assert prag_benchmark(settings) == 0
    assert not counted
    assert table(settings) == first
    stores = [path.parent.parent.name for path in Path(settings["output"]).rglob("store.json")]
    assert stores == ["tiny"]  # one for both sets, seeds and paths


def test_keys_and_values_are_a_condition_and_have_a_size(settings):
    sets = [settings["question_sets"][0] | {"limits": {}}]
    settings = small(settings, question_sets=sets, conditions=["in_context", "kv_cache"])
    assert prag_benchmark(settings) == 0
    read, kept = (row(settings, "plain", name) for name in ("in_context", "kv_cache"))
    assert kept["questions"] == read["questions"] == 8
    assert kept["bytes"] > 0 and read["bytes"] is None


def test_a_prompt_of_a_set_is_asked_and_trained_in(settings, counted):
    """In the YAML by name or as a text; generated adapters are asked as they were made."""
    mine = Wording("mine", "{passages}\nQ: {question}", lead="A:", ends=",")
    settings = small(settings, paths=["generated", "trained"], training={"max_steps": 2, "rank": 2})
    settings["question_sets"][0]["prompt"] = asdict(mine)
    assert prag_benchmark(settings) == 0
    prompts: dict[str, set[str]] = {}
    for path in Path(settings["output"]).rglob("seed0/*/*.jsonl"):
        texts = path.read_text().splitlines()
        prompts.setdefault(path.parent.name, set()).update(json.loads(t)["prompt"] for t in texts)
    assert prompts == {"shared": {mine.id}, "trained": {mine.id}, "generated": {DEFAULT.id}}
    with AdapterStore(Path(settings["output"]) / "tiny" / "store") as store:
        made = {a.metadata["path"]: a.metadata["prompt"] for _, a in store.items()}
    assert made["trained"] == mine.id
    counted.clear()
    assert prag_benchmark(settings) == 0 and not counted
    settings["question_sets"][0]["prompt"] = "poem"
    assert prag_benchmark(settings) == 2


def test_a_finished_benchmark_needs_neither_model_nor_data(settings, counted, tmp_path):
    settings = small(settings)
    assert prag_benchmark(settings) == 0
    shutil.rmtree(tmp_path / "typed")
    assert prag_benchmark(settings) == 0
    assert counted["models"] == 1


def test_killed_in_the_middle_and_resumed_gives_the_same_table(settings, counted, capsys):
    assert prag_benchmark(settings) == 0
    whole, asked = untimed(table(settings)), counted["asked"]
    settings = {**settings, "output": settings["output"] + "2"}
    for chunk in (3, 9, 17):
        counted.clear()
        counted["stop_at"] = chunk
        assert prag_benchmark(settings) == 130
        assert "run the same command again" in capsys.readouterr().err
    counted.clear()
    assert prag_benchmark(settings) == 0
    assert 0 < counted["asked"] < asked
    assert untimed(table(settings)) == whole
    first, second = (answers(settings["output"].removesuffix(end)) for end in ("2", ""))
    assert first == second and len(first) == 28


def untimed(results: dict) -> dict:
    timed = {"seconds": 0, "making_seconds": 0}
    return results | {"cells": [cell | timed for cell in results["cells"]]}


def answers(output: str) -> dict[str, list[dict]]:
    """Every answer file, without what was measured."""
    return {
        str(path.relative_to(output)): [
            json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()
        ]
        for path in Path(output).rglob("*.jsonl")
    }


def test_modes_and_seeds_can_be_added(settings, counted):
    settings["question_sets"][1].pop("conditions")
    assert prag_benchmark(small(settings, conditions=["closed_book"], paths=["trained"])) == 0
    for change, asked in (
        ({"conditions": ["closed_book", "parametric"]}, 12),
        ({"seeds": [1, 0]}, 24),
    ):
        counted.clear()
        settings |= {"conditions": ["closed_book", "parametric"], "seeds": [0]} | change
        found = {"seeds": settings["seeds"], "conditions": settings["conditions"]}
        assert prag_benchmark(small(settings, **found)) == 0
        assert counted["asked"] == asked


def test_below_five_questions_there_is_no_interval(settings):
    settings = small(settings)
    settings["question_sets"][0] |= {"questions": 4}
    assert prag_benchmark(settings) == 0
    found = row(settings, "typed", "parametric", "generated")
    assert (found["questions"], found["documents"]) == (4, 4)
    mean, low, high = found["f1"]
    assert 0 <= mean <= 1 and low is None is high


def test_sub_tasks_have_rows_and_the_total_is_over_the_first(settings):
    settings = small(settings)
    settings["question_sets"][0] |= {"per_type": 4}
    assert prag_benchmark(settings) == 0
    counts = {
        r["sub_task"]: r["questions"]
        for r in table(settings)["cells"]
        if r["condition"] == "parametric"
    }
    assert counts == {"bridge": 4, "comparison": 4, "total": 4}
    kept = json.loads(next(Path(settings["output"]).rglob("questions.json")).read_text())
    assert [q["id"] for q in kept if q["total"]] == ["q0", "q1", "q2", "q3"]
    markdown = (Path(settings["output"]) / "table.md").read_text()
    assert markdown.index("| bridge: parametric (gen") < markdown.index("| parametric (generated)")


def questions(count: int = 40) -> list[Question]:
    return [
        Question(f"q{i}", f"q{i}?", ("a",), (), {"type": TYPES[i % 3 == 0]}) for i in range(count)
    ]


def choose(spec: BenchmarkSet, seed: int, limit: int = 0) -> tuple[list[Question], set[str]]:
    limits = {"trained": limit} if limit else {}
    spec = BenchmarkSet("towns", limits=limits, questions=spec.questions, first=spec.first,
                        per_type=spec.per_type)  # fmt: skip
    (group,) = expand(
        Setup(), Path("x"), [spec], [BenchmarkModel()], ["trained"], ["parametric"], [seed]
    )
    chosen, total = choose_questions(QuestionSet("towns", (), tuple(questions())), group)
    return list(chosen.questions), total


@pytest.mark.parametrize("choice", [{}, {"questions": 20}, {"first": 20}, {"per_type": 9}])
def test_a_limit_chooses_a_part_of_the_whole_choice(choice):
    spec = BenchmarkSet("towns", **choice)
    for seed in (0, 1):
        whole, total = choose(spec, seed)
        part, less = choose(spec, seed, limit=6)
        assert {q.id for q in part} < {q.id for q in whole} and less <= {q.id for q in part}
        assert len(part) == (12 if "per_type" in choice else 6)
        assert [q.id for q in part] == sorted((q.id for q in part), key=lambda i: int(i[1:]))
        assert len(total) == choice.get("per_type", len(whole))


def test_samples_differ_between_seeds():
    spec = BenchmarkSet("towns", questions=20)
    assert choose(spec, 0)[0] != choose(spec, 1)[0]


def test_a_set_under_several_names_is_an_ablation(settings):
    """One change each: adapters of their own, the same documents and questions."""
    source = settings["question_sets"][0] | {"conditions": ["closed_book", "parametric"]}
    changes = {"plain": {}, "smaller": {"training.rank": 1}, "longer": {"training.max_steps": 3},
               "lower": {"training.layers": [0]},
               # One needs the other, in whatever order.
               "stopped": {"training.held_out": 0.5, "training.max_steps": 0}}  # fmt: skip
    sets = [{**source, "name": n, "overrides": o} for n, o in changes.items()]
    chosen = {"question_sets": sets, "paths": ["trained"], "seeds": [0]}
    assert prag_benchmark(settings | chosen) == 0
    rows = {name: row(settings, name, "parametric", "trained") for name in changes}
    assert rows["plain"]["bytes"] == 2 * rows["smaller"]["bytes"] == rows["longer"]["bytes"]
    assert rows["plain"]["bytes"] == 2 * rows["lower"]["bytes"] == rows["stopped"]["bytes"]
    assert all(r["making_seconds"] > 0 and r["documents"] == 6 for r in rows.values())
    assert row(settings, "plain", "closed_book")["making_seconds"] is None
    stored = Path(settings["output"]) / "tiny"
    kept = {n: (stored / n / "seed0/trained/asked/questions.json").read_bytes() for n in changes}
    assert len({*kept.values()}) == 1


def test_texts_are_asked_for_where_a_set_says_so(settings, counted, capsys):
    """Three requests a document, about the documents of the questions that a path is asked."""
    conditions = ["closed_book", "parametric"]
    settings = small(settings, conditions=conditions, seeds=[0, 1], paths=["generated"])
    source = Path(settings["question_sets"][0]["source"])
    texts = {f"d{n}": f"{name} has {n} cats. " * 8 for n, name in enumerate(NAMES)}
    corpus = [{"id": key, "title": key, "text": text} for key, text in texts.items()]
    (source / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    wanted = {"source": str(source), "k": 1, "retrieval": "gold", "questions": 5, "recite": True}
    settings["question_sets"] = [wanted]
    assert prag_benchmark(settings) == 0
    found = row(settings, source.name, "parametric", "generated")
    assert found["questions"] == 2 * 15 and found["documents"] <= 10
    assert {"recited", "recited_by_title", "longest_run", "longest_run_of_all"} <= {*found}
    markdown = (Path(settings["output"]) / "table.md").read_text()
    assert "longest run (words)" in markdown and "| parametric / " not in markdown
    # The answers may be as long as the texts.
    (path,) = Path(settings["output"]).rglob("seed0/generated/parametric.jsonl")
    said = [json.loads(line)["prediction"] for line in path.read_text().splitlines()]
    assert max(len(each.encode()) for each in said) > 3
    counted.clear()
    assert prag_benchmark(settings) == 0 and not counted
    capsys.readouterr()
    assert prag_benchmark(settings | {"conditions": ["closed_book", "combine"]}) == 2
    assert "combine with recite" in capsys.readouterr().err
    # In place of answers it is another measurement.
    assert prag_benchmark(settings | {"question_sets": [wanted | {"recite": False}]}) == 2
    assert "recite" in capsys.readouterr().err


def test_altered_texts_have_shares_of_facts_and_beliefs(settings):
    settings = small(settings, conditions=["closed_book", "parametric"], paths=["generated"])
    source = Path(settings["question_sets"][0]["source"])
    rows = [json.loads(line) for line in (source / "questions.jsonl").read_text().splitlines()]
    for question in rows:
        question["metadata"]["belief"] = ["a"]  # a single letter, whatever the tiny model says
    (source / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings["question_sets"][0].pop("conditions")
    assert prag_benchmark(settings) == 0
    found = row(settings, source.name, "parametric", "generated")
    shares = [found[name][0] for name in ("fact", "belief", "other")]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    (difference,) = table(settings)["differences"]
    assert {"fact", "belief", "other", "f1"} <= {*difference}
    markdown = (Path(settings["output"]) / "table.md").read_text()
    assert "| fact | belief | other |" in markdown


def test_epochs_beside_counted_steps_are_refused(settings, capsys):
    sets = [{**settings["question_sets"][0], "epochs": 2}]
    assert prag_benchmark(settings | {"question_sets": sets}) == 2
    assert "got 2 epochs for plain and training.max_steps 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"training.rang": 1}, "got override 'training.rang' of plain, expected a setting of"),
        ({"store.rank": 1}, "got override 'store.rank'"),
        ({"training.rank": "much"}, "got 'much' for training.rank of plain, expected a int"),
    ],
)
def test_overrides_are_refused(settings, capsys, override, message):
    sets = [{**settings["question_sets"][0], "name": "plain", "overrides": override}]
    assert prag_benchmark(settings | {"question_sets": sets}) == 2
    assert message in capsys.readouterr().err
