"""Ablation: variants of one configuration go in; each is trained for the same time, then compared.

    YAML -> variants/NAME/{command.json, version_N, curve.json, checkpoints, export}
         -> ablation.json -> table.md, figure.svg

A variant is trained in a process of its own and kept when it is finished: a second run of the same
command goes on where the first was stopped, from the last checkpoint, with the time that was used
counted, and trains what is missing. A row of ablation.json, written when its variant is done, is
all that is needed of that variant: with the file on another machine, the others are measured there.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import load_checkpoint
from hypernet.training.callbacks import CURVES
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.scores import score_network
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.estimates import format_estimate
from prag_core.evaluation.rendering import marked
from prag_core.evaluation.report.figures import MARKERS, TOPIC_COLOURS, styled
from prag_core.evaluation.tables import Table
from prag_core.files import write_json
from prag_core.model.base_model import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.model.hardware import machine, release_freed_memory
from prag_core.terminal import stopped_by_sigterm

# What decides which documents are held out, and who answers: the same for all variants.
OF_ALL = (
    "data.question_sets", "data.validation_articles", "data.leave_out", "data.seed",
    "model.base_model",
)  # fmt: skip
# So do these where there is no question set.
CORPORA = ("data.corpora", "data.corpus_limit", "data.max_document_tokens")
REFUSED = 2  # exit status of a `fit` with bad settings, or whose gradients are no numbers
# Of ablation.json and of each of its rows: what table and figure are made of.
KEYS = {"minutes", "rate_minutes", "questions"}
ROW_KEYS = {"name", "settings", "rates", "parameters", "curve", "scores"}
LINES = {"own": "-", "another's": "--", "none": ":"}  # of the figure


class RefusedError(ChildProcessError):
    """`fit` refused its settings, or what became of the gradients with them."""


def ablate(
    fit_config: str = "configs/hypernet.yaml",
    variants: dict[str, dict[str, Any]] | None = None,
    common: dict[str, Any] | None = None,
    output: str = "runs/ablation",
    minutes: float = 5.0,
    every: int = 10,
    rates: dict[str, list[float]] | None = None,
    rate_minutes: float = 5.0,
    documents: int = 40,
    conditions: tuple[str, ...] = ("gold", "shuffled"),
    measured: tuple[str, ...] = (),
    drawn: tuple[str, ...] = (),
    render: str | None = None,
) -> None:
    """Train variants of a configuration for the same time and set them side by side.

    Args:
        fit_config: YAML of `fit` that every variant starts from.
        variants: by name, the settings that differ, e.g. {"model.network.head": "perceiver"}.
        common: settings of all variants that differ from the configuration.
        output: folder for runs, ablation.json, table.md and figure.svg.
        minutes: of training, validations included.
        every: steps between two validations (points of the figure).
        rates: by name, learning rates that a variant is first tried with; it is trained from the
            start with the one of the least held-out loss of answers. Another variant keeps its own.
        rate_minutes: of each of these tries: the first minutes of the same training.
        documents: held-out documents whose questions are answered.
        conditions: asked of every variant (see `prag_core.evaluation.conditions`).
        measured: conditions asked of the first variant beside these, e.g. `rank:64`.
        drawn: variants in the figure; all when empty.
        render: an ablation.json; only its table.md and figure.svg are written, beside it.
    """
    if render is not None:
        write_report(Path(render), drawn)
        return
    names, rates = list(variants or {}), rates or {}
    if not names or (unknown := sorted({*drawn, *rates} - set(names))):
        raise ValueError(
            f"got variants {names}, drawn {list(drawn)}, rates of {sorted(rates)}, expected at "
            "least one variant, and only such names: "
            + (f"correct {unknown}" if names else "add one")
        )
    record = yaml.safe_load(Path(fit_config).read_text(encoding="utf-8"))
    measured_with = {"data": {}, "model": {}} | overlaid(record, common or {})
    of_all = OF_ALL if measured_with["data"].get("question_sets") else (*OF_ALL, *CORPORA)
    for name, settings in variants.items():
        if apart := [key for key in settings if key.startswith(of_all)]:
            raise ValueError(
                f"got {', '.join(apart)} in variant {name}, expected the same held-out questions "
                "for all: put it into `common`"
            )
    file = Path(output) / "ablation.json"
    # What a row depends on beside its own settings.
    shared = {"minutes": minutes, "rate_minutes": rate_minutes, "documents": documents}
    shared |= {"configuration": record}
    asked = {name: {**(common or {}), **settings} for name, settings in variants.items()}
    for settings in asked.values():
        settings |= {"trainer.val_check_interval": every}
        settings |= {"model.max_hours": minutes / 60, "logger": "csv"}
    # Those that take long are answered by the first variant alone.
    cells = {name: (*conditions, *(measured if name == names[0] else ())) for name in names}
    result = read_result(file, shared)
    rows = {row["name"]: row for row in result["rows"]}
    rows = {
        name: rows[name]
        for name in names
        if name in rows and is_measured(rows[name], asked[name], rates.get(name, ()), cells[name])
    }
    _require_none_lost(file, rows, Path(output))
    for name in names:
        if name not in rows:
            folder, settings = Path(output) / "variants" / name, asked[name]
            losses = try_rates(fit_config, settings, rates.get(name, ()), rate_minutes, folder)
            if losses:
                settings["model.learning_rate"] = min(losses, key=losses.get)
            train(fit_config, settings, folder)
            model = measured_with["model"]
            named = model.get("base_model", EMBEDDED_NAME)
            base = load_base_model(named, model.get("dtype", "auto"))
            sample = held_out(measured_with["data"], base, documents)
            result |= {"questions": len(sample.questions), "base_model": base.name}
            tried = {f"{r:g}": None if math.isinf(x) else x for r, x in losses.items()}
            row = {"name": name, "settings": settings, "rates": tried}
            rows[name] = row | compare(folder, base, sample, cells[name])
            rows[name] |= {"machine": machine()}
            del base, sample  # the next variant trains beside as little as this one did
            release_freed_memory()
        result["rows"] = [rows[name] for name in names if name in rows]
        # For documents, which are rendered without this package.
        result["tables"] = [asdict(table) for table in format_tables(result)]
        write_json(file, result)
    write_report(file, drawn)


def read_result(file: Path, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return an ablation.json that was measured alike; without one, its beginning."""
    result = load_result(file) if file.is_file() else {}
    same = all(result.get(key) == value for key, value in shared.items())
    return result if result and same else {**shared, "rows": []}


def load_result(file: Path) -> dict[str, Any]:
    """Read an ablation.json.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or a part of one.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        rows = result["rows"]
        lacking = (KEYS - result.keys()).union(*(ROW_KEYS - row.keys() for row in rows))
        if lacking or not rows:
            raise KeyError(*sorted(lacking or {"rows"}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"got {file}, which holds no ablation ({type(error).__name__}: {error}), expected an "
            "ablation.json as `hypernet ablate` writes it: name another one, or another output"
        ) from error
    return result


def _require_none_lost(file: Path, kept: Mapping[str, Any], output: Path) -> None:
    """Raise ValueError where a row would be replaced whose training is not here."""
    written = load_result(file)["rows"] if file.is_file() else []
    lost = [row["name"] for row in written if row["name"] not in kept]
    if lost := [name for name in lost if not (output / "variants" / name / "done").is_file()]:
        raise ValueError(
            f"got settings other than those that {', '.join(lost)} of {file} were measured with, "
            "or none of them, expected the same, as their trainings are not here: choose another "
            "output, or delete the file"
        )


def is_measured(
    row: Mapping, settings: Mapping, rates: Sequence[float], conditions: Sequence[str]
) -> bool:
    """Return whether a row is the one that this variant would get."""
    settings = dict(settings)
    if rates:  # the best of them, where they are the same
        settings["model.learning_rate"] = row["settings"].get("model.learning_rate")
    same = row["settings"] == settings and [*row["rates"]] == [f"{rate:g}" for rate in rates]
    return same and {*conditions} <= {*row["scores"]}


def overlaid(record: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with settings by dotted name, as the command line would set them."""
    result = deepcopy(dict(record))
    for name, value in settings.items():
        *parents, key = name.split(".")
        place = result
        for parent in parents:
            place = place.setdefault(parent, {})
        place[key] = value
    return result


def try_rates(
    fit_config: str, settings: dict, rates: Sequence[float], minutes: float, folder: Path
) -> dict[float, float]:
    """Return the held-out loss of answers after the first minutes with each learning rate."""
    losses = {}
    for rate in rates:
        # Not shorter as a whole: the rate stays at its height, as it does in these minutes of the
        # training proper.
        changes = {
            "model.learning_rate": rate,
            "trainer.max_time": {"seconds": round(60 * minutes)},
        }
        place = folder / "rates" / f"{rate:g}"
        try:
            train(fit_config, settings | changes, place)
            own = read_curve(place)[-1]["own"]
            losses[rate] = own if math.isfinite(own) else math.inf
        except (RefusedError, IndexError):  # gradients that are no numbers; no validation
            losses[rate] = math.inf
    if losses and min(losses.values()) == math.inf:
        raise ChildProcessError(
            f"no learning rate of {folder.name} came to a validation: see above"
        )
    return losses


def train(fit_config: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Run `fit` in a new process, or go on; do nothing where it was finished with these settings.

    Raises:
        ValueError: the folder holds a run with other settings.
        RefusedError: `fit` refused its settings, or gradients that are no numbers.
        ChildProcessError: it was killed, or failed in another way.
    """
    # A text is read as it stands, everything else as YAML, of which JSON is a part.
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in settings.items()}
    values |= {"output": str(folder), "trainer.enable_progress_bar": "false"}
    arguments = ["fit", f"--config={fit_config}", *(f"--{k}={v}" for k, v in values.items())]
    configuration = Path(fit_config).read_text(encoding="utf-8")
    command = {"arguments": arguments, "configuration": configuration}
    file, done, last = (
        folder / "command.json",
        folder / "done",
        folder / "checkpoints" / "last.ckpt",
    )
    begun = done.is_file() or last.is_file()
    if begun and json.loads(file.read_text(encoding="utf-8")) != command:
        raise ValueError(
            f"got settings other than those that {folder} was trained with, expected the "
            "same: choose another output, or delete the folder"
        )
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, command)
    print(f"training {folder}{', going on' if begun else ''}", flush=True)
    if begun:
        arguments = [*arguments, f"--ckpt_path={last}"]
    # A process of its own: what one variant leaves behind in memory slows down no other.
    with stopped_by_sigterm():
        ended = subprocess.run([sys.executable, "-m", "hypernet", *arguments], check=False)
    if ended.returncode:
        error = RefusedError if ended.returncode == REFUSED else ChildProcessError
        raise error(f"the training of {folder} failed: see its messages above")
    done.touch()


def read_curve(folder: Path) -> list[dict]:
    """Return the validations of a run (see `hypernet.training.callbacks.Curve`)."""
    file = folder / "curve.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def held_out(data: Mapping, base: BaseModel, documents: int) -> QuestionSet:
    """Return held-out documents and their questions, the same for every variant."""
    # A batch draws nothing here. Beside question sets a corpus only says which documents are its
    # last, which training leaves out of the sets, too.
    data = {key: value for key, value in data.items() if key != "batch"}
    if data.get("question_sets"):
        data |= {"corpus_limit": 0, "corpus_on_disk": False}
    module = HypernetDataModule(**data | {"leave_out": LeaveOut(**data.get("leave_out", {}))})
    module.load(base)
    return module.sample(documents)


def compare(folder: Path, base: BaseModel, sample: QuestionSet, conditions: Sequence[str]) -> dict:
    """Return a variant's size, steps, validations, and containment and F1 by condition.

    Its answers are kept in its folder.
    """
    checkpoint = load_checkpoint(folder / "export", base)
    # Another number of documents is another evaluation.
    place = folder / f"scores_{len(sample.documents)}_documents"
    made = HypernetParametrizer(base, checkpoint)
    cells = score_network(made, sample, conditions, place).conditions
    metrics = ("containment", "f1")
    return {
        "parameters": sum(p.numel() for p in checkpoint.network.parameters()),
        "steps": checkpoint.training["steps"],
        "curve": read_curve(folder),
        "scores": {c: {m: asdict(cells[c].metrics[m]) for m in metrics} for c in conditions},
    }


def write_report(file: Path, drawn: Sequence[str] = ()) -> None:
    """Write table.md and figure.svg beside an ablation.json.

    Raises:
        ValueError: no ablation.json, or no variants of it to draw.
    """
    result = load_result(file)
    names = [row["name"] for row in result["rows"]]
    if unknown := sorted({*drawn} - {*names}):
        raise ValueError(f"got drawn {unknown}, expected variants of {file}, {names}: correct them")
    text = "\n\n".join(table.markdown() for table in format_tables(result)) + "\n"
    (file.parent / "table.md").write_text(text, encoding="utf-8")
    # Ten variants are a table; as curves they would hide each other.
    rows = [row for row in result["rows"] if not drawn or row["name"] in drawn]
    figure = file.parent / "figure.svg"
    write_curves(rows, figure)
    figure.write_text(marked(figure.read_text("utf-8"), file.read_bytes()), encoding="utf-8")
    print(text)


def format_tables(result: Mapping) -> list[Table]:
    """Return the comparison: NLL of the last validation, containment; the first's own; rates."""
    names = list(dict.fromkeys(c for row in result["rows"] for c in row["scores"]))
    common = [c for c in names if all(c in row["scores"] for row in result["rows"])]
    lines = []
    for row in result["rows"]:
        # A run too short for a validation has no curve.
        last = row["curve"][-1] if row["curve"] else {}
        nll = [f"{last[c]:.2f}" if last else "" for c in CURVES]
        size = f"{row['parameters'] / 1e6:.1f}M"
        seen = [f"{last['documents']:,}", f"{last['seconds'] / 60:.0f}"] if last else ["", ""]
        scores = [format_estimate(row["scores"][c]["containment"]) for c in common]
        lines.append((row["name"], size, *seen, *nll, *scores))
    nll = (f"NLL, {c}" for c in CURVES)
    head = ("variant", "parameters", "documents seen", "minutes", *nll, *common)
    title = f"{result['minutes']:g} minutes each; containment in % of {result['questions']} answers"
    tables = [Table(title, head, (tuple(lines),))]
    first = result["rows"][0]
    # What was asked of the first alone would be a column of blanks above.
    scores = {c: format_estimate(s["containment"]) for c, s in first["scores"].items()}
    if more := tuple((c, value) for c, value in scores.items() if c not in common):
        tables.append(Table(f"{first['name']} alone", ("condition", "containment"), (more,)))
    tried = [(row["name"], *item) for row in result["rows"] for item in row["rates"].items()]
    if tried:
        title = f"NLL of held-out answers after {result['rate_minutes']:g} minutes"
        rates = tuple(
            (name, rate, "-" if loss is None else f"{loss:.3f}") for name, rate, loss in tried
        )
        tables.append(Table(title, ("variant", "learning rate", "NLL, own"), (rates,)))
    return tables


def write_curves(rows: Sequence[Mapping], path: Path) -> None:
    """Draw NLL with the own, another's and no adapter over documents seen and over minutes."""
    with styled():
        figure = Figure(figsize=(8.4, 3.4))
        left, right = figure.subplots(1, 2, sharey=True)
        for number, row in enumerate(rows):
            turn, place = divmod(number, len(TOPIC_COLOURS))
            colour = TOPIC_COLOURS[place]
            marker = MARKERS[(place + turn) % len(MARKERS)]  # another where a colour comes again
            for axes, field, unit in ((left, "documents", 1), (right, "seconds", 60)):
                places = [point[field] / unit for point in row["curve"]]
                for name, line in LINES.items():
                    values = [point[name] for point in row["curve"]]
                    # A marker at most every tenth of a line: a long curve is a line, not beads.
                    gap = max(1, len(values) // 10)
                    axes.plot(
                        places, values, line, color=colour, marker=marker, markevery=gap,
                        label=f"{row['name']}, {name}",
                    )  # fmt: skip
        left.set_xlabel("documents seen")
        right.set_xlabel("minutes")
        left.set_ylabel("held-out answer NLL a token")
        # Beside the axes: lines of seven variants leave no room within.
        right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        # Without the date, so that the same numbers give the same file.
        metadata = {"Date": None, "Creator": None}
        figure.savefig(path, format="svg", facecolor="white", metadata=metadata)
