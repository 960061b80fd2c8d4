"""Ablation: variants of one configuration go in; each is trained for the same time, then compared.

    YAML -> variants/NAME/{settings.yaml, metrics.csv, export} -> table.md, figure.svg

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
from lightning.pytorch.cli import LightningArgumentParser
from matplotlib.figure import Figure

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import Checkpoint, load_checkpoint
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.scores import score_network
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.estimates import format_estimate
from prag_core.evaluation.report.style import (
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    styled,
)
from prag_core.evaluation.tables import Table
from prag_core.files import write_json
from prag_core.model.base_model import BaseModel, load_base_model

CURVES = {"own": "val/gold_nll", "another's": "val/shuffled_nll", "none": "val/closed_book_nll"}
COLOURS = (VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY, GREY)


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
    variants = variants or {}
    names = list(variants)
    if not names or (unknown := sorted(set(drawn) - set(names))):
        raise ValueError(
            f"got variants {names} and drawn {list(drawn)}, expected at least one variant, and "
            f"only such names in drawn: {f'correct {unknown}' if names else 'add one'}"
        )
    record = yaml.safe_load(Path(fit_config).read_text(encoding="utf-8"))
    folders = {name: Path(output) / "variants" / name for name in names}
    for name, folder in folders.items():
        settings = variant_config(
            record, {**(common or {}), **variants[name]}, folder, minutes, every
        )
        train(settings, folder)
    base = load_base_model(record["model"]["base_model"], record["model"].get("dtype", "auto"))
    sample = held_out(record["data"], base, documents)
    rows = []
    for name, folder in folders.items():
        asked = conditions if rows else (*conditions, *measured)
        network = load_checkpoint(folder / "export", base)
        rows.append(
            {
                "name": name,
                "parameters": sum(p.numel() for p in network.network.parameters()),
                "steps": network.training["steps"],
                "curve": read_curve(folder),
                "scores": answer_scores(base, network, folder, sample, asked),
            }
        )
    result = {"minutes": minutes, "questions": len(sample.questions), "rows": rows}
    write_json(Path(output) / "table.json", result)
    text = "\n\n".join(table.markdown() for table in format_tables(result)) + "\n"
    (Path(output) / "table.md").write_text(text, encoding="utf-8")
    shown = [row for row in rows if row["name"] in (drawn or names)]
    write_curves(shown, Path(output) / "figure.svg")
    print(text)


def variant_config(
    record: Mapping, changes: Mapping[str, Any], folder: Path, minutes: float, every: int
) -> dict:
    """Return a configuration of `fit` with a variant's settings, its time and its own folder.

    Raises:
        ValueError: a setting whose section the configuration lacks.
    """
    settings = json.loads(json.dumps(record))
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = settings
        for section in sections:
            if not isinstance(place.get(section), dict):
                raise ValueError(
                    f"got setting {key!r}, expected dotted keys of the configuration, e.g. "
                    "'model.network.head'"
                )
            place = place[section]
        place[last] = value
    settings["output"] = str(folder)
    settings["trainer"] |= {
        "max_time": {"seconds": round(60 * minutes)},
        "val_check_interval": every,
        "enable_progress_bar": False,
        "logger": {  # metrics.csv in the folder itself, not in one a run
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(folder), "name": "", "version": ""},
        },
    }
    return settings


def train(settings: Mapping, folder: Path) -> None:
    """Run `fit` in a new process, unless it was finished with these settings.

    Raises:
        ValueError: the folder holds a run with other settings.
        ChildProcessError: `fit` failed.
    """
    file, done = folder / "settings.yaml", folder / "done"
    text = yaml.safe_dump(settings, sort_keys=False)
    if done.is_file():
        if file.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"got settings other than those that {folder} was trained with, expected the "
                "same: choose another output, or delete the folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    (folder / "metrics.csv").unlink(missing_ok=True)
    print(f"training {folder.name}", flush=True)
    command = [sys.executable, "-m", "hypernet", "fit", "--config", str(file)]
    if subprocess.run(command, check=False).returncode:
        raise ChildProcessError(f"the training of {folder.name} failed: see its messages above")
    done.touch()


def held_out(data: Mapping, base: BaseModel, documents: int) -> QuestionSet:
    """Return held-out documents and their questions, the same for every variant."""
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(HypernetDataModule, "data")
    if data.get("question_sets"):
        data = {**data, "corpora": [], "weights": []}
    parsed = parser.parse_object({"data": dict(data)})
    module = parser.instantiate_classes(parsed).data
    module.load(base)
    return module.sample(documents)


def answer_scores(
    base: BaseModel,
    checkpoint: Checkpoint,
    folder: Path,
    sample: QuestionSet,
    conditions: Sequence[str],
) -> dict:
    """Return the containment of a variant by condition; its answers are kept in its folder."""
    made = HypernetParametrizer(base, checkpoint)
    place = folder / f"scores_{len(sample.documents)}_documents"
    cells = score_network(made, sample, conditions, place).conditions
    return {name: asdict(cells[name].metrics["containment"]) for name in conditions}


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Return the validations of a run: {step, own, another's, none: answer NLL a token}."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/gold_nll")]
    return [
        {"step": int(row["step"]) + 1, **{k: float(row[c]) for k, c in CURVES.items()}}
        for row in rows
    ]


def format_tables(result: Mapping) -> list[Table]:
    """Return the comparison: NLL of the last validation, containment; then the first's own."""
    names = list(dict.fromkeys(c for row in result["rows"] for c in row["scores"]))
    common = [c for c in names if all(c in row["scores"] for row in result["rows"])]
    lines = []
    for row in result["rows"]:
        nll = [f"{row['curve'][-1][c]:.2f}" if row["curve"] else "" for c in CURVES]
        size = f"{row['parameters'] / 1e6:.1f}M"
        scores = [format_estimate(row["scores"][c]) for c in common]
        lines.append((row["name"], size, str(row["steps"]), *nll, *scores))
    head = ("variant", "parameters", "steps", *(f"NLL, {c}" for c in CURVES), *common)
    title = f"{result['minutes']:g} minutes each; containment in % of {result['questions']} answers"
    tables = [Table(title, head, (tuple(lines),))]
    first, rest = result["rows"][0], [c for c in names if c not in common]
    if rest:
        own = tuple((c, format_estimate(first["scores"][c])) for c in rest)
        tables.append(Table(f"{first['name']} alone", ("condition", "containment"), (own,)))
    return tables


def write_curves(rows: Sequence[Mapping], path: Path) -> None:
    """Draw the NLL with the own (solid) and another document's adapter (dashed) over steps."""
    with styled():
        figure = Figure(figsize=(6.2, 3.4))
        axes = figure.subplots()
        for row, colour, marker in zip(rows, COLOURS, MARKERS, strict=False):
            steps = [point["step"] for point in row["curve"]]
            for name, line in (("own", "-"), ("another's", "--")):
                values = [point[name] for point in row["curve"]]
                label = f"{row['name']}, {name}"
                axes.plot(steps, values, line, color=colour, marker=marker, label=label)
        axes.set_xlabel("training steps")
        axes.set_ylabel("held-out answer NLL a token")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(
            path, format="svg", facecolor="white", metadata={"Date": None, "Creator": None}
        )
