"""A whole benchmark over the tiny model: its models, sets and options, and what it wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
import yaml
from conftest import byte_tokenizer, tiny_model
from hypernet_fixtures import CONFIG, network

from hypernet.checkpoint import save_checkpoint
from prag_core import benchmark as run
from prag_core import cli
from prag_core.models import load_base_model
from prag_core.pipeline import ParametricRAG

NAMES = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo", "Gus", "Ha", "Ian", "Jo", "Kim", "Lu"]
TYPES = ("bridge", "comparison")


def save_models(folder: Path) -> Path:
    """The tiny model and its random hypernetwork as folders, as a user would bring them."""
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


def whole_benchmark(model: Path, folder: Path) -> dict:
    """A whole benchmark: 2 sets x 2 paths x 2 seeds."""
    pairs = folder / "pairs.jsonl"
    pairs.write_text(json.dumps({"document": "d1", "question": "Who?", "answer": "Bo"}) + "\n")
    return {
        "output": str(folder / "out"),
        "question_sets": [
            {"source": write_set(folder / "plain"), "documents": 8, "retrieval": "gold", "k": 1,
             "limits": {"trained": 6}},
            {"source": write_set(folder / "typed", types=TYPES), "k": 2,
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


def count_calls(monkeypatch) -> Counter:
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
