"""Knowledge: NLL of texts and answers, against plain cross-entropy."""

from __future__ import annotations

import pytest
import torch

from prag_core.corpus.documents import Document
from prag_core.corpus.questions import Question
from prag_core.model.attach import attached
from prag_core.training.loop import mean_nll
from prag_core.training.sequences import answer_sequences, text_sequences
from tests.fixtures.tiny import random_adapter

DOCUMENTS = [Document("The mill of Oss stands still.", "Oss"), Document("Short."), Document("A b.")]


def reference(base, sequence, adapter=None) -> float:
    """Mean NLL of one sequence by the model's own logits."""
    ids = torch.tensor([sequence.ids])
    with torch.no_grad(), attached(base, adapter):
        logits = base.model(input_ids=ids).logits[0]
    first = sequence.answer_start
    return float(torch.nn.functional.cross_entropy(logits[first - 1 : -1], ids[0, first:]))


def test_nll_equals_the_models_own_row_by_row(tiny_base, tiny_spec):
    sequences = text_sequences(tiny_base, DOCUMENTS)
    plain = mean_nll(tiny_base, sequences)
    assert plain == pytest.approx([reference(tiny_base, s) for s in sequences], rel=1e-4)
    adapters = {str(i): random_adapter(tiny_spec, tiny_base, seed=i) for i in range(3)}
    found = mean_nll(tiny_base, sequences, ["2", "0", "1"], adapters.__getitem__)
    expected = [reference(tiny_base, s, adapters[i]) for s, i in zip(sequences, "201", strict=True)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert found != pytest.approx(plain, rel=1e-3)


def test_answers_are_scored_without_prompt_and_end_token(tiny_base):
    question = Question("q", "What stands still?", ("the mill",))
    closed, read = answer_sequences(tiny_base, [question] * 2, [(), DOCUMENTS[:1]])
    tokenizer = tiny_base.tokenizer
    for sequence in (closed, read):
        assert tokenizer.decode(sequence.ids[sequence.answer_start :]).strip() == "the mill"
    assert len(read.ids) > len(closed.ids)


def test_long_texts_are_cut_and_one_token_is_scored(tiny_base):
    long, single = text_sequences(tiny_base, [Document("word " * 900), Document("x")])
    assert len(long.ids) == 512
    assert mean_nll(tiny_base, [single]) == pytest.approx([reference(tiny_base, single)], rel=1e-4)


def test_every_family_scores_as_its_own_logits_do(family_base):
    sequences = text_sequences(family_base, DOCUMENTS)
    expected = [reference(family_base, s) for s in sequences]
    assert mean_nll(family_base, sequences) == pytest.approx(expected, rel=1e-3)
