"""Scores: conditions, neighbours and samples."""

from __future__ import annotations

import pytest
import torch
from hypernet_fixtures import DOCUMENTS, FACTS, parametrizer

from hypernet.losses import kl_to_teacher, mean_by_kind, token_nll, weight_regression
from hypernet.scores import Sample, Scorer, draw_sample, neighbours, shared_rows, table
from prag_core.datasets import Question, QuestionSet
from prag_core.decoding_rows import GenerationOptions

SAMPLE = Sample(
    tuple(DOCUMENTS),
    tuple((f"What does {n} like?", (t,), i) for i, (n, t) in enumerate(FACTS.items())),
)


def test_every_condition_answers_every_question(tiny_base, tmp_path):
    scorer = Scorer(tiny_base, parametrizer(tiny_base, tmp_path), GenerationOptions(4))
    conditions = ("closed_book", "in_context_rows", "gold", "shuffled", "combine", "gold+2")
    answers = scorer.answers(SAMPLE, conditions)
    assert {len(texts) for texts in answers.values()} == {6}
    rows = table(SAMPLE, answers | {"right": list(FACTS.values())})
    assert rows["right"]["containment"] == [1, 1, 1] == rows["right"]["exact_match"]


def test_shared_rows_are_what_all_documents_have_in_common(tiny_base, tmp_path):
    first, second = parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:2])
    for path, (a, b) in shared_rows(first).tensors.items():
        assert a.shape[0] == 3
        assert torch.equal(a, second.tensors[path][0][-3:])
        assert torch.equal(b, second.tensors[path][1][:, -3:])


def test_neighbours_are_other_documents():
    for index, chosen in enumerate(neighbours(DOCUMENTS, 3, seed=0)):
        assert index not in chosen and len(set(chosen)) == 3


def test_sample_keeps_short_documents_with_all_their_questions():
    questions = tuple(
        Question(f"{d.id}{k}", "?", ("x",), (d.id,)) for d in DOCUMENTS for k in range(2)
    )
    sample = draw_sample(QuestionSet("set", tuple(DOCUMENTS), questions), 4, most_words=3)
    assert len(sample.documents) == 4 and len(sample.questions) == 8
    assert draw_sample(QuestionSet("set", tuple(DOCUMENTS), questions), 4, most_words=2) == Sample(
        (), ()
    )


def test_losses():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.tensor([0, 3, 6, 1, 2])
    expected = -logits.log_softmax(-1)[torch.arange(5), targets]
    torch.testing.assert_close(token_nll(logits, targets), expected)
    assert kl_to_teacher(logits, logits).abs().max() < 1e-6
    assert (kl_to_teacher(logits, torch.randn(5, 7)) > 0).all()
    kinds = torch.tensor([0, 0, 1, 1, 1])
    means = mean_by_kind(torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0]), kinds, 3)
    assert means.tolist() == [2, 3, 0]
    a, b = torch.randn(4, 6), torch.randn(4, 5)
    order = torch.tensor([2, 0, 3, 1])
    assert weight_regression(a, b, a[order] * 2, b[order] / 2).item() == pytest.approx(0, abs=1e-9)
