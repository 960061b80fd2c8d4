"""Packed rows: every token has the states that it has in its row alone."""

from __future__ import annotations

import pytest
import torch

from hypernet.network.rows import Rows, attached_rows
from hypernet.training.batches import BatchConfig
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.module import HypernetModule
from prag_core.model import packing
from prag_core.model.packing import pack
from tests.fixtures.hypernetworks import CONFIG, network, write_question_set

BLOCKS = [
    [[3, 4, 5, 6], [3, 4, 5, 7, 8], [3, 9], [3, 4, 5, 6]],
    [[10, 11, 12], [4], [10, 11], [5, 10, 11, 12, 13, 14]],
]


def test_common_beginnings_stand_once():
    packed, places = pack(BLOCKS, padding=0, multiple=4)
    assert packed.ids.tolist() == [
        [3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0],
        [10, 11, 12, 4, 5, 10, 11, 12, 13, 14, 0, 0],
    ]
    assert packed.depths[0, :7].tolist() == [0, 1, 2, 3, 3, 4, 1]
    assert places[0] == [[0, 1, 2, 3], [0, 1, 2, 4, 5], [0, 6], [0, 1, 2, 3]]
    assert packed.seen[0, 5].nonzero().flatten().tolist() == [0, 1, 2, 4, 5]
    assert packed.seen[1].diagonal().all()  # padding sees itself: no softmax over nothing


@pytest.mark.parametrize("eager_tokens", [512, 0], ids=["eager", "as_loaded"])
def test_states_are_those_of_the_rows_alone(family_base, eager_tokens, monkeypatch):
    monkeypatch.setattr("prag_core.training.stacked_lora.EAGER_TOKENS", eager_tokens)
    base = family_base
    module = HypernetModule(network=CONFIG)
    module.base = base
    module.configure_model()
    linears = module.encoder.linears
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, len(linears), 3, size) for size in base.module_shape("down_proj")]
    a, b = (torch.randn(shape, generator=generator) for shape in shapes)
    packed, places = pack(BLOCKS, padding=0)
    with torch.no_grad():
        states = module.hidden_states(packed, Rows(a, b)).unflatten(0, packed.ids.shape)
        for number, block in enumerate(BLOCKS):
            own = Rows(a[number : number + 1], b[number : number + 1])
            for row, where in zip(block, places[number], strict=True):
                with attached_rows(linears, own):
                    alone = base.model.get_submodule("model")(torch.tensor([row]))
                torch.testing.assert_close(
                    states[number, where], alone.last_hidden_state[0], atol=1e-4, rtol=1e-4
                )


def test_rows_beyond_a_sliding_window_are_refused(tiny_base, monkeypatch):
    packed, _ = pack([[[*range(10, 40)]]], 0)
    monkeypatch.setattr(tiny_base.model.config, "sliding_window", 30, raising=False)
    packing.packed_states(tiny_base, packed)  # 32 with its padding
    monkeypatch.setattr(tiny_base.model.config, "sliding_window", 29, raising=False)
    with pytest.raises(ValueError, match="got a prompt of 30 tokens to train with, expected at"):
        packing.packed_states(tiny_base, packed)


def test_losses_and_gradients_are_those_of_rows_alone(tiny_base, tmp_path, monkeypatch):
    settings = {"teacher_weight": 0.7, "unrelated_weight": 0.3}
    module = HypernetModule(network=CONFIG, **settings)
    module.base = tiny_base
    module.configure_model()
    module.network = network(tiny_base)
    batch = BatchConfig(documents=4, groups=(2,), questions=3, passages=True)
    data = HypernetDataModule(
        [str(write_question_set(tmp_path))], validation_articles=2, batch=batch
    )
    data.load(tiny_base)

    def step() -> tuple[list[float], list[torch.Tensor], int]:
        """Return losses, gradients, and tokens that the base model reads."""
        tokens, losses = 0, {}
        hidden = HypernetModule.hidden_states

        def counted(packed, rows):
            nonlocal tokens
            tokens += packed.ids.numel()
            return hidden(module, packed, rows)

        module.hidden_states = counted
        module.log_dict = lambda values, **options: losses.update(values)
        module.log = lambda *args, **options: None
        module.zero_grad()
        module.training_step(data._builder(data.training, [1.0], batch).build(1), 0).backward()
        gradients = [parameter.grad.clone() for parameter in module.network.parameters()]
        return [float(value) for value in losses.values()], gradients, tokens

    losses, gradients, tokens = step()

    tree = packing._tree
    monkeypatch.setattr(packing, "_tree", lambda rows: unshared(tree, rows))
    others, expected, more = step()
    assert losses == pytest.approx(others, abs=1e-5)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-5, rtol=1e-4)
    assert tokens < 0.8 * more


def unshared(tree, rows):
    """Return the tree of rows that share no beginning."""
    tokens, parents, places = [], [], []
    for row in rows:
        own, above, (path,) = tree([row])
        first = len(tokens)
        tokens += own
        parents += [parent if parent < 0 else first + parent for parent in above]
        places.append([first + place for place in path])
    return tokens, parents, places
