"""Logger: a comparison's report goes in, a Weights & Biases run with its numbers comes out."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from prag_core.evaluation.report.style import png
from prag_core.evaluation.report.tables import comparison_tables
from prag_core.evaluation.report.wording import interval_of, known, mean_of

HEADER_KEYS = ("title", "base_model", "machine", "command", "paths", "setup", "comparison")


def log_to_wandb(
    report: dict, figures: Mapping[str, Figure], folder: Path | str, project: str = "prag-compare"
) -> None:
    """Log the report's numbers, tables and figures as one run; needs no account.

    Offline (`wandb sync FOLDER/wandb/offline-run-*` uploads it later) unless WANDB_MODE says other.

    Args:
        report: report.json of `prag compare`; parts may be missing.
        figures: of `plots.figures`.
        folder: gets the run, in a folder `wandb`.
        project: of the run.

    Raises:
        ValueError: wandb is not installed.
    """
    wandb = _wandb()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project,
        name=report["title"],
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE") or "offline",
        config={key: report[key] for key in HEADER_KEYS if key in report},
        settings=wandb.Settings(console="off", silent=True),
    )
    try:
        media: dict[str, object] = {
            f"figures/{name}": wandb.Image(_opened(figure)) for name, figure in figures.items()
        }
        for name, (columns, rows) in report_rows(report).items():
            media[f"tables/{name}"] = wandb.Table(columns=columns, data=rows)
        run.log(media)
        run.summary.update(flat_numbers(report))
    finally:
        run.finish()


def _wandb():
    """Return the module, which is an extra."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            "got no wandb, expected the package of the logger: pip install 'prag[train]', or "
            "leave the logger out"
        ) from error
    return wandb


def _opened(figure: Figure):
    from PIL import Image

    return Image.open(io.BytesIO(png(figure)))


def report_rows(report: dict) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return columns and rows of the report's tables and of what the paths disagree on."""
    found = {
        table.key: (
            [table.head, *table.columns],
            [
                [row.head, *(" ".join(filter(None, (c.text, c.detail, c.p))) for c in row.cells)]
                for row in table.rows
            ],
        )
        for table in comparison_tables(report).values()
    }
    if report.get("disagreements"):
        paths = report["paths"]
        rows = [
            [d["question"], " / ".join(d["golden_answers"]), *(d["answers"].get(p) for p in paths)]
            for d in report["disagreements"]
        ]
        found["disagreements"] = (["question", "golden answers", *paths], rows)
    return found


def flat_numbers(report: dict) -> dict[str, float]:
    """Return one number a key, such as `quality/trained/parametric/containment`.

    An interval's ends are under the same key with `_low` and `_high`, a p value with `_p`.
    """
    flat: dict[str, float] = {}
    quality = report.get("quality") or {}
    for mode, result in (quality.get("modes") or {}).items():
        _add(flat, f"quality/{mode}", result["metrics"])
    for row in quality.get("differences") or ():
        _add(flat, f"difference/{row['a']} - {row['b']}", row["metrics"])
    knowledge = report.get("knowledge") or {}
    for name in ("text", "answers", "gap_closed"):
        _add(flat, f"knowledge/{name}", knowledge.get(name))
    similarity = report.get("similarity") or {}
    for name in ("within", "between", "variance"):
        _add(flat, f"similarity/{name}", similarity.get(name))
    _add(flat, "side_effects", report.get("side_effects"))
    merging = report.get("merging") or {}
    for name, points in (merging.get("series") or {}).items():
        for k, point in zip(merging["k"], points, strict=True):
            _add(flat, f"merging/{name}/k{k}", point)
    _add(flat, "cost", report.get("cost"))
    return flat


def _add(flat: dict[str, float], key: str, value: object) -> None:
    """Put a number, an estimate or a mapping of such under its key; leave out the rest."""
    if isinstance(value, Mapping) and "mean" in value and not isinstance(value["mean"], Mapping):
        if mean_of(value) is not None:
            flat[key] = mean_of(value)
        if interval_of(value):
            flat[f"{key}_low"], flat[f"{key}_high"] = interval_of(value)
        if known(value.get("p")):
            flat[f"{key}_p"] = value["p"]
    elif isinstance(value, Mapping):
        for name, member in value.items():
            _add(flat, f"{key}/{name}", member)
    elif isinstance(value, int | float) and known(value):
        flat[key] = value
