"""Comparison: a question set goes in; every part of the report comes out.

    documents, questions -> adapters of every path -> quality, knowledge, similarity, ...

Answers are kept by `evaluate`, what is measured beside them in parts/NAME.json; a second run
computes neither again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from prag_core.adapters.adapter import fingerprint
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.assignment import require_gold
from prag_core.evaluation.compare import cells as compare_cells
from prag_core.evaluation.compare.cells import Cells, Rags, ask, possible
from prag_core.evaluation.compare.options import NEED_QUESTIONS, PARTS, CompareOptions
from prag_core.evaluation.compare.parts import (
    cost,
    first_token,
    keeping,
    knowledge,
    making,
    side_effects,
    similarity,
)
from prag_core.evaluation.conditions import (
    SHUFFLED,
    EvaluationOptions,
    require_gates_by_name,
)
from prag_core.evaluation.estimates import SMALLEST_SAMPLE, document_groups
from prag_core.evaluation.evaluate import check_questions, set_identity
from prag_core.evaluation.results import claim_folder
from prag_core.files import locked, write_json
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.hardware import machine
from prag_core.pipeline.parts import build_parametrizer, build_retriever
from prag_core.pipeline.rag import ParametricRAG
from prag_core.pipeline.setup import Setup
from prag_core.terminal import progress_bar
from prag_core.training.initial import load_reader

VERSION = 2  # of report.json
GROWING = ("parts", "conditions", "merge_counts", "merge_weights")  # options that may get more
Item = TypeVar("Item")


def compare_paths(
    question_set: QuestionSet,
    setup: Setup,
    options: CompareOptions,
    folder: Path,
    store: str = "",
    source: Sequence[Document] = (),
) -> dict:
    """Make the adapters of every path and compute all parts.

    Args:
        question_set: documents, and questions where there are any.
        setup: shared settings.
        options: what is compared.
        folder: keeps finished parts and answers.
        store: folder of the adapter store; `<folder>/store` when empty.
        source: the whole corpus, which an augmentation file names; the set's own when omitted.

    Returns:
        The report, as report.json has it.

    Raises:
        ValueError: no documents, settings that do not fit the base model, questions without gold
            documents (retrieval `gold`), `answering.gated`, or a folder made with another config.
        TimeoutError: another process writes to the folder.
    """
    if not question_set.documents:
        raise ValueError(
            f"got no documents in {question_set.name}, expected those that its questions are "
            "about: give a folder with corpus.jsonl and questions.jsonl"
        )
    question_set = question_set.sample_questions(options.limit, options.seed)  # 0: all of them
    # What can be refused is refused before a model is loaded and a folder made.
    require_gates_by_name(setup.answering)
    if question_set.questions:
        check_questions(question_set.questions)
        if options.retrieval == "gold":
            require_gold(question_set.questions, question_set.documents_by_id)
    source = source or question_set.documents
    opened = store or folder / "store", question_set, source
    with _pipelines(setup, options, *opened) as rags:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            comparison = _Comparison(rags, question_set, options, setup, folder, source)
            comparison.claim()
            comparison.make_adapters()
            return comparison.report()


@contextmanager
def _pipelines(
    setup: Setup,
    options: CompareOptions,
    store: str | Path,
    question_set: QuestionSet,
    source: Sequence[Document],
) -> Iterator[Rags]:
    """Open the store and assemble one pipeline a path over one base model.

    Only adapters come from the store: the corpus is that of the question set, whatever documents
    the store has beside it.
    """
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    documents, reader = question_set.documents, load_reader(setup.reader, base)
    with AdapterStore(store) as adapters:
        yield {
            path: ParametricRAG(
                base,
                build_retriever(setup),  # one each: adding documents changes it
                build_parametrizer(base, replace(setup, path=path), adapters, source),
                adapters,
                generation=setup.generation,
                options=setup.answering,
                documents=documents,
                reader=reader,
            )
            for path in options.paths
        }


@dataclass(frozen=True)
class _Comparison:
    """One comparison: what every part is computed from."""

    rags: Rags
    question_set: QuestionSet
    options: CompareOptions
    setup: Setup
    folder: Path
    source: Sequence[Document]

    def claim(self) -> None:
        """Refuse a folder of another config; parts, conditions and merges can be added to one."""
        options = {n: v for n, v in asdict(self.options).items() if n not in GROWING}
        identity = set_identity(self.question_set)
        config = {"comparison": options, "question_set": identity, "run": self.configs}
        # A folder without any of these holds nothing that another config could spoil.
        places = ("parts/*.json", "*/*.jsonl", "merging/*/*.jsonl")
        finished = {path.stem for place in places for path in self.folder.glob(place)}
        claim_folder(self.folder, config, sorted(finished))
        (self.folder / "parts").mkdir(exist_ok=True)

    def make_adapters(self) -> None:
        """Make the adapters of the pool on every path."""
        ids = [document.id for document in self.pool]
        for path, rag in self.rags.items():
            with progress_bar(f"{path} adapters", len(ids)) as advance:
                rag.ensure_adapters(ids, advance)

    def report(self) -> dict:
        """Compute the parts and describe the run."""
        seed, cells, base = self.options.seed, self.cells, self.base
        measure_likeness = partial(similarity, self.rags, self.pool)
        # Functions, so that a part that is not wanted is not computed either.
        makers: dict[str, Callable[[], dict | None]] = {
            # From answers, which `evaluate` keeps.
            "quality": lambda: compare_cells.quality(cells, seed),
            "merging": self._merging,
            # Measured here, and kept in parts/.
            "knowledge": lambda: self.losses,
            "similarity": lambda: self._stored("similarity", measure_likeness),
            # From both.
            "side_effects": lambda: side_effects(self.losses, cells, [*self.rags], seed),
            "cost": lambda: cost(self._costs(), cells),
        }
        parts = {part: makers[part]() for part in self.parts}
        return {
            "version": VERSION,
            "title": self.question_set.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            # A local folder without where it lies: a report is shown to others.
            "base_model": Path(base.name).name if Path(base.name).exists() else base.name,
            "machine": self.machine,
            "paths": [*self.rags],
            "notes": self._notes(parts),
            # Their losses are in the part knowledge; passages of one article share its title.
            "documents": [
                {"id": d.id, "title": d.title, "topic": d.metadata.get("topic") or d.title}
                for d in self.pool
            ],
            "questions": len(self.question_set.questions),
            "setup": asdict(self.setup),
            "comparison": asdict(self.options),
            **parts,
            "disagreements": compare_cells.disagreements(cells),
        }

    @property
    def base(self) -> BaseModel:
        """The base model of all pipelines."""
        return next(iter(self.rags.values())).base

    @property
    def parts(self) -> list[str]:
        """The parts that can be computed, in order."""
        silent = () if self.question_set.questions else NEED_QUESTIONS
        return [part for part in PARTS if part in self.options.parts and part not in silent]

    @property
    def configs(self) -> dict[str, dict]:
        """What each path's answers depend on, as `prag evaluate` keeps it."""
        return {
            path: replace(self.setup, path=path).answer_config() | rag.identity
            for path, rag in self.rags.items()
        }

    @property
    def machine(self) -> str:
        """Where it was measured."""
        facts, base = machine(), self.base
        return f"{facts['cpu']}, {facts['threads']} threads, {base.device}, {base.dtype}"

    @cached_property
    def pool(self) -> list[Document]:
        """Documents whose adapters are compared: those that questions are about, or else all."""
        golden = {i for question in self.question_set.questions for i in question.gold_ids}
        return [d for d in self.question_set.documents if not golden or d.id in golden]

    @cached_property
    def cells(self) -> Cells:
        """The conditions of the part quality; none where it is left out."""
        if "quality" not in self.parts:  # side effects and cost then do without answers
            return Cells(self.question_set)
        evaluation = self.options.evaluation(self.possible[0])
        return ask(self.rags, self.configs, self.question_set, evaluation, self.folder)

    @property
    def possible(self) -> tuple[tuple[str, ...], list[str]]:
        """The conditions that can be asked, and a note on each that is left out."""
        options, count = self.options, len(self.question_set.documents)
        return possible(self.rags, options.conditions, count, options.k)

    @cached_property
    def losses(self) -> dict:
        """The part knowledge, which side effects are read from, too."""
        documents = self._sample(self.pool, self.options.scored_documents)
        sizes = documents, self._about(documents), self.options.seed
        return self._stored("knowledge", partial(knowledge, self.rags, *sizes))

    def _merging(self) -> dict | None:
        options, pool = self.options, tuple(self.pool)
        counts = sorted({k for k in options.merge_counts if k <= len(pool)})
        questions = self._sample(self._about(pool), options.merge_questions)
        if not counts or not questions:
            return None
        # Distractors come from the pool, whose adapters are there; trained ones are dear.
        subset = replace(self.question_set, documents=pool, questions=tuple(questions))
        series = compare_cells.merge_conditions(counts, options.merge_weights).values()
        # Once each: at k = 1 all series share theirs.
        conditions = tuple(dict.fromkeys(name for names in series for name in names))
        evaluation = EvaluationOptions(conditions, 1, "gold", options.seed)
        cells = ask(self.rags, self.configs, subset, evaluation, self.folder / "merging")
        return compare_cells.merging(cells, counts, options.merge_weights)

    def _costs(self) -> dict:
        """Time the making of some documents' adapters on every path."""
        documents = self._sample(self.pool, self.options.cost_documents)
        on_gpu = self.base.device.type == "cuda"

        def compute() -> dict:
            # Without a store: kept question-answer pairs would be read, not written.
            parametrizers = {
                path: build_parametrizer(
                    self.base, replace(self.setup, path=path), None, self.source
                )
                for path in self.rags
            }
            adapters = {p: making(each, documents, on_gpu) for p, each in parametrizers.items()}
            answerer = next(iter(self.rags.values())).answerer
            return {
                "adapters": adapters,
                "kv_cache": keeping(answerer, documents, on_gpu),
                "first_token": self._first_tokens(documents),
            }

        # Times depend on more than the folder's config, such as the batch size.
        return self._stored("cost", compute, [asdict(self.setup), self.machine])

    def _first_tokens(self, documents: Sequence[Document]) -> dict[str, float]:
        """Time the first token of one question a document, where there are questions."""
        about = {question.gold_ids[0]: question for question in self._about(documents)}
        shared = next(iter(self.rags.values()))
        asked = {mode: (shared, mode) for mode in ("closed_book", "in_context", "kv_cache")}
        asked |= {f"{path}/parametric": (rag, "parametric") for path, rag in self.rags.items()}
        questions = [*about.values()]
        return {
            name: first_token(rag.answerer, mode, questions)
            for name, (rag, mode) in asked.items()
            if questions
        }

    def _stored(self, name: str, compute: Callable[[], dict], inputs: Sequence = ()) -> dict:
        """Return a part from the disk, or compute and keep it; `inputs` is what it rests on."""
        path, inputs = self.folder / "parts" / f"{name}.json", fingerprint(list(inputs))
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if stored.get("inputs") != inputs:
            write_json(path, {"inputs": inputs, "part": compute()})
        # Read back even if it was just written, so that two runs return the same: lists, no tuples.
        return json.loads(path.read_text(encoding="utf-8"))["part"]

    def _notes(self, parts: Mapping[str, Mapping | None]) -> list[str]:
        """Say what is left out of the parts, and why."""
        questions = self.question_set.questions
        if not questions:
            return ["There are no questions: quality and merging are left out."]
        groups, notes = len({*document_groups(questions)}), [*self.possible[1]]
        effects = (parts.get("side_effects") or {}).values()
        asked = {"closed_book", SHUFFLED} <= {*self.options.conditions}
        if asked and any("changed_answers" not in effect for effect in effects):
            notes.append(
                "Side effects on answers are left out: closed_book is asked in another prompt than "
                "shuffled. Ask closed_book:prompt:NAME, too, with the wording of the adapters."
            )
        if groups >= SMALLEST_SAMPLE:
            return notes
        # Documents are what the bootstrap resamples.
        few = f"{len(questions)} questions in {groups} groups by document: intervals need "
        return [f"{few}{SMALLEST_SAMPLE} or more documents and are left out.", *notes]

    def _about(self, documents: Sequence[Document]) -> list[Question]:
        """Return the questions whose one gold document is among these."""
        ids = {document.id for document in documents}
        questions = self.question_set.questions
        return [q for q in questions if len(q.gold_ids) == 1 and q.gold_ids[0] in ids]

    def _sample(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return a seeded sample, in order."""
        draw = random.Random(self.options.seed)
        return [items[n] for n in sorted(draw.sample(range(len(items)), min(count, len(items))))]
