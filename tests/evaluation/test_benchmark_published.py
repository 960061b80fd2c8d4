"""The benchmark's YAML files, and the published numbers beside their cells."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from prag_core import cli
from prag_core.evaluation import benchmark
from prag_core.evaluation.benchmark_options import UNADAPTED, BenchmarkModel, BenchmarkSet, expand
from prag_core.evaluation.benchmark_results import published_f1
from prag_core.pipeline.setup import Setup
from prag_core.training.lora_trainer import PAPER
from tests.fixtures.benchmarks import (
    TYPES,
    prag_benchmark,
    table,
    write_set,
)
from tests.fixtures.paths import CONFIGS, ROOT


def published_numbers() -> dict:
    return json.loads((files("prag_core") / "resources" / "published.json").read_text("utf-8"))


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
    published = published_numbers()
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
    published = published_numbers()
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
    rows = [r for r in table(config)["cells"] if r["sub_task"] == "total"]
    for member in config["base_models"]:
        for spec in config["question_sets"]:
            found = Counter(
                r["condition"]
                for r in rows
                if r["base_model"] == Path(member["name"]).name and r["set"] == spec["name"]
            )
            both = dict.fromkeys(("parametric", "combine", "shuffled"), 2)
            modes = spec.get("conditions") or config["conditions"]
            assert found == Counter({mode: both.get(mode, 1) for mode in modes})
    published = {r["published"] for r in rows} - {None}
    assert len(published) == (24 if name == "benchmark_paper" else 0)
    if published:
        assert "published 27.6" in (tmp_path / "run" / "out" / "table.md").read_text()


def test_the_papers_settings_reach_the_cells(monkeypatch, tmp_path):
    groups = []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "benchmark_paper").mkdir(parents=True)
    monkeypatch.setattr(benchmark, "run_benchmark", lambda found, *_: groups.extend(found) or {})
    path = CONFIGS / "benchmark_paper.yaml"
    assert cli.main(["benchmark", "--config", str(path)]) == 0
    assert len(groups) == 3 * 4 * 3
    setups = {(g.model.label, g.spec.label): g.setup for g in groups if g.path == "trained"}
    one, eight = "Llama-3.2-1B-Instruct", "Meta-Llama-3-8B-Instruct"
    qwen = "Qwen2.5-1.5B-Instruct"
    assert setups[one, "popqa"].training.epochs == 2 == setups[qwen, "hotpotqa"].training.epochs
    assert setups[one, "hotpotqa"].training.epochs == 1
    assert setups[eight, "popqa"].training.epochs == 2
    assert {setup.training.rank for setup in setups.values()} == {2}
    for set_name, prompt in (("2wikimultihopqa", "paper_cot"), ("popqa", "paper")):
        setup = setups[one, set_name]
        assert setup.answering.prompt == setup.training.prompt == prompt
    # Ours are asked as they were made.
    assert {g.setup.answering.prompt for g in groups if g.path == "generated"} == {"auto"}
    assert setups[one, "popqa"].generation.max_new_tokens == 20
    paper = replace(setups[one, "hotpotqa"].training, epochs=1)
    assert paper == replace(PAPER, prompt="paper_cot")
    assert {g.spec.per_type or g.spec.first for g in groups} == {300}


@pytest.mark.parametrize("name", ["results_smollm2", "results_qwen_0.5b", "belief_smollm2"])
def test_a_shipped_results_file_has_the_cells_of_its_configuration(name, monkeypatch, tmp_path):
    groups = []
    path = CONFIGS / f"{name}.yaml"
    config = yaml.safe_load(path.read_text())
    monkeypatch.chdir(tmp_path)
    (tmp_path / config["output"]).mkdir(parents=True)
    monkeypatch.setattr(benchmark, "run_benchmark", lambda found, *_: groups.extend(found) or {})
    assert cli.main(["benchmark", "--config", str(path)]) == 0
    paths = dict.fromkeys(UNADAPTED, "")
    wanted = {(g.spec.label, paths.get(g.path, g.path), c) for g in groups for c in g.conditions}
    (member,) = config["base_models"]
    results = json.loads((ROOT / member["results"]).read_text())
    assert {(c["set"], c["path"], c["condition"]) for c in results["cells"]} == wanted
