"""The ridge head: gradients, padding, joint solve, rows kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hypernet.network.config import HEADS, NetworkConfig
from hypernet.network.encoder import Encoder
from hypernet.network.rows import attached_rows
from prag_core.model.padding import pad
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network


def encode(base, documents=DOCUMENTS, multiple=1, to_the_end=False):
    encoder = Encoder(base, CONFIG.layers, to_the_end)
    rows = [encoder.frame(base.tokenizer(d.text).input_ids) for d in documents]
    return encoder, encoder(*pad(rows, 0, multiple))


@pytest.mark.parametrize("name", HEADS)
def test_gradients_reach_every_parameter(tiny_base, name):
    config = replace(CONFIG, head=name)
    head = network(tiny_base, config)
    encoder, encoding = encode(tiny_base, to_the_end=config.reads_to_the_end)
    ids = torch.randint(5, 200, (6, 12))
    with attached_rows(encoder.linears, head(encoding, group=2)):
        logits = tiny_base.model(input_ids=ids).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    without = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad is None for p in tiny_base.model.parameters())


def test_gradients_reach_every_parameter_at_a_small_rank(tiny_base):
    head = network(tiny_base)
    _, encoding = encode(tiny_base)
    with torch.autocast("cpu", torch.bfloat16):
        rows = head(encoding, rank=4 + 1)  # of the shared rows such an adapter keeps one
        ranks = torch.linalg.matrix_rank(rows.b[0, :, :-3].detach().float(), rtol=0.03)
        assert ranks.sum() == 4 * len(ranks)
        ((rows.a.mT @ rows.b).float() - 1).square().sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_ridge_gradient_equals_finite_difference(tiny_base):
    head = network(tiny_base)
    _, encoding = encode(tiny_base)
    keys = encoding.keys * encoding.mask[:, None, :, None]
    weight = torch.randn(keys.shape, generator=torch.Generator().manual_seed(0))

    def value() -> torch.Tensor:
        return (head.addresses(keys) * weight).sum()

    value().backward()
    gradient = head.log_ridge.grad[0].item()
    with torch.no_grad():
        step = 1e-2
        head.log_ridge[0] += step
        high = value().item()
        head.log_ridge[0] -= 2 * step
        low = value().item()
    assert gradient == pytest.approx((high - low) / (2 * step), rel=2e-2)


def test_padding_changes_nothing(tiny_base):
    head = network(tiny_base)
    _, tight = encode(tiny_base)
    _, wide = encode(tiny_base, multiple=64)
    a, b = head(tight), head(wide)
    shared, length = head.shared_count, tight.mask.shape[1]
    for short, long in ((a.a, b.a), (a.b, b.b)):
        torch.testing.assert_close(short[:, :, :length], long[:, :, :length], atol=1e-5, rtol=1e-4)
        assert not long[:, :, length:-shared].any()


def test_documents_of_one_group_are_solved_together(tiny_base):
    head = network(tiny_base)
    _, encoding = encode(tiny_base)
    alone, joint = head(encoding, 1), head(encoding, 2)
    length = encoding.mask.shape[1]
    torch.testing.assert_close(joint.b[0, :, :length], alone.b[0, :, :length])
    assert not torch.allclose(joint.a[0, :, :length], alone.a[0, :, :length], atol=1e-3)
    other = encoding.keys[1, 0][encoding.mask[1]]  # tokens of the second document
    response = (other @ alone.a[0, 0, :length].T).norm()
    assert (other @ joint.a[0, 0, :length].T).norm() < 0.8 * response


def test_addresses_are_the_whitened_ridge_regression_in_float64(tiny_base):
    head, (_, encoding) = network(tiny_base), encode(tiny_base)
    keys = encoding.keys[:1]  # (1, L, T, I)
    found = head.addresses(keys)
    for layer in range(keys.shape[1]):
        k, w = keys[0, layer].double(), head.whitening[layer].double()
        whitened = k * w / len(w) ** 0.5
        gram = whitened @ whitened.T + head.log_ridge[layer].exp().double() * torch.eye(len(k))
        expected = torch.linalg.inv(gram.detach()) @ whitened * w / len(w) ** 0.5
        torch.testing.assert_close(found[0, layer].double(), expected, rtol=1e-3, atol=1e-4)


def test_whitening_scales_each_dimension_or_all_alike(tiny_base):
    _, encoding = encode(tiny_base)
    tokens = encoding.keys[:, 0][encoding.mask]  # (tokens, I), those it is calibrated on
    for name in ("diagonal", "none"):
        scaled = tokens * network(tiny_base, replace(CONFIG, whitening=name)).whitening[0]
        sizes = scaled.square().mean(0)
        assert float(sizes.mean()) == pytest.approx(1, rel=1e-3)
        assert (float(sizes.std()) < 1e-2) == (name == "diagonal")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"whitening": "full"}, "got whitening 'full'"),
        ({"head": "mlp"}, "got head 'mlp'"),
        ({"width": 15}, "expected an even width"),
        ({"ridge": 0.0}, "expected the first three >= 0, ridge > 0"),
    ],
)
def test_bad_sizes_are_refused(change, text):
    with pytest.raises(ValueError, match=text):
        NetworkConfig(**change)
