"""Benchmark: how fast each path is beside stock PEFT, as one table and as JSON."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from prag_core.files import write_json
from prag_core.model.base_model import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.model.hardware import machine
from prag_core.pipeline.parts import Setup
from prag_core.speed.answering import bench_generate, bench_latency, bench_merge
from prag_core.speed.measurement import Measurement, PeftProcess, limited, reached
from prag_core.speed.serving import bench_serving
from prag_core.speed.store import bench_store
from prag_core.speed.training import bench_training

PARTS = ("train", "merge", "generate", "latency", "store", "serve")
HYPERNET = Setup().hypernet
STORE_LIMITS = (
    ("open", "open_ms", "ms", 50),
    ("get one at random", "get_ms", "ms", 1),
)


def bench(
    output: str = "runs/bench",
    parts: tuple[Literal["train", "merge", "generate", "latency", "store", "serve"], ...] = PARTS,
    quick: bool = False,
    base_model: str = EMBEDDED_NAME,
    hypernet: str = HYPERNET,
    adapters: int = 100_000,
) -> None:
    """Measure speed beside stock PEFT in one run; parts measured earlier stay in the file.

    Args:
        output: folder for bench.json and for the adapters that are measured with.
        parts: what to measure.
        quick: one or two of everything, to see that all parts run; its figures mean nothing.
        base_model: `smollm2-135m` (embedded) or a local folder.
        hypernet: checkpoint of the generated path, for the parts `train` and `serve`.
        adapters: adapters in the store of part `store`.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bench.json"
    report = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for part, rows in _measure(parts, folder, quick, base_model, hypernet, adapters):
        report[part] = {
            "base_model": base_model,
            "quick": quick,
            "measured": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": machine(),
            "rows": [row.as_row() for row in rows],
        }
        write_json(path, report)
    Console().print(bench_table(report))


def bench_table(report: dict) -> Table:
    """Format the report of all parts that were measured."""
    table = Table(title="Speed", title_justify="left")
    for name in ("part", "ours", "baseline", "ratio", "target", "met"):
        numeric = name in ("ours", "baseline", "ratio")
        table.add_column(name, justify="right" if numeric else "left")
    for part in (part for part in PARTS if part in report):
        for row in report[part]["rows"]:
            values = [row[name] for name in ("ours", "baseline")]
            shown = ["" if v is None else f"{v:.4g} {row['unit']}" for v in values]
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}x"
            met = {None: "", True: "yes", False: "no"}[row["met"]]
            note = f"\n({row['note']})" if row["note"] else ""
            name = f"{part}: {row['name']}{note}"
            table.add_row(name, *shown, ratio, row["target"], met)
        table.add_section()
    return table


def _measure(parts, folder: Path, quick: bool, base_model: str, hypernet: str, adapters: int):
    """Yield (part, its measurements), one part after the other."""
    with_model = [part for part in PARTS[:4] if part in parts]
    if with_model:
        base = load_base_model(base_model, device="cpu")
        with PeftProcess(base) as peft:
            for part in with_model:
                rows = _measure_part(part, base, peft, hypernet, str(folder / "adapters"), quick)
                yield part, rows
    if "store" in parts:
        yield "store", _measure_store(folder, adapters)
    if "serve" in parts:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield "serve", bench_serving(base_model, hypernet, Path(scratch), quick)


def _measure_part(
    part: str, base: BaseModel, peft: PeftProcess, hypernet: str, store: str, quick: bool
) -> list[Measurement]:
    if part == "train":
        return bench_training(base, peft, hypernet, quick)
    if part == "merge":
        return bench_merge(base, peft, store, quick)
    if part == "generate":
        return bench_generate(base, peft, store, quick)
    return bench_latency(base, store, quick)


def _measure_store(folder: Path, adapters: int) -> list[Measurement]:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = bench_store(scratch, adapters)
    note = f"{found['count']} adapters, rank 2"
    rows = [
        limited("store", name, found[key], unit, limit, note)
        for name, key, unit, limit in STORE_LIMITS
    ]
    rows.append(reached("store", "put in batches", found["write_per_second"], "/s", 500, note))
    return [*rows, Measurement("store", "size over raw", found["overhead_percent"], "%", note=note)]
