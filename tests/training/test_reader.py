"""Reader: what it is trained on, when it stops, and that it learns to read."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace

import pytest
import torch

from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.model.attach import attached
from prag_core.model.prompts import prompt_id
from prag_core.training import reader as reader_module
from prag_core.training.loop import mean_nll
from prag_core.training.lora_trainer import LoraTrainer
from prag_core.training.options import LoraTrainingOptions, ReaderOptions
from prag_core.training.reader import reader_sequences, train_reader

LETTERS = "abcdefghij"
OPTIONS = ReaderOptions(
    (1e-2, 1e-5), batch=4, every=5, held_out_articles=2, held_out_questions=8, max_tokens=200,
    patience=2,
)  # fmt: skip


def letters_set() -> QuestionSet:
    """Articles of two paragraphs; the answer stands in each, and in no other."""
    documents = tuple(Document(f"It is {x}{n}.", x) for x in LETTERS for n in range(2))
    questions = tuple(
        Question(f"q{i}", f"What is it ({d.title})?", (d.text[6:8],), (d.id,))
        for i, d in enumerate(documents)
    )
    return QuestionSet("letters", documents, questions)


@pytest.fixture
def trainer(tiny_base):
    options = LoraTrainingOptions(rank=4, alpha=8, dtype="float32")
    return LoraTrainer(tiny_base, SimpleNamespace(fingerprint="none"), options)


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by a minute whenever it is asked."""
    now = [0.0]

    def minute() -> float:
        now[0] += 60
        return now[0]

    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=minute))


def text_of(trainer, sequence) -> str:
    return trainer.base.tokenizer.decode(sequence.ids)


def test_a_question_over_two_articles_is_read_in_both_and_trained_on_in_neither(trainer, tmp_path):
    (tmp_path / "titles.txt").write_text("c\n")
    whole = letters_set()
    ids = {d.title: d.id for d in whole.documents}
    pairs = [(one, other) for one in LETTERS for other in LETTERS if one < other]
    asked = tuple(
        Question(one + other, f"Which two ({one}) ({other})?", ("both",), (ids[one], ids[other]))
        for one, other in pairs
    )
    options = replace(OPTIONS, held_out_questions=100)
    left_out = LeaveOut(str(tmp_path / "titles.txt"))
    sequences = reader_sequences(trainer, replace(whole, questions=asked), options, left_out)
    trained = [text_of(trainer, s) for s in sequences.training]
    measured = [text_of(trainer, s) for s in sequences.held_out]
    assert trained and not any(f"({x})" in t for t in trained for x in [*sequences.articles, "c"])
    assert all(any(f"({x})" in text for x in sequences.articles) for text in measured)
    assert all(text.count("It is ") == 2 for text in trained)


def test_articles_are_held_out_and_left_out(trainer, tmp_path):
    (tmp_path / "titles.txt").write_text("c\nd\n")
    left_out = LeaveOut(str(tmp_path / "titles.txt"))
    sequences = reader_sequences(trainer, letters_set(), OPTIONS, left_out)
    assert len(sequences.articles) == 2 and not {*sequences.articles} & {*"cd"}
    trained = [text_of(trainer, s) for s in sequences.training]
    measured = [text_of(trainer, s) for s in sequences.held_out]
    for title in LETTERS:
        held_out, never = title in sequences.articles, title in "cd"
        assert sum(f"({title})" in text for text in measured) == 2 * held_out
        assert sum(f"({title})" in text for text in trained) == 2 * (not held_out and not never)
    for sequence in (*sequences.training, *sequences.held_out):
        text = text_of(trainer, sequence)
        prompt = trainer.base.tokenizer.decode(sequence.ids[: sequence.answer_start])
        answer = trainer.base.tokenizer.decode(sequence.ids[sequence.answer_start : -1])
        assert f"It is {answer.strip()}." in prompt and text.startswith(prompt)


def test_relations_are_left_out_and_long_questions_counted(trainer):
    whole = letters_set()
    born = replace(whole.questions[0], question="Where was a born?")
    long = replace(whole.questions[2], question="Why? " * 50)
    whole = replace(whole, questions=(born, whole.questions[1], long, *whole.questions[3:]))
    left_out = LeaveOut(relations=("place of birth",))
    sequences = reader_sequences(trainer, whole, OPTIONS, left_out)
    texts = [text_of(trainer, s) for s in (*sequences.training, *sequences.held_out)]
    assert len(texts) == 18 and not any("born" in text for text in texts)
    assert sequences.too_long == 1
    few = replace(OPTIONS, questions=5, held_out_questions=3)
    sequences = reader_sequences(trainer, letters_set(), few, LeaveOut())
    assert (len(sequences.training), len(sequences.held_out)) == (5, 3)


def test_the_better_learning_rate_goes_on_and_its_best_adapter_is_kept(trainer, clock):
    sequences = reader_sequences(trainer, letters_set(), OPTIONS, LeaveOut())
    points = list(train_reader(trainer, sequences, replace(OPTIONS, max_hours=1.5, race=0.3)))
    rates = [point.learning_rate for point in points]
    assert rates[:2] == [1e-2, 1e-5] and rates[-1] == 1e-2
    alone = rates.index(1e-2, len(rates) - rates[::-1].index(1e-5))
    assert set(rates[alone:]) == {1e-2} and len(rates) > alone + 1
    assert [p.stopped for p in points[:-1]] == [""] * (len(points) - 1) and points[-1].stopped
    assert all(a.seconds < b.seconds for a, b in pairwise(points))
    best = min(points, key=lambda point: point.held_out_loss)
    assert best.adapter and not any(p.adapter for p in points[points.index(best) + 1 :])
    with attached(trainer.base, best.adapter), torch.no_grad():
        assert fmean(mean_nll(trainer.base, sequences.held_out)) == pytest.approx(
            best.held_out_loss, abs=1e-4
        )
    before = fmean(mean_nll(trainer.base, sequences.held_out))  # the base model alone, unchanged
    assert best.held_out_loss < before - 1
    asked = prompt_id(trainer.wording, tokenizer=trainer.base.tokenizer)
    assert best.adapter.metadata["prompt"] == asked and best.adapter.metadata["path"] == "reader"


def test_it_ends_with_the_time_or_where_the_loss_is_flat(trainer, clock):
    sequences = reader_sequences(trainer, letters_set(), OPTIONS, LeaveOut())
    *_, last = train_reader(trainer, sequences, replace(OPTIONS, max_hours=0.1))
    assert last.stopped == "time" and last.seconds >= 360
    still = replace(OPTIONS, learning_rates=(1e-9,), max_hours=100.0)  # hardly anything changes
    *_, last = train_reader(trainer, sequences, still)
    assert last.stopped == "flat" and last.step == 3 * still.every


def test_the_learning_rate_falls_to_nothing(trainer, clock):
    held = reader_module._Clock(replace(OPTIONS, max_hours=1.0, race=0.5))
    factors = [held.decay(0.5) for _ in range(70)]
    assert factors[:28] == [1.0] * 28 and factors[-1] == 0.0
    assert all(a > b for a, b in pairwise(factors[31:58]))


@pytest.mark.parametrize(
    "changes", [{"learning_rates": ()}, {"learning_rates": (1e-3, 1e-3)}, {"race": 0.0},
                {"max_hours": 0.0}, {"batch": 0}]
)  # fmt: skip
def test_options_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match="expected different positive learning rates"):
        replace(OPTIONS, **changes)


def test_too_few_articles_are_refused(trainer):
    with pytest.raises(ValueError, match=r"got 10 articles .* expected more than the 10"):
        reader_sequences(trainer, letters_set(), replace(OPTIONS, held_out_articles=10), LeaveOut())
    with pytest.raises(ValueError, match="got 20 questions of more than 9 tokens"):
        reader_sequences(trainer, letters_set(), replace(OPTIONS, max_tokens=9), LeaveOut())


def test_a_learning_rate_that_diverges_does_not_go_on(trainer, clock, monkeypatch):
    def measure(run, sequences) -> float:
        run.losses.append(float("nan") if run.learning_rate == OPTIONS.learning_rates[0] else 1.0)
        return run.losses[-1]

    monkeypatch.setattr(reader_module._Run, "measure", measure)
    monkeypatch.setattr(reader_module._Run, "advance", lambda run: None)
    sequences = reader_sequences(trainer, letters_set(), OPTIONS, LeaveOut())
    points = train_reader(trainer, sequences, replace(OPTIONS, race=1e-3))
    rates = [point.learning_rate for point in points]
    assert rates[:2] == [*OPTIONS.learning_rates] and {*rates[2:]} == {OPTIONS.learning_rates[1]}


def test_learning_rates_that_all_diverge_are_refused(trainer, clock, monkeypatch):
    def measure(run, sequences) -> float:
        run.losses.append(float("nan"))
        return run.losses[-1]

    monkeypatch.setattr(reader_module._Run, "measure", measure)
    monkeypatch.setattr(reader_module._Run, "advance", lambda run: None)
    sequences = reader_sequences(trainer, letters_set(), OPTIONS, LeaveOut())
    with pytest.raises(ValueError, match=r"got no held-out loss .* --reading.learning_rates"):
        list(train_reader(trainer, sequences, OPTIONS))
