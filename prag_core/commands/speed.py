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
from prag_core.speed import PARTS


def speed(
    output: str = "runs/speed",
    parts: tuple[Literal["train", "merge", "generate", "latency", "store", "serve"], ...] = PARTS,
    quick: bool = False,
    base_model: str = EMBEDDED_NAME,
    hypernet: str = Setup.hypernet,
    adapters: int = 100_000,
) -> None:
    """Measure speed beside stock PEFT; parts measured earlier stay in the file.

    Args:
        output: folder for speed.json and for the adapters that are measured with.
        parts: what to measure.
        quick: one or two of everything, to see that all parts run; its figures mean nothing.
        base_model: `smollm2-135m` (embedded) or a local folder.
        hypernet: checkpoint of the generated path, for the parts `train` and `serve`.
        adapters: adapters in the store of part `store`.
    """
    from prag_core.model.hardware import machine
    from prag_core.speed.run import measure_parts, speed_table

    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speed.json"
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for part, rows in measure_parts(parts, folder, quick, base_model, hypernet, adapters):
        report[part] = {
            "base_model": base_model,
            "quick": quick,
            "measured": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": machine(),
            "rows": [asdict(row) for row in rows],
        }
        write_json(path, report)  # after every part: a run that is stopped keeps the others
    Console().print(speed_table(report))
