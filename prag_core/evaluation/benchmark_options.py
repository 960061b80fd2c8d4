"""Options of a benchmark: a YAML's lists go in, groups of cells come out.

A cell is one (base model, question set, seed, path, condition). The cells of all conditions that
one pipeline answers are a group, kept in one folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from prag_core.evaluation.conditions import (
    FOCUS,
    EvaluationOptions,
    parse_condition,
    require_gates_by_name,
    require_no_passages,
)
from prag_core.model.catalogue import EMBEDDED_NAME
from prag_core.model.wordings import Wording, find_wording
from prag_core.pipeline.setup import Setup

SHARED = "shared"  # folder of the conditions that no adapter changes
READER = "reader"  # and of those that the reader answers: with another one the others stay valid
UNADAPTED = (SHARED, READER)
# Kept as settings, or with the questions.
ASKING = ("prompt", "max_new_tokens", "epochs", "conditions", "paths", "limits", "overrides",
          "recite")  # fmt: skip


@dataclass(frozen=True)
class BenchmarkSet:
    """One question set and how it is asked.

    Attributes:
        source: folder, file or hub name, as `prag evaluate` takes it.
        name: in folders and in the table; the last part of the source when empty.
        split: split of the source, where it has several.
        corpus: documents to search, where they are not the source's own (jsonl, tsv, ...).
        documents: draw so many documents (by seed) with all their questions; 0 takes all.
        most_words: draw no longer documents; 0 for any length.
        keep_corpus: keep the documents that no drawn question is about, as distractors.
        questions: draw so many questions (by seed); 0 takes all.
        first: take so many questions from the front instead.
        per_type: take so many from the front of every sub-task, which then has rows of its own; the
            total is over so many from the front of the set, as in the paper.
        limits: fewer questions for a path (path: number), chosen alike from those above.
        retrieval: `gold` gives each question its own documents, `retriever` searches for them.
        k: documents a question, at most.
        prompt: name of a wording, or one of your own, that the set is asked in and its trained
            adapters are trained in; those of `answering` and `training` when empty. Generated
            adapters and the reader are asked as `answering` says, by default in the one that they
            were made for.
        max_new_tokens: longest answer; that of `generation` when 0.
        epochs: of the trained path, where `training.max_steps` is 0; those of `training` when 0.
        conditions: of this set; the benchmark's when empty.
        paths: of this set, some of the benchmark's; all of them when empty.
        recite: ask for the texts of the documents that the questions are about, in their place (see
            `prag_core.evaluation.recitation`).
        overrides: settings of this set's adapters that differ from the benchmark's, by dotted name:
            {training.rank: 4}. One source under several names, each with its own change, is an
            ablation.
        note: what a reader of its rows must know; stands below them.
    """

    source: str
    name: str = ""
    split: str = ""
    corpus: str = ""
    documents: int = 0
    most_words: int = 0
    keep_corpus: bool = False
    questions: int = 0
    first: int = 0
    per_type: int = 0
    limits: dict[str, int] = field(default_factory=dict)
    retrieval: Literal["gold", "retriever"] = "retriever"
    k: int = 3
    prompt: str | Wording = ""
    max_new_tokens: int = 0
    epochs: int = 0
    conditions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    recite: bool = False
    overrides: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for numbers out of range and choices that exclude each other."""
        choices = {name: getattr(self, name) for name in ("questions", "first", "per_type")}
        sizes = (*choices.values(), self.documents, self.max_new_tokens, self.epochs)
        if min(sizes) < 0 or min(self.k, *self.limits.values(), 1) < 1:
            raise ValueError(
                f"got {asdict(self)}, expected sizes from 0 on, k and limits from 1 on: correct it"
            )
        if sum(map(bool, choices.values())) > 1:  # each chooses by itself
            raise ValueError(
                f"got {choices} for {self.label}, expected at most one of questions, first and "
                "per_type: leave the others out"
            )
        if self.prompt:
            find_wording(self.prompt)

    @property
    def label(self) -> str:
        """Name in folders and in the table."""
        # A name of its own tells two samples of one source apart.
        return self.name or last_part(self.source)


@dataclass(frozen=True)
class BenchmarkModel:
    """One base model.

    Attributes:
        name: hub name, local folder, GGUF file, or `smollm2-135m` (embedded).
        dtype: `auto` (see `load_base_model`), `bfloat16`, `float16` or `float32`.
        hypernet: checkpoint of the generated path; no such cells when empty.
        reader: PEFT folder of mode `reader`'s adapter; no such cells when empty.
        rank: of the trained path; that of `training` when 0.
        epochs: of the trained path, by name of the question set, before the set's own.
        results: file of its results, beside the weights, say; OUTPUT/NAME/results.json when empty.
    """

    name: str = EMBEDDED_NAME
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    hypernet: str = ""
    reader: str = ""
    rank: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    results: str = ""

    @property
    def label(self) -> str:
        """Name in folders and in the table."""
        return last_part(self.name)


@dataclass(frozen=True)
class Group:
    """The cells of one base model, question set, seed and path.

    Attributes:
        model: base model.
        spec: question set.
        seed: of samples and controls.
        path: `trained`, `generated`, `shared` (conditions without adapters) or `reader`.
        conditions: one cell each.
        setup: all settings that its answers are made with.
        folder: of answers and results.
    """

    model: BenchmarkModel
    spec: BenchmarkSet
    seed: int
    path: str
    conditions: tuple[str, ...]
    setup: Setup
    folder: Path

    def cell(self, condition: str) -> str:
        """Name one cell, for messages."""
        # A path stands behind a condition only where there is one.
        place = f"{self.model.label}, {self.spec.label}, seed {self.seed}"
        return f"{place}, {condition}" + ("" if self.path in UNADAPTED else f" ({self.path})")

    @property
    def limit(self) -> int:
        """Questions of this path, 0 for all of the set's."""
        return self.spec.limits.get(SHARED if self.path == READER else self.path, 0)

    def run_config(self) -> dict:
        """Return the settings that the answers depend on."""
        config = self.setup.answer_config()
        if self.path in UNADAPTED:  # nothing depends on who would make adapters
            del config["path"]
            config["contents"].pop(config.pop("hypernet"), None)
        return config

    def config(self) -> dict:
        """Return all that the answers depend on and that is known before anything is loaded."""
        # What the run's settings say already is not said twice.
        spec = {k: v for k, v in asdict(self.spec).items() if k not in (*ASKING, "note")}
        if self.spec.recite:  # other questions under the same ids
            spec["recite"] = True
        return {
            "question_set": spec | {"name": self.spec.label, "limit": self.limit},
            "seed": self.seed,
            "run": self.run_config(),
        }

    def evaluation(self, conditions: Sequence[str]) -> EvaluationOptions:
        """Return the options of `evaluate`; the questions are chosen before."""
        return EvaluationOptions(tuple(conditions), self.spec.k, self.spec.retrieval, self.seed)


def expand(
    setup: Setup,
    output: Path,
    question_sets: Sequence[BenchmarkSet],
    base_models: Sequence[BenchmarkModel],
    paths: Sequence[str],
    conditions: Sequence[str],
    seeds: Sequence[int],
) -> list[Group]:
    """List the groups of all cells, base model by base model.

    Raises:
        ValueError: nothing to run, names that occur twice, unknown conditions, one that needs a
            path that is not there, limits of such a path, no checkpoint for a path, or gates that
            no condition names.
    """
    _check(question_sets, base_models, paths, conditions, seeds)
    groups = []
    # The model changes last: one is in memory at a time.
    for model, spec, seed, path in product(base_models, question_sets, seeds, (*UNADAPTED, *paths)):
        if path not in (*UNADAPTED, *(spec.paths or paths)):
            continue
        settings = _settings(setup, model, spec, path)
        require_gates_by_name(settings.answering)
        wanted = spec.conditions or conditions
        names = [name for name in wanted if _stands_in(settings, path, name)]
        if names and (path in (*UNADAPTED, "trained") or model.hypernet):
            folder = output / model.label / spec.label / f"seed{seed}" / path
            groups.append(Group(model, spec, seed, path, tuple(names), settings, folder))
    if not groups:
        raise ValueError(
            f"got conditions {list(conditions)} and paths {list(paths)}, which give no cell, "
            "expected some: add a condition or a path"
        )
    return groups


def _stands_in(settings: Setup, path: str, name: str) -> bool:
    """Return whether a condition is a cell of this path, with its settings."""
    condition = parse_condition(name)
    if condition.how.adapters == "reader":
        return path == READER and bool(settings.reader)
    if condition.needs_training:
        return path == "trained"
    if not condition.needs_adapters:
        return path == SHARED
    if path != "trained":
        return path not in UNADAPTED
    # Trained adapters have no rows that all share, respond to no question (all their documents
    # would be shown, no sentence weighs more), and have no more than their rank to cut.
    cut = condition.overrides.get("rank", 0)
    others = condition.how.adapters == "shared" or condition.gated or FOCUS in condition.overrides
    return not others and (not cut or int(str(cut)) < settings.training.rank)


def _settings(setup: Setup, model: BenchmarkModel, spec: BenchmarkSet, path: str) -> Setup:
    setup = _overridden(setup, spec)
    # The model's own number first, then the set's, then the benchmark's.
    asked = model.epochs.get(spec.label) or spec.epochs
    epochs, steps = asked or setup.training.epochs, setup.training.max_steps
    if asked and steps:
        raise ValueError(
            f"got {asked} epochs for {spec.label} and training.max_steps {steps}, expected one of "
            "both: set training.max_steps 0"
        )
    tokens = spec.max_new_tokens or setup.generation.max_new_tokens
    # One setting for both: adapters are asked in the wording that they were trained in.
    prompt = spec.prompt if path in (SHARED, "trained") else ""
    training = replace(
        setup.training,
        epochs=epochs,
        rank=model.rank or setup.training.rank,
        prompt=prompt or setup.training.prompt,
    )
    return replace(
        setup,
        base_model=model.name,
        dtype=model.dtype,
        path="generated" if path in UNADAPTED else path,
        hypernet=model.hypernet,
        reader=model.reader if path == READER else "",
        training=training,
        generation=replace(setup.generation, max_new_tokens=tokens),
        answering=replace(setup.answering, prompt=prompt or setup.answering.prompt),
    )


def _overridden(setup: Setup, spec: BenchmarkSet) -> Setup:
    """Return the settings with a set's own for augmentation and training."""
    changes: dict[str, dict[str, Any]] = {}
    for name, value in spec.overrides.items():
        part, _, key = name.partition(".")
        section = getattr(setup, part) if part in ("augmentation", "training") else None
        if key not in getattr(section, "__dataclass_fields__", {}):
            raise ValueError(
                f"got override {name!r} of {spec.label}, expected a setting of augmentation or "
                "training, e.g. training.rank: correct it"
            )
        kind = type(getattr(section, key))
        value = tuple(value) if kind is tuple and isinstance(value, list) else value  # YAML's lists
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise ValueError(
                f"got {value!r} for {name} of {spec.label}, expected a {kind.__name__}: correct it"
            )
        changes.setdefault(part, {})[key] = value
    # All of a section at once: one setting may need another.
    made = {part: replace(getattr(setup, part), **change) for part, change in changes.items()}
    return replace(setup, **made)


def _check(
    question_sets: Sequence[BenchmarkSet],
    base_models: Sequence[BenchmarkModel],
    paths: Sequence[str],
    conditions: Sequence[str],
    seeds: Sequence[int],
) -> None:
    names = {
        "question_sets": [spec.label for spec in question_sets],
        "base_models": [model.label for model in base_models],
        "seeds": list(seeds),
        "paths": [*UNADAPTED, *paths],
    }
    for name, given in names.items():  # they name folders
        if not given or len({*given}) != len(given):
            raise ValueError(
                f"got {name} {given}, expected one or more with different names: correct `{name}`"
            )
    for given in (conditions, *(spec.conditions for spec in question_sets if spec.conditions)):
        EvaluationOptions(tuple(given))  # refuses unknown and repeated ones
        reads = any(parse_condition(name).how.adapters == "reader" for name in given)
        if reads and not any(model.reader for model in base_models):
            raise ValueError(
                f"got conditions {list(given)} and no base model with a reader, expected its "
                "adapter (`prag reader`): set `reader`, or leave it out of `conditions`"
            )
        trained = [name for name in given if parse_condition(name).needs_training]
        if trained and "trained" not in paths:
            raise ValueError(
                f"got conditions {', '.join(trained)} without the path trained, which they need: "
                "add it to `paths`, or leave them out"
            )
    for spec in question_sets:
        if spec.recite:
            require_no_passages(spec.conditions or conditions)
        if not {*spec.paths} <= {*paths}:
            raise ValueError(
                f"got paths {[*spec.paths]} for {spec.label}, expected some of the benchmark's, "
                f"{', '.join(paths)}: correct `paths`"
            )
        if not {*spec.limits} <= {SHARED, *paths}:
            raise ValueError(
                f"got limits of {[*spec.limits]} for {spec.label}, expected some of {SHARED}, "
                f"{', '.join(paths)}: correct `limits`"
            )
    untrained = [path for path in paths if path != "trained"]
    if untrained and not any(model.hypernet for model in base_models):
        raise ValueError(
            f"got the path {untrained[0]} and no base model with a hypernet, expected the "
            f"checkpoint that makes its adapters: set `hypernet`, or leave it out of `paths`"
        )


def last_part(source: str) -> str:
    """Return the last part of a path or hub name, without suffixes of files."""
    # hub:owner/name:config is "name".
    name = source.rstrip("/").rsplit("/", 1)[-1].split(":")[0]
    return re.sub(r"(\.(jsonl|json|tsv|gguf))?(\.gz)?$", "", name)
