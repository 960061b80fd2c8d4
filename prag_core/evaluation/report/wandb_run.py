"""Logger: a comparison's report goes in, a Weights & Biases run with its numbers comes out."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from prag_core.evaluation.report.figures import figures
from prag_core.evaluation.report.names import known
from prag_core.evaluation.report.style import png
from prag_core.evaluation.report.tables import comparison_tables, detail_tables

# Of report.json: what a run is found by, and what its numbers are read from.
HEADER_KEYS = ("title", "base_model", "machine", "command", "paths", "setup", "comparison")
NUMBER_KEYS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost")


def log_to_wandb(report: Mapping, folder: Path | str, project: str = "prag-compare") -> None:
    """Log the report's numbers, tables and figures as one run; needs no account.

    Offline (`wandb sync FOLDER/wandb/offline-run-*` uploads it later) unless WANDB_MODE says other.

    Args:
        report: report.json of `prag compare`; parts may be missing.
        folder: gets the run, in a folder `wandb`.
        project: of the run.

    Raises:
        ValueError: wandb is not installed.
    """
    try:
        import wandb  # an extra
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "got no wandb, expected the package of the logger: pip install 'prag[train]', or "
            "leave the logger out"
        ) from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project,
        name=report["title"],
        dir=str(folder),
        mode=os.environ.get("WANDB_MODE") or "offline",
        config={key: report[key] for key in HEADER_KEYS if key in report},
        # It would take over standard output and write about itself.
        settings=wandb.Settings(console="off", silent=True),
    )
    try:
        media: dict[str, object] = {}
        for name, figure in figures(report).items():
            media[f"figures/{name}"] = wandb.Image(Image.open(io.BytesIO(png(figure))))
        for name, table in (comparison_tables(report) | detail_tables(report)).items():
            # wandb's table has no sections.
            rows = [list(row) for section in table.sections for row in section]
            media[f"tables/{name}"] = wandb.Table(columns=list(table.headings), data=rows)
        run.log(media)
        run.summary.update(flat_numbers(report))
    finally:  # what was logged is on the disk, whatever failed
        run.finish()


def flat_numbers(report: Mapping) -> dict[str, float]:
    """Return one number a key, such as `knowledge/text/trained/parametric/mean`."""
    return {name: value for key in NUMBER_KEYS for name, value in _numbers(key, report.get(key))}


def _numbers(key: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield the numbers in nested mappings under their joined keys; lists are left out."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _numbers(f"{key}/{name}", member)
    elif isinstance(value, int | float) and known(value):
        yield key, value
