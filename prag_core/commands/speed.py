"""Speed: how fast each path is beside stock PEFT, as one table and as JSON."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.console import Console

from prag_core.files import write_json
from prag_core.model.catalogue import EMBEDDED_NAME
from prag_core.pipeline.setup import Setup
from prag_core.speed import NAMED, PARTS

Part = Literal[
    "train", "merge", "generate", "latency", "store", "serve", "stages", "vllm", "places",
    "retrieval",
]  # fmt: skip


def speed(
    output: str = "runs/speed",
    parts: tuple[Part, ...] = PARTS,
    quick: bool = False,
    base_model: str = EMBEDDED_NAME,
    hypernet: str = Setup.hypernet,
    adapters: int = 100_000,
    vllm_python: str = "",
    places: tuple[str, ...] = (),
    corpus: str = "",
    question_sets: tuple[str, ...] = (),
) -> None:
    """Measure speed beside stock PEFT; parts measured earlier stay in the file.

    Args:
        output: folder for speed.json and for the adapters that are measured with.
        parts: what to measure; `stages` (of the trained path), `vllm`, `places` and `retrieval`
            when they are named.
        quick: one or two of everything, to see that all parts run; its figures mean nothing, and
            stand in speed.quick.json.
        base_model: `smollm2-135m` (embedded) or a local folder.
        hypernet: checkpoint of the generated path, for the parts `train`, `serve` and `vllm`.
        adapters: adapters in the store of part `store`.
        vllm_python: for part `vllm`, the Python of an environment with vLLM and this package, such
            as .venv-vllm/bin/python of `make test-vllm`.
        places: for part `places`, stores that are there, by folder or url.
        corpus: for part `retrieval`, what is searched; with the documents of the question sets.
        question_sets: for part `retrieval`, sets whose questions are asked.
    """
    from prag_core.model.hardware import machine
    from prag_core.speed.run import Measured, measure_parts, speed_table

    on = Measured(base_model, hypernet, adapters, vllm_python, places, corpus, question_sets)
    for named, options in NAMED.items():
        lacking = [option for option in options if named in parts and not getattr(on, option)]
        if lacking:
            raise ValueError(f"got the part {named} without --{lacking[0]}, expected both: name it")
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("speed.quick.json" if quick else "speed.json")
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for part, rows in measure_parts(parts, folder, quick, on):
        report[part] = {
            "base_model": base_model,
            "quick": quick,
            "measured": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        write_json(path, report)  # after every part: a run that is stopped keeps the others
    Console().print(speed_table(report))
