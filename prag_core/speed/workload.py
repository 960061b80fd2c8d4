"""What the benchmark works on: the demo's documents, their questions and adapters trained on them.

No model writes anything here: the rewrite of a document is its sentences in reverse order, and the
pairs are the demo's own questions, so that every machine measures the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from prag_core.adapters.adapter import fingerprint
from prag_core.adapters.store import AdapterStore
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import demo_question_set
from prag_core.model.base_model import BaseModel
from prag_core.model.options import GenerationOptions
from prag_core.model.wordings import DEFAULT
from prag_core.pipeline.rag import ParametricRAG
from prag_core.training.lora_trainer import LoraTrainer, paper_options

PAIRS = 3  # question-answer pairs a document, as in Su et al. (2025)


@dataclass(frozen=True)
class WorkloadQuestion:
    """A question and the documents it is answered from, the one with the answer first."""

    text: str
    document_ids: tuple[str, ...]


class FixedAugmenter:
    """Augments every document of the demo without a model."""

    fingerprint = fingerprint("speed")

    def augment(self, documents: list[Document]) -> list[AugmentedDocument]:
        """Return each document with one rewrite and the demo's first three questions on it."""
        pairs: dict[str, list[QAPair]] = {document.id: [] for document in documents}
        for question in demo_question_set().questions:
            if question.gold_ids[0] in pairs:
                pair = QAPair(question.question, question.golden_answers[0])
                pairs[question.gold_ids[0]].append(pair)
        # The demo has more questions on some documents: as many on each as the paper writes.
        return [AugmentedDocument(d, (_reversed(d.text),), tuple(pairs[d.id][:PAIRS]))
                for d in documents]  # fmt: skip


def workload_documents(count: int = 12) -> list[Document]:
    """Return the demo's first documents."""
    return list(demo_question_set().documents)[:count]


def workload_questions(count: int, k: int = 3) -> list[WorkloadQuestion]:
    """Return questions with k documents each; a question that comes again has other documents."""
    demo = demo_question_set()
    places = {document.id: place for place, document in enumerate(demo.documents)}
    size, questions = len(places), []
    for i in range(count):
        turn, index = divmod(i, len(demo.questions))
        question = demo.questions[index]
        gold = places[question.gold_ids[0]]
        # Steps from the gold document; the next turn begins where this one ended.
        others = [1 + (turn * (k - 1) + step) % (size - 1) for step in range(k - 1)]
        ids = tuple(demo.documents[(gold + step) % size].id for step in (0, *others))
        questions.append(WorkloadQuestion(question.question, ids))
    return questions


def paper_trainer(base: BaseModel) -> LoraTrainer:
    """Return a trainer with the paper's settings, but stored and asked as adapters usually are.

    Sequences are cut to the model's context.
    """
    most = min(paper_options().max_tokens, base.context_length)
    options = paper_options(max_tokens=most, prompt=DEFAULT, dtype="bfloat16")
    return LoraTrainer(base, FixedAugmenter(), options)


def workload_pipeline(base: BaseModel, store: AdapterStore) -> ParametricRAG:
    """Return a pipeline of the demo's documents; what the store does not have is trained."""
    # Stop strings are PEFT's weak side (a test of the text after each token): none on both sides.
    rag = ParametricRAG(
        base, parametrizer=paper_trainer(base), store=store, documents=workload_documents(),
        generation=GenerationOptions(stop=()),
    )  # fmt: skip
    rag.ensure_adapters(rag.documents)
    return rag


def _reversed(text: str) -> str:
    # The last sentence has no space behind its full stop.
    sentences = text.rstrip(".").split(". ")
    return ". ".join(reversed(sentences)) + "."
