"""The benchmark on the tiny model: cells, resuming, refusals, published numbers, the YAML files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import byte_tokenizer, tiny_model
from hypernet_fixtures import CONFIG, network

from hypernet.checkpoint import save_checkpoint
from prag_core import benchmark as run
from prag_core import cli
from prag_core.benchmark_options import BenchmarkModel, BenchmarkSet, expand
from prag_core.benchmark_published import load_published, published_f1
from prag_core.benchmark_sets import KeptHits, choose
from prag_core.benchmark_table import _estimates
from prag_core.build import Setup
from prag_core.metrics import METRICS, bootstrap_interval, ratio_interval
from prag_core.models import load_base_model
from prag_core.pipeline import ParametricRAG
from prag_core.questions import Question
from prag_core.retrieval import make_retriever

CONFIGS = Path(__file__).parent.parent / "configs"
NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Ha", "Ian", "Jo", "Kim", "Lu"]
TYPES = ("bridge", "comparison")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model and its random hypernetwork as folders, as a user would bring them."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_model()
    base.model.config.max_position_embeddings = 4096  # one token a byte: prompts are long
    base.model.save_pretrained(folder / "tiny")
    byte_tokenizer().save_pretrained(folder / "tiny")
    loaded = load_base_model(str(folder / "tiny"), "float32")
    save_checkpoint(folder / "hypernet", network(loaded), CONFIG, loaded, dtype=torch.float32)
    return folder


def write_set(folder: Path, count: int = 12, types: tuple[str, ...] = ("",)) -> str:
    """One document and one question a person."""
    folder.mkdir(parents=True)
    people = list(enumerate(NAMES[:count]))
    documents = [{"id": f"d{i}", "title": n, "text": f"{n} has {i} cats."} for i, n in people]
    questions = [
        {"id": f"q{i}", "question": f"How many has {n}?", "golden_answers": [str(i)],
         "gold_ids": [f"d{i}"], "metadata": {"type": types[i % len(types)]}}
        for i, n in people
    ]  # fmt: skip
    for name, rows in (("corpus", documents), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def settings(model, tmp_path):
    """A whole benchmark: 2 sets x 2 paths x 2 seeds."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"document": "d1", "question": "Who?", "answer": "Bo"}) + "\n")
    return {
        "output": str(tmp_path / "out"),
        "question_sets": [
            {"source": write_set(tmp_path / "plain"), "documents": 8, "retrieval": "gold", "k": 1,
             "limits": {"trained": 6}},
            {"source": write_set(tmp_path / "typed", types=TYPES), "k": 2,
             "modes": ["closed_book", "in_context", "parametric", "shuffled"]},
        ],
        "base_models": [
            {"name": str(model / "tiny"), "dtype": "float32", "hypernet": str(model / "hypernet")}
        ],
        "paths": ["generated", "trained"],
        "modes": ["closed_book", "in_context", "da_rag", "parametric", "shuffled", "sft"],
        "seeds": [0, 1],
        "augmentation": {"strategy": "file", "file": str(pairs)},
        "training": {"epochs": 1, "rank": 2},
        "generation": {"max_new_tokens": 3},
    }  # fmt: skip


@pytest.fixture
def counted(monkeypatch):
    """Counts models loaded, sets loaded and questions asked."""
    calls = Counter()
    answer, load = ParametricRAG.answer, run.load_base_model

    def counting_answer(self, questions, *arguments, **options):
        calls["asked"] += len(questions)
        calls["chunks"] += 1
        if calls["chunks"] == calls["stop_at"]:
            raise KeyboardInterrupt
        return answer(self, questions, *arguments, **options)

    def counting_load(*arguments):
        calls["models"] += 1
        return load(*arguments)

    monkeypatch.setattr(ParametricRAG, "answer", counting_answer)
    monkeypatch.setattr(run, "load_base_model", counting_load)
    return calls


def prag_benchmark(settings: dict) -> int:
    path = Path(settings["output"]).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    return cli.main(["benchmark", "--config", str(path)])


def table(settings: dict) -> dict:
    return json.loads((Path(settings["output"]) / "table.json").read_text())


def row(settings: dict, question_set: str, mode: str, path: str = "", sub_task: str = "total"):
    found = [
        r
        for r in table(settings)["rows"]
        if (r["question_set"], r["mode"], r["path"], r["sub_task"])
        == (question_set, mode, path, sub_task)
    ]
    assert len(found) == 1, found
    return found[0]


def small(settings: dict, **changes) -> dict:
    """One set, one seed, the generated path: the quickest benchmark."""
    chosen = {"question_sets": settings["question_sets"][1:], "seeds": [0], "paths": ["generated"]}
    modes = ["closed_book", "in_context", "parametric", "shuffled"]
    return {**settings, **chosen, "modes": modes, **changes}


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
    settings["question_sets"][0]["modes"].append("combine")
    assert prag_benchmark(settings) == 2
    assert "got other questions from" in capsys.readouterr().err
    assert row(settings, "typed", "closed_book")["questions"] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modes": ["parametric", "closed"]}, "got modes ['parametric', 'closed'], expected"),
        ({"paths": ["generated"], "modes": ["sft"]}, "without the path trained"),
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
        ({"k": 0}, "k from 1 on"),
        ({"limits": {"trained": 0}}, "expected 1 or more each"),
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


def test_below_five_questions_there_is_no_interval_and_a_word_why(settings, capsys):
    settings = small(settings)
    settings["question_sets"][0] |= {"questions": 4}
    assert prag_benchmark(settings) == 0
    found = row(settings, "typed", "parametric", "generated")
    assert found["metrics"]["f1"]["low"] is None
    assert found["note"] == "below 5 questions an interval means nothing"
    assert found["note"] in (Path(settings["output"]) / "table.md").read_text()


def test_a_failing_cell_does_not_stop_the_others(settings, capsys, monkeypatch, model):
    settings["question_sets"].insert(0, {"source": "no/such/set"})
    settings["base_models"].insert(0, {"name": "no/such/model", "dtype": "float32"})
    settings["seeds"] = [0]
    answer = ParametricRAG.answer

    def short_of_memory(self, questions, mode, *arguments, **options):
        if mode == "sft":
            raise torch.OutOfMemoryError("out of memory")
        return answer(self, questions, mode, *arguments, **options)

    monkeypatch.setattr(ParametricRAG, "answer", short_of_memory)
    assert prag_benchmark(settings) == 2
    error = capsys.readouterr().err
    assert "tiny, set, seed 0, in_context: got no/such/set" in error
    assert "model, plain, seed 0, in_context: " in error
    assert "tiny, plain, seed 0, sft (trained): OutOfMemoryError('out of memory')" in error
    failed = table(settings)["failed"]
    assert set(failed) >= {"tiny, plain, seed 0, sft (trained)"}
    rows = table(settings)["rows"]
    modes = [r["mode"] for r in rows if r["path"] == "trained" and r["question_set"] == "plain"]
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
    from prag_core.datasets import load_question_set

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


def paper_group(**changes):
    spec = {"source": "x", "name": "2wikimultihopqa", "corpus": "psgs_w100.tsv"}
    spec |= {"per_type": 300} | changes.pop("spec", {})
    model = BenchmarkModel(changes.pop("model", "meta-llama/Llama-3.2-1B-Instruct"), hypernet="h")
    path = changes.pop("path", "trained")
    groups = expand(
        Setup(), Path("x"), [BenchmarkSet(**spec)], [model], ["trained", "generated"],
        ["in_context", "parametric"], [0],
    )  # fmt: skip
    return next(group for group in groups if group.path == path)


def test_published_numbers_stand_beside_the_same_cell_only():
    published = load_published()
    assert published_f1(published, paper_group(), "total", "parametric") == 0.276
    assert published_f1(published, paper_group(path="shared"), "total", "in_context") == 0.252
    local = paper_group(model="models/Llama-3.2-1B-Instruct")
    assert published_f1(published, local, "total", "combine") == 0.324
    for group in (
        paper_group(path="generated"),
        paper_group(model="smollm2-135m"),
        paper_group(spec={"name": "2wikimultihopqa_dev500"}),
        paper_group(spec={"k": 1}),
        paper_group(spec={"corpus": ""}),
        paper_group(spec={"per_type": 0, "questions": 300}),
        paper_group(spec={"per_type": 20}),
        paper_group(spec={"limits": {"trained": 20}}),
        paper_group(spec={"retrieval": "gold"}),
    ):
        assert published_f1(published, group, "total", "parametric") is None
    assert published_f1(published, paper_group(), "bridge", "parametric") is None
    assert published_f1(published, paper_group(), "total", "shuffled") is None


def test_published_numbers_name_their_source():
    published = load_published()
    assert "2501.15915" in published["source"]
    keys = [tuple(v for k, v in cell.items() if k != "f1") for cell in published["cells"]]
    assert len({*keys}) == len(keys) == 24
    assert all(0 < cell["f1"] < 1 for cell in published["cells"])


def on_tiny(config: dict, model: Path, tmp_path: Path, pairs: str) -> dict:
    """Put tiny models and sets in the places of a YAML's; every other option stays."""
    corpus = write_set(tmp_path / "corpus") + "/psgs_w100.jsonl"
    (tmp_path / "corpus/corpus.jsonl").rename(corpus)
    for number, spec in enumerate(config["question_sets"]):
        spec["name"] = spec.get("name") or Path(spec["source"]).name
        spec["source"] = write_set(tmp_path / f"set{number}", types=TYPES)
        spec.pop("split", None)
        spec |= {"corpus": corpus} if spec.get("corpus") else {}
        spec |= {"documents": 9} if spec.get("documents") else {}
        spec |= {"questions": 6} if spec.get("questions") else {}
        spec |= {"max_new_tokens": 2}
        if spec.get("limits"):
            spec["limits"] = dict.fromkeys(spec["limits"], 5)
    for member in config["base_models"]:
        folder = tmp_path / "hub" / member["name"].rsplit("/")[-1]
        shutil.copytree(model / "tiny", folder)
        member |= {"name": str(folder), "dtype": "float32", "hypernet": str(model / "hypernet")}
    config["augmentation"] = {"strategy": "file", "file": pairs}
    return config | {"output": str(tmp_path / "out"), "device": "cpu"}


@pytest.mark.parametrize("name", ["benchmark_smollm2", "benchmark_paper"])
def test_every_cell_of_the_yaml_files_is_built_on_a_tiny_model(name, settings, model, tmp_path):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    pairs = settings["augmentation"]["file"]
    config = on_tiny(config, model, tmp_path / "run", pairs)
    assert prag_benchmark(config) == 0
    rows = [r for r in table(config)["rows"] if r["sub_task"] == "total"]
    for member in config["base_models"]:
        for spec in config["question_sets"]:
            found = Counter(
                r["mode"]
                for r in rows
                if r["base_model"] == Path(member["name"]).name
                and r["question_set"] == spec["name"]
            )
            both = dict.fromkeys(("parametric", "combine", "shuffled"), 2)
            modes = spec.get("modes") or config["modes"]
            assert found == Counter({mode: both.get(mode, 1) for mode in modes})
    published = {r["published"] for r in rows} - {None}
    assert len(published) == (24 if name == "benchmark_paper" else 0)
    if published:
        assert "published .276" in (tmp_path / "run" / "out" / "table.md").read_text()


def test_the_papers_settings_reach_the_cells(monkeypatch):
    config = yaml.safe_load((CONFIGS / "benchmark_paper.yaml").read_text())
    groups = []
    monkeypatch.setattr(run, "run_groups", lambda found, *_: groups.extend(found) or {})
    monkeypatch.setattr(run, "claim_folder", lambda *_: None)
    monkeypatch.setattr(run, "_write_table", lambda *_: None)
    path = CONFIGS / "benchmark_paper.yaml"
    assert cli.main(["benchmark", "--config", str(path)]) == 0
    assert len(groups) == 3 * 4 * 3
    setups = {(g.model.label, g.spec.label): g.setup for g in groups if g.path == "trained"}
    one, eight = "Llama-3.2-1B-Instruct", "Meta-Llama-3-8B-Instruct"
    qwen = "Qwen2.5-1.5B-Instruct"
    assert setups[one, "popqa"].training.epochs == 2 == setups[qwen, "hotpotqa"].training.epochs
    assert setups[one, "hotpotqa"].training.epochs == 1
    assert setups[eight, "popqa"].training.rank == 8 and setups[one, "popqa"].training.rank == 2
    assert setups[one, "2wikimultihopqa"].answering.style == "cot"
    assert setups[one, "popqa"].answering.style == "direct"
    assert setups[one, "popqa"].generation.max_new_tokens == 20
    paper = replace(setups[one, "hotpotqa"].training, epochs=1)
    assert (paper.scheme, paper.loss, paper.alpha, paper.learning_rate) == (
        "paper", "all", 32, 3e-4,
    )  # fmt: skip
    assert {g.spec.per_type or g.spec.first for g in groups} == {300}
    assert {member["rank"] for member in config["base_models"]} == {2, 8}
