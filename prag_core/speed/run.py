"""Parts of `prag speed`: what to measure goes in, rows beside stock PEFT and a table come out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as RichTable

from prag_core.evaluation.tables import Table
from prag_core.model.base_model import load_base_model
from prag_core.speed import NAMED, PARTS
from prag_core.speed.answering import measure_generate, measure_latency, measure_merge
from prag_core.speed.measurement import Measurement, peft_process
from prag_core.speed.scale import measure_place, measure_retrieval
from prag_core.speed.serving import measure_serving
from prag_core.speed.store import measure_store
from prag_core.speed.training import measure_stages, measure_training

# Those that answer share their store of adapters.
ANSWERING = {"merge": measure_merge, "generate": measure_generate, "latency": measure_latency}


def speed_table(report: dict) -> RichTable:
    """Format the report of all parts that were measured."""
    sections = [
        tuple(_texts(part, row) for row in report[part]["rows"])
        for part in (*PARTS, *NAMED)
        if part in report
    ]
    headings = ("part", "ours", "baseline", "ratio", "target", "met")
    return Table("Speed", headings, tuple(sections)).rich()


def _texts(part: str, row: dict) -> tuple[str, ...]:
    values = [row["ours"], row["baseline"]]
    shown = ["" if v is None else f"{v:.4g} {row['unit']}" for v in values]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}x"
    met = {None: "", True: "yes", False: "no"}[row["met"]]
    note = f"\n({row['note']})" if row["note"] else ""  # below the name: tables are narrow
    return f"{part}: {row['name']}{note}", *shown, ratio, row["target"], met


@dataclass(frozen=True)
class Measured:
    """What the parts are measured on; the arguments of `prag speed`."""

    base_model: str
    hypernet: str
    adapters: int
    vllm_python: str
    places: Sequence[str]
    corpus: str
    question_sets: Sequence[str]


def measure_parts(
    parts: Sequence[str], folder: Path, quick: bool, on: Measured
) -> Iterator[tuple[str, list[Measurement]]]:
    """Yield (part, its measurements), one part after the other."""
    if with_model := [part for part in PARTS[:4] if part in parts]:
        base = load_base_model(on.base_model, device="cpu")  # where PEFT runs
        with peft_process(base) as peft:
            for part in with_model:
                if part == "train":
                    yield part, measure_training(base, peft, on.hypernet, quick)
                else:
                    yield part, ANSWERING[part](base, peft, str(folder / "adapters"), quick)
    if "stages" in parts:
        yield "stages", measure_stages(load_base_model(on.base_model), quick)
    # Below the output folder, so that its disk is what is measured.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if "store" in parts:
            count = min(on.adapters, 100) if quick else on.adapters
            yield "store", measure_store(Path(scratch) / "store", count)
        if "serve" in parts:
            yield "serve", measure_serving(on.base_model, on.hypernet, Path(scratch), quick)
        if "vllm" in parts:
            from prag_core.speed.vllm import measure_vllm  # needs httpx, of the extra `server`

            models = on.vllm_python, on.base_model, on.hypernet
            yield "vllm", measure_vllm(*models, Path(scratch), quick)
    if "places" in parts:
        yield "places", [row for place in on.places for row in measure_place(place)]
    if "retrieval" in parts:
        yield "retrieval", measure_retrieval(on.corpus, on.question_sets)
