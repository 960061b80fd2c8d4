"""Logger: a comparison's report goes in, a Weights & Biases run with its numbers comes out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from prag_core.evaluation.estimates import known
from prag_core.evaluation.report.page import render_report
from prag_core.evaluation.results import flatten

# Of report.json: what a run is found by, and what its numbers are read from.
HEADER_KEYS = ("title", "base_model", "machine", "command", "paths", "setup", "comparison")
NUMBER_KEYS = ("quality", "knowledge", "similarity", "side_effects", "merging", "cost")


def log_to_wandb(report: Mapping, folder: Path | str, project: str = "prag-compare") -> None:
    """Log the report's page and every number in it as one run; needs no account.

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
        # The page has all tables and figures, and needs nothing beside it.
        run.log({"report": wandb.Html(render_report(report), inject=False)})
        run.summary.update(flat_numbers(report))
    finally:  # what was logged is on the disk, whatever failed
        run.finish()


def flat_numbers(report: Mapping) -> dict[str, float]:
    """Return one number a key, such as `knowledge/text/trained/parametric/mean`; no lists."""
    flat = flatten({key: report[key] for key in NUMBER_KEYS if report.get(key)}, "/")
    return {name: v for name, v in flat.items() if isinstance(v, int | float) and known(v)}
