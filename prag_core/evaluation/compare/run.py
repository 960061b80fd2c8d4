"""Comparison: a question set goes in; every part of the report comes out.

    documents, questions -> adapters of every path -> quality, knowledge, similarity, ...

A part that is finished is kept (parts/NAME.json) and not computed again by a second run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from prag_core.adapters.adapter import fingerprint
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.assignment import require_gold
from prag_core.evaluation.compare import cost as compare_cost
from prag_core.evaluation.compare import parts as compare_parts
from prag_core.evaluation.compare import quality as compare_quality
from prag_core.evaluation.compare.options import NEED_QUESTIONS, PARTS, CompareOptions
from prag_core.evaluation.estimates import SMALLEST_SAMPLE
from prag_core.evaluation.evaluate import check_questions
from prag_core.evaluation.results import claim_folder
from prag_core.files import write_json
from prag_core.model.base_model import BaseModel, load_base_model
from prag_core.model.hardware import machine
from prag_core.pipeline.parts import Setup, build_parametrizer
from prag_core.pipeline.rag import ParametricRAG
from prag_core.retrieval.bm25 import make_retriever
from prag_core.terminal import progress_bar

VERSION = 1


def compare_paths(
    question_set: QuestionSet, setup: Setup, options: CompareOptions, folder: Path, store: str = ""
) -> dict:
    """Make the adapters of every path and compute all parts.

    Args:
        question_set: documents, and questions where there are any.
        setup: shared settings.
        options: what is compared.
        folder: keeps finished parts and answers.
        store: folder of the adapter store; `<folder>/store` when empty.

    Returns:
        The report, as report.json has it.

    Raises:
        ValueError: no documents, settings that do not fit the base model, questions without gold
            documents (retrieval `gold`), or a folder made with another config.
    """
    if not question_set.documents:
        raise ValueError(
            f"got no documents in {question_set.name}, expected those that its questions are "
            "about: give a folder with corpus.jsonl and questions.jsonl"
        )
    question_set = question_set.sample_questions(options.limit or 0, options.seed)
    questions = list(question_set.questions)
    if questions:
        check_questions(questions)
    if questions and options.retrieval == "gold":
        require_gold(questions, [document.id for document in question_set.documents])
    parts, notes = _wanted(options.parts, questions)
    keeper = _Parts(folder)
    with _pipelines(setup, options, store or folder / "store", question_set) as rags:
        base = next(iter(rags.values())).base
        keeper.claim(question_set, setup, options, base)
        run = _Run(rags, question_set, questions, options, setup, folder)
        with progress_bar("adapters", len(rags) * len(run.pool)) as advance:
            run.make_adapters(advance)
        answers: dict[str, dict[str, dict]] = {}
        if "quality" in parts:
            modes, evaluation = options.modes, options.evaluation()
            answers, left_out = compare_quality.ask(
                rags, question_set, evaluation, modes, folder, setup
            )
            notes += left_out
        computed: dict[str, dict | None] = {}
        for part in parts:
            inputs = _inputs(part, setup, base, answers)
            computed[part] = keeper.get(part, inputs, partial(run.part, part, answers, computed))
    report = {
        "version": VERSION,
        "title": question_set.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "base_model": Path(base.name).name if Path(base.name).exists() else base.name,
        "machine": _machine(base),
        "paths": list(options.paths),
        "notes": notes,
        "documents": [_described(document) for document in run.pool],
        "questions": len(questions),
        "setup": asdict(setup),
        "comparison": asdict(options),
    }
    return report | computed | {"disagreements": run.disagreements(answers)}


@dataclass(frozen=True)
class _Run:
    """One comparison: what every part is computed from."""

    rags: Mapping[str, ParametricRAG]
    question_set: QuestionSet
    questions: list[Question]
    options: CompareOptions
    setup: Setup
    folder: Path

    @property
    def pool(self) -> list[Document]:
        """Documents whose adapters are compared: those asked about, or else all."""
        asked = {i for question in self.questions for i in question.gold_ids}
        return [d for d in self.question_set.documents if not asked or d.id in asked]

    def make_adapters(self, advance: Callable[[int], None]) -> None:
        """Make the adapters of the pool on every path."""
        ids, done = [document.id for document in self.pool], 0
        for rag in self.rags.values():
            rag.ensure_adapters(ids, lambda n, before=done: advance(before + n))
            done += len(ids)

    def part(
        self, name: str, answers: Mapping[str, Mapping[str, dict]], computed: Mapping[str, dict]
    ) -> dict | None:
        """Compute one part; those before it are in `computed`."""
        rags, options, seed = self.rags, self.options, self.options.seed
        pool, single = self._scored(options.scored_documents)
        if name == "quality":
            return compare_quality.quality(answers, self.questions, seed)
        if name == "knowledge":
            return compare_parts.knowledge(rags, pool, single, seed)
        if name == "similarity":
            return compare_parts.similarity(rags, self.pool)
        if name == "side_effects":
            texts = computed.get("knowledge") or compare_parts.knowledge(rags, pool, [], seed)
            return compare_parts.side_effects(rags, texts, answers, self.questions, seed)
        if name == "merging":
            return self._merging()
        return compare_cost.cost(rags, self._drawn(self.pool, options.cost_documents), answers)

    def disagreements(self, answers: Mapping[str, Mapping[str, dict]]) -> list[dict] | None:
        """Return the questions on which the paths disagree; None where they were not asked."""
        paths = [path for path in self.rags if f"{path}/parametric" in answers]
        if len(paths) < 2:
            return None
        titles = {d.id: d.title or d.id for d in self.question_set.documents}
        return compare_quality.disagreements(answers, self.questions, titles, paths)

    def _merging(self) -> dict | None:
        pool, options = self.pool, self.options
        known = {document.id for document in pool}
        single = [q for q in self.questions if len(q.gold_ids) == 1 and q.gold_ids[0] in known]
        if not single:
            return None
        return compare_parts.merging(
            self.rags,
            pool,
            self._drawn(single, options.merge_questions),
            options.merge_counts,
            options.merge_weights,
            options.seed,
        )

    def _scored(self, count: int) -> tuple[list[Document], list[Question]]:
        pool = self._drawn(self.pool, count)
        known = {document.id for document in pool}
        single = [q for q in self.questions if len(q.gold_ids) == 1 and q.gold_ids[0] in known]
        return pool, single

    def _drawn(self, items: list, count: int) -> list:
        """Return a seeded sample, in order."""
        draw = random.Random(self.options.seed)
        places = sorted(draw.sample(range(len(items)), min(count, len(items))))
        return [items[place] for place in places]


class _Parts:
    """Finished parts of a comparison on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(
        self, question_set: QuestionSet, setup: Setup, options: CompareOptions, base: BaseModel
    ) -> None:
        """Refuse a folder of another config; parts can be added to one."""
        kept = {name: value for name, value in asdict(options).items() if name != "parts"}
        configs = {path: replace(setup, path=path).answer_config() for path in options.paths}
        config = {
            "comparison": kept,
            "documents": fingerprint(sorted(d.id for d in question_set.documents)),
            "questions": fingerprint(
                [(q.id, q.question, q.golden_answers, q.gold_ids) for q in question_set.questions]
            ),
            "base_fingerprint": base.fingerprint,
            "run": configs,
        }
        finished = sorted(path.stem for path in (self.folder / "parts").glob("*.json"))
        claim_folder(self.folder, config, finished)
        (self.folder / "parts").mkdir(exist_ok=True)

    def get(self, name: str, inputs: str, compute: Callable[[], dict | None]) -> dict | None:
        """Return the part from the disk, or compute and keep it; `inputs` is what it rests on."""
        path = self.folder / "parts" / f"{name}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("inputs") != inputs:
            kept = {"inputs": inputs, "part": compute()}
            write_json(path, kept)
        return json.loads(path.read_text(encoding="utf-8"))["part"]


def _inputs(
    part: str, setup: Setup, base: BaseModel, answers: Mapping[str, Mapping[str, dict]]
) -> str:
    """Hash what a part rests on beside the folder's config: answers, and what times depend on."""
    asked = sorted(answers) if part in ("side_effects", "cost") else []
    timed = [asdict(setup), _machine(base)] if part == "cost" else []
    return fingerprint([part, asked, timed])


@contextmanager
def _pipelines(setup: Setup, options: CompareOptions, store: str | Path, chosen: QuestionSet):
    """Open the store and assemble one pipeline a path over one base model.

    Only adapters come from the store: the corpus is that of the question set, whatever documents
    the store has beside it.
    """
    base = load_base_model(setup.base_model, setup.dtype, setup.device)
    with AdapterStore(store) as opened:
        rags = {}
        for path in options.paths:
            parametrizer = build_parametrizer(
                base, replace(setup, path=path), opened, chosen.documents
            )
            rags[path] = rag = ParametricRAG(
                base,
                make_retriever(setup.retriever),
                parametrizer,
                generation=setup.generation,
                options=setup.answering,
            )
            rag.add_documents(chosen.documents, parametrize=False)
            rag.store = opened
        yield rags


def _wanted(parts: tuple[str, ...], questions: list[Question]) -> tuple[list[str], list[str]]:
    """Return the parts that can be computed, and notes on what is missing."""
    if not questions:
        left = [part for part in parts if part not in NEED_QUESTIONS]
        return left, ["There are no questions: quality and merging are left out."]
    notes, owners = [], {q.gold_ids[0] if q.gold_ids else q.id for q in questions}
    if len(owners) < SMALLEST_SAMPLE:
        notes.append(
            f"{len(questions)} questions about {len(owners)} documents: intervals and tests need "
            f"{SMALLEST_SAMPLE} or more of both and are left out."
        )
    return [part for part in PARTS if part in parts], notes


def _machine(base: BaseModel) -> str:
    found = machine()
    return f"{found['cpu']}, {found['threads']} threads, {base.device}, {base.dtype}"


def _described(document: Document) -> dict:
    topic = document.metadata.get("topic") or document.title
    words = len(document.text.split())
    return {"id": document.id, "title": document.title, "topic": topic, "words": words}
