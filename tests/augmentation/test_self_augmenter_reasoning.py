"""Reasoning: what ends with a golden answer is kept, and the model is told the answer."""

from __future__ import annotations

from prag_core.augmentation import self_augmenter
from prag_core.augmentation.augmented import QAPair
from prag_core.augmentation.self_augmenter import write_reasoning
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.model.wordings import WORDINGS

TARN = Document("Tarn lies in Oss.", "Tarn")
QUESTIONS = tuple(Question(f"q{i}", f"Where {i}?", ("Oss", "Os"), (TARN.id,)) for i in range(4))
TEXTS = ["Tarn is in Oss. So the answer is Os.", "So the answer is Bo.", "It is Oss.", None]


def test_only_right_reasoning_is_kept(monkeypatch, tiny_base):
    prompts = []
    monkeypatch.setattr(
        self_augmenter,
        "generate_fitting",
        lambda base, texts, options: prompts.extend(texts) or TEXTS,
    )
    loaded = QuestionSet("set", (TARN,), QUESTIONS)
    pairs = write_reasoning(tiny_base, loaded, QUESTIONS, WORDINGS["paper_cot"])
    assert pairs == [QAPair("Where 0?", "Oss", TEXTS[0])]
    assert len(prompts) == 4 and "Passage 1: Tarn lies in Oss." in prompts[3]
    assert "Passage 2: The right answer is Oss." in prompts[3] and "Where 3?" in prompts[3]
