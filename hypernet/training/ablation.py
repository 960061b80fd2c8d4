"""Ablation: variants of one configuration go in; each is trained for the same time, then compared.

    YAML -> variants/NAME/{command.json, metrics.csv, config.yaml, export} -> table.md, figure.svg

A variant is trained in a process of its own and kept when it is finished: a second run of the same
command trains what is missing.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import load_checkpoint
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.scores import score_network
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.estimates import format_estimate
from prag_core.evaluation.report.style import MARKERS, TOPIC_COLOURS, styled
from prag_core.evaluation.tables import Table
from prag_core.files import write_json
from prag_core.model.base_model import BaseModel, load_base_model

CURVES = {"own": "val/gold_nll", "another's": "val/shuffled_nll", "none": "val/closed_book_nll"}


def ablate(
    fit_config: str = "configs/hypernet.yaml",
    variants: dict[str, dict[str, Any]] | None = None,
    common: dict[str, Any] | None = None,
    output: str = "runs/ablation",
    minutes: float = 5.0,
    every: int = 10,
    documents: int = 40,
    conditions: tuple[str, ...] = ("gold", "shuffled"),
    measured: tuple[str, ...] = (),
    drawn: tuple[str, ...] = (),
) -> None:
    """Train variants of a configuration for the same time and set them side by side.

    Args:
        fit_config: YAML of `fit` that every variant starts from.
        variants: by name, the settings that differ, e.g. {"model.network.head": "perceiver"}.
        common: settings of all variants that differ from the configuration.
        output: folder for runs, table.md, table.json and figure.svg.
        minutes: of training, validations included.
        every: steps between two validations (points of the figure).
        documents: held-out documents whose questions are answered.
        conditions: asked of every variant (see `prag_core.evaluation.conditions`).
        measured: conditions asked of the first variant beside these, e.g. `rank:64`.
        drawn: variants in the figure; all when empty.
    """
    names = list(variants or {})
    if not names or (unknown := sorted(set(drawn) - set(names))):
        raise ValueError(
            f"got variants {names} and drawn {list(drawn)}, expected at least one variant, and "
            f"only such names in drawn: {f'correct {unknown}' if names else 'add one'}"
        )
    text = Path(fit_config).read_text(encoding="utf-8")
    record = yaml.safe_load(text)
    folders = {name: Path(output) / "variants" / name for name in names}
    for name, folder in folders.items():
        changes = {**(common or {}), **variants[name]}
        train(fit_arguments(fit_config, changes, folder, minutes, every), text, folder)
    base = load_base_model(record["model"]["base_model"], record["model"].get("dtype", "auto"))
    sample, rows = held_out(record["data"], base, documents), []
    for name, folder in folders.items():
        # Those that take long are answered by the first variant alone.
        cells = conditions if rows else (*conditions, *measured)
        rows.append({"name": name, **compare(folder, base, sample, cells)})
    result = {"minutes": minutes, "questions": len(sample.questions), "rows": rows}
    write_json(Path(output) / "table.json", result)
    text = "\n\n".join(table.markdown() for table in format_tables(result)) + "\n"
    (Path(output) / "table.md").write_text(text, encoding="utf-8")
    # Ten variants are a table; as curves they would hide each other.
    shown = [row for row in rows if row["name"] in (drawn or names)]
    write_curves(shown, Path(output) / "figure.svg")
    print(text)


def fit_arguments(
    fit_config: str, changes: Mapping[str, Any], folder: Path, minutes: float, every: int
) -> list[str]:
    """Return the arguments of `hypernet fit` with a variant's settings, its time and its folder."""
    settings = changes | {
        "output": str(folder),
        "trainer.max_time": {"seconds": round(60 * minutes)},
        "trainer.val_check_interval": every,
        "trainer.enable_progress_bar": False,
        "trainer.logger": {  # metrics.csv in the folder itself, not in one a run
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(folder), "name": "", "version": ""},
        },
    }
    # A text is read as it stands, everything else as YAML, of which JSON is a part.
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    return ["fit", f"--config={fit_config}", *(f"--{k}={v}" for k, v in values.items())]


def train(arguments: list[str], configuration: str, folder: Path) -> None:
    """Run `fit` in a new process, unless it was finished with these arguments and this YAML.

    Raises:
        ValueError: the folder holds a run with other settings.
        ChildProcessError: `fit` failed.
    """
    command, done = {"arguments": arguments, "configuration": configuration}, folder / "done"
    file = folder / "command.json"
    if done.is_file():
        if json.loads(file.read_text(encoding="utf-8")) != command:
            raise ValueError(
                f"got settings other than those that {folder} was trained with, expected the "
                "same: choose another output, or delete the folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, command)
    (folder / "metrics.csv").unlink(missing_ok=True)  # of a run that was stopped
    print(f"training {folder.name}", flush=True)
    # A process of its own: what one variant leaves behind in memory slows down no other.
    if subprocess.run([sys.executable, "-m", "hypernet", *arguments], check=False).returncode:
        raise ChildProcessError(f"the training of {folder.name} failed: see its messages above")
    done.touch()


def held_out(data: Mapping, base: BaseModel, documents: int) -> QuestionSet:
    """Return held-out documents and their questions, the same for every variant."""
    # A batch draws nothing here; corpora are only read where they are what is held out.
    data = {key: value for key, value in data.items() if key != "batch"}
    data |= {"corpora": [], "weights": []} if data.get("question_sets") else {}
    module = HypernetDataModule(**data | {"leave_out": LeaveOut(**data.get("leave_out", {}))})
    module.load(base)
    return module.sample(documents)


def compare(folder: Path, base: BaseModel, sample: QuestionSet, conditions: Sequence[str]) -> dict:
    """Return a variant's size, steps, validations, and containment by condition.

    Its answers are kept in its folder. A validation is {step, own, another's, none: NLL a token}.
    """
    checkpoint = load_checkpoint(folder / "export", base)
    # Another number of documents is another evaluation.
    place = folder / f"scores_{len(sample.documents)}_documents"
    made = HypernetParametrizer(base, checkpoint)
    cells = score_network(made, sample, conditions, place).conditions
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        # Lightning counts from 0, and writes lines without validation too.
        curve = [
            {"step": int(row["step"]) + 1, **{k: float(row[c]) for k, c in CURVES.items()}}
            for row in csv.DictReader(file)
            if row.get("val/gold_nll")
        ]
    return {
        "parameters": sum(p.numel() for p in checkpoint.network.parameters()),
        "steps": checkpoint.training["steps"],
        "curve": curve,
        "scores": {name: asdict(cells[name].metrics["containment"]) for name in conditions},
    }


def format_tables(result: Mapping) -> list[Table]:
    """Return the comparison: NLL of the last validation, containment; then the first's own."""
    names = list(dict.fromkeys(c for row in result["rows"] for c in row["scores"]))
    common = [c for c in names if all(c in row["scores"] for row in result["rows"])]
    lines = []
    for row in result["rows"]:
        # A run too short for a validation has no curve.
        nll = [f"{row['curve'][-1][c]:.2f}" if row["curve"] else "" for c in CURVES]
        size = f"{row['parameters'] / 1e6:.1f}M"
        scores = [format_estimate(row["scores"][c]) for c in common]
        lines.append((row["name"], size, str(row["steps"]), *nll, *scores))
    head = ("variant", "parameters", "steps", *(f"NLL, {c}" for c in CURVES), *common)
    title = f"{result['minutes']:g} minutes each; containment in % of {result['questions']} answers"
    tables = [Table(title, head, (tuple(lines),))]
    first = result["rows"][0]
    # What was asked of the first alone would be a column of blanks above.
    if more := tuple((c, format_estimate(first["scores"][c])) for c in names if c not in common):
        tables.append(Table(f"{first['name']} alone", ("condition", "containment"), (more,)))
    return tables


def write_curves(rows: Sequence[Mapping], path: Path) -> None:
    """Draw the NLL with the own (solid) and another document's adapter (dashed) over steps."""
    with styled():
        figure = Figure(figsize=(6.2, 3.4))
        axes = figure.subplots()
        for row, colour, marker in zip(rows, TOPIC_COLOURS, MARKERS, strict=False):
            steps = [point["step"] for point in row["curve"]]
            for name, line in (("own", "-"), ("another's", "--")):
                values = [point[name] for point in row["curve"]]
                label = f"{row['name']}, {name}"
                axes.plot(steps, values, line, color=colour, marker=marker, label=label)
        axes.set_xlabel("training steps")
        axes.set_ylabel("held-out answer NLL a token")
        # Beside the axes: lines of seven variants leave no room within.
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        # Without the date, so that the same numbers give the same file.
        metadata = {"Date": None, "Creator": None}
        figure.savefig(path, format="svg", facecolor="white", metadata=metadata)
