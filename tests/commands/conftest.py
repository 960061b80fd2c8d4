"""A tiny base model as a folder, a corpus with questions, and options that every command takes."""

from __future__ import annotations

import json

import pytest

from tests.fixtures.tiny import byte_tokenizer, tiny_model


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """The tiny model as a local folder, as a user would bring one."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path):
    """Six documents with three questions, in a folder that loads as a question set."""
    names = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo"]
    folder = tmp_path / "set"
    folder.mkdir()
    documents = [
        {"id": f"d{i}", "title": n, "text": f"{n} lives in house {i}."} for i, n in enumerate(names)
    ]
    questions = [
        {"id": f"q{i}", "question": f"Where does {n} live?", "golden_answers": [f"house {i}"],
         "gold_ids": [f"d{i}"]}
        for i, n in enumerate(names)
    ]  # fmt: skip
    for name, rows in (("corpus", documents), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def options(tiny_folder, tmp_path):
    """Options that every pipeline command takes here: tiny model, ready-made pairs."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"document": "d1", "question": "Who?", "answer": "Bo"}) + "\n")
    return [
        f"--base_model={tiny_folder}", "--dtype=float32", "--path=trained",
        "--augmentation.strategy=file",
        f"--augmentation.file={pairs}", "--generation.max_new_tokens=4",
    ]  # fmt: skip
