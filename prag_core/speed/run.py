"""Parts of `prag speed`: what to measure goes in, rows beside stock PEFT and a table come out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.speed.answering import measure_generate, measure_latency, measure_merge
from prag_core.speed.measurement import Measurement, PeftProcess, limited, reached
from prag_core.speed.serving import measure_serving
from prag_core.speed.store import measure_store
from prag_core.speed.training import measure_training

PARTS = ("train", "merge", "generate", "latency", "store", "serve")
STORE_LIMITS = (
    ("open", "open_ms", "ms", 50),
    ("get one at random", "get_ms", "ms", 1),
)


def speed_table(report: dict) -> Table:
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


def measure_parts(
    parts: Sequence[str], folder: Path, quick: bool, base_model: str, hypernet: str, adapters: int
) -> Iterator[tuple[str, list[Measurement]]]:
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
            yield "serve", measure_serving(base_model, hypernet, Path(scratch), quick)


def _measure_part(
    part: str, base: BaseModel, peft: PeftProcess, hypernet: str, store: str, quick: bool
) -> list[Measurement]:
    if part == "train":
        return measure_training(base, peft, hypernet, quick)
    if part == "merge":
        return measure_merge(base, peft, store, quick)
    if part == "generate":
        return measure_generate(base, peft, store, quick)
    return measure_latency(base, store, quick)


def _measure_store(folder: Path, adapters: int) -> list[Measurement]:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = measure_store(scratch, adapters)
    note = f"{found['count']} adapters, rank 2"
    rows = [
        limited("store", name, found[key], unit, limit, note)
        for name, key, unit, limit in STORE_LIMITS
    ]
    rows.append(reached("store", "put in batches", found["write_per_second"], "/s", 500, note))
    return [*rows, Measurement("store", "size over raw", found["overhead_percent"], "%", note=note)]
