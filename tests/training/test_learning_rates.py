"""Learning rates: the base model's own where none is given, else what a rule says."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from prag_core.model.catalogue import CATALOGUE
from prag_core.model.checkpoints import SHIPPED
from prag_core.training.learning_rates import CHOSEN, learning_rate
from prag_core.training.lora_trainer import PAPER, LoraTrainer

AUGMENTER = SimpleNamespace(fingerprint="fixed")


def test_it_is_the_base_models_where_none_is_given(tiny_base):
    rate = learning_rate(tiny_base)
    auto, given, other = (
        LoraTrainer(tiny_base, AUGMENTER, replace(PAPER, learning_rate=r)) for r in (0, rate, 1e-3)
    )
    assert auto.options.learning_rate == rate
    assert auto.fingerprint == given.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("family", "hidden", "rate"),
    [("llama", 4096, 2.86e-4), ("mistral", 4096, 2.86e-4), ("qwen3", 4096, 4.73e-4)],
)
def test_rule(family, hidden, rate):
    config = SimpleNamespace(model_type=family, hidden_size=hidden)
    base = SimpleNamespace(fingerprint="another", model=SimpleNamespace(config=config))
    assert learning_rate(base) == pytest.approx(rate, rel=1e-2)


def test_base_models_with_a_shipped_warm_up_have_one_that_was_chosen():
    notes = SHIPPED.glob("*-warmup/prag_adapter.json")
    assert {json.loads(note.read_text())["spec"]["base_model"] for note in notes} == {*CHOSEN}
    assert {entry.fingerprint for entry in CATALOGUE.values()} == {*CHOSEN}
