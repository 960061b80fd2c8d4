"""Scores: conditions, neighbours and samples."""

from __future__ import annotations

import json

import pytest
import torch

from hypernet.cli import main
from hypernet.generation.conditions import (
    Sample,
    Scorer,
    _adapters,
    draw_sample,
    neighbours,
    shared_rows,
    table,
)
from hypernet.measure.score import ratios
from hypernet.network.checkpoint import save_checkpoint
from hypernet.training.losses import kl_to_teacher, mean_by_kind, token_nll, weight_regression
from prag_core.adapters.merge import merge
from prag_core.corpus.question_sets import Question, QuestionSet
from prag_core.model.decoding_rows import GenerationOptions
from tests.fixtures.hypernetworks import (
    CONFIG,
    DOCUMENTS,
    FACTS,
    network,
    parametrizer,
    write_question_set,
)

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


def test_several_documents_are_weighed_by_the_questions_scores(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path)
    own = made.parametrize(DOCUMENTS)
    relative = _adapters("gold+2:relative", SAMPLE, own, 0, lambda number, place: True)(1)
    equal = _adapters("gold+2", SAMPLE, own, 0, lambda number, place: True)(1)
    alone = merge([own[1]])  # no other title holds a word of the question
    path = relative.spec.paths()[0]
    update = [b @ a for a, b in (x.tensors[path] for x in (relative, equal, alone))]
    assert torch.dist(update[0], update[2]) < torch.dist(update[1], update[2])


def test_unknown_conditions_and_a_missing_other_are_refused(tiny_base, tmp_path):
    scorer = Scorer(tiny_base, parametrizer(tiny_base, tmp_path), GenerationOptions(4))
    with pytest.raises(ValueError, match="got condition 'golden', expected one of closed_book"):
        scorer.answers(SAMPLE, ["golden"])
    with pytest.raises(ValueError, match="got 1 document, expected 2 or more"):
        scorer.answers(Sample(SAMPLE.documents[:1], SAMPLE.questions[:1]), ["shuffled"])


def test_unrelated_text_without_adapter_is_the_base_models(tiny_base, tmp_path):
    scorer = Scorer(tiny_base, parametrizer(tiny_base, tmp_path))
    texts = [d.text for d in DOCUMENTS[:2]]
    totals, tokens = scorer.unrelated_nll(texts, [None, None])
    ids = tiny_base.tokenizer(texts[0], return_tensors="pt", add_special_tokens=False).input_ids
    first = ids.shape[1] // 2  # of a short text its second half counts
    labels = ids.clone()
    labels[:, :first] = -100
    loss = tiny_base.model(input_ids=ids, labels=labels).loss.item()
    assert totals[0] == pytest.approx(loss * (ids.shape[1] - first), rel=1e-5)
    assert tokens == sum(len(text) - len(text) // 2 for text in texts)
    attached, _ = scorer.unrelated_nll(texts, scorer.parametrizer.parametrize(DOCUMENTS[2:4]))
    assert attached != totals


def test_ratios_are_over_the_same_questions():
    contained = {
        "closed_book": [1, 0, 0, 1, 0, 0], "in_context": [1, 1, 0, 0, 0, 0],
        "gold": [1, 1, 1, 1, 0, 0], "shuffled": [1, 0, 0, 0, 0, 0], "gold+2": [1, 1, 0, 0, 0, 0],
        "rank:8": [1, 0, 0, 0, 0, 0],
    }  # fmt: skip
    means = {name: row[0] for name, row in ratios(contained).items()}
    assert means == {
        "gold / in_context": 2, "gold+2 / gold": 0.5, "rank:8 / gold": 0.25,
        "(gold - shuffled) / gold": 0.75, "closed_book's that shuffled keeps": 0.5,
    }  # fmt: skip


def test_score_command(tiny_base, tmp_path, capsys):
    tiny_base.model.save_pretrained(tmp_path / "base")
    tiny_base.tokenizer.save_pretrained(tmp_path / "base")
    folder = write_question_set(tmp_path / "set")
    save_checkpoint(tmp_path / "network", network(tiny_base), CONFIG, tiny_base)
    command = ["score", str(folder), f"--weights={tmp_path / 'network'}",
               f"--base_model={tmp_path / 'base'}", "--max_new_tokens=2"]  # fmt: skip
    chosen = ["--conditions=[closed_book,in_context,gold,shuffled,gold+2:relative,rank:8]"]
    file = tmp_path / "scores.json"
    assert main([*command, *chosen, f"--unrelated={folder}", f"--output={file}"]) == 0
    result = json.loads(file.read_text())
    names = ["closed_book", "in_context", "gold", "shuffled", "gold+2:relative", "rank:8"]
    assert list(result["conditions"]) == names and result["questions"] == 6
    assert result["settings"]["seed"] == 0 and len(result["unrelated"]["ratio"]) == 3
    printed = capsys.readouterr().out
    assert "6 documents, 6 questions" in printed and "rank:8 | " in printed
    assert main([*command, "--questions=3"]) == 2
    assert "got 3 questions about documents of at most 200 words" in capsys.readouterr().err
    before = file.read_bytes()
    for bad, message in (
        ("--conditions=[gold,golden]", "got condition 'golden'"),
        ("--conditions=[gold,'rank:1']", "got rank 1, expected 2 or more"),
        ("--unrelated=nowhere", "nowhere"),
        ("--texts=2", "got 2 unrelated texts"),
    ):
        assert main([*command, f"--unrelated={folder}", bad, f"--output={file}"]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and "gold | " not in printed.out
    assert file.read_bytes() == before


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
