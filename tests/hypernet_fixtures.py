"""A tiny question set and networks for the hypernetwork's tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hypernet.checkpoint import load_checkpoint, save_checkpoint
from hypernet.encoder import Encoder, pad
from hypernet.network import RidgeHead, build_head
from hypernet.network_config import NetworkConfig
from hypernet.parametrizer import HypernetParametrizer
from prag_core.documents import Document

CONFIG = NetworkConfig(layers=(0, 1), width=16, blocks=1, attention_heads=2, shared_rows=3, rows=4)
FACTS = {"Ana": "red", "Bob": "tin", "Cy": "oak", "Dee": "jam", "Eli": "fog", "Fay": "sun"}
DOCUMENTS = [Document(f"{name} likes {thing}.", name) for name, thing in FACTS.items()]


def network(base, config: NetworkConfig = CONFIG, seed: int = 0) -> RidgeHead:
    """A calibrated network whose parameters are all different from zero."""
    torch.manual_seed(seed)
    head = build_head(config, *base.module_shape("down_proj"))
    for parameter in head.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    encoder = Encoder(base, config.layers)
    rows = [encoder.frame(base.tokenizer(d.text).input_ids) for d in DOCUMENTS]
    head.calibrate(*encoder.statistics(*pad(rows, 0)))
    return head


def parametrizer(base, folder: Path, **options) -> HypernetParametrizer:
    """A parametrizer of a random network, through a checkpoint in float32."""
    save_checkpoint(folder, network(base), CONFIG, base, dtype=torch.float32)
    options = {"dtype": "float32", "max_tokens": 64, "overlap": 8} | options
    return HypernetParametrizer(base, load_checkpoint(folder, base), **options)


def write_question_set(folder: Path) -> Path:
    """Write corpus.jsonl and questions.jsonl, one question a document."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, questions = [], []
    for number, (name, thing) in enumerate(FACTS.items()):
        corpus.append({"id": str(number), "title": name, "text": f"{name} likes {thing}."})
        questions.append(
            {
                "id": f"q{number}",
                "question": f"What does {name} like?",
                "golden_answers": [thing],
                "gold_ids": [str(number)],
            }
        )
    for name, records in (("corpus", corpus), ("questions", questions)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder
