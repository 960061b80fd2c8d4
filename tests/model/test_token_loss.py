"""Token loss: equal to plain cross-entropy and its gradient, in every model family."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from prag_core.adapters.adapter import AdapterSpec
from prag_core.model import token_loss
from prag_core.model.attach import attached
from prag_core.model.token_loss import (
    CHUNK,
    IGNORE,
    Distillation,
    Taught,
    _LinearCrossEntropy,
    kl_divergence,
    kl_to_teacher,
    mean_by_owner,
    next_token_loss,
    teach,
)
from tests.fixtures.tiny import random_adapter


def batch(rows: int = 4, length: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and labels; the first three labels of every row carry no loss."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 250, (rows, length), generator=generator)
    labels = ids.clone()
    labels[:, :3] = IGNORE
    return ids, labels


def test_means_are_of_each_owner_alone():
    losses, owners = torch.tensor([1.0, 3.0, 2.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1, 1])
    assert mean_by_owner(losses, owners, 3).tolist() == [2, 3, 0]


def test_equals_the_models_own_loss_in_every_family(family_base):
    ids, labels = batch()
    expected = family_base.model(input_ids=ids, labels=labels).loss
    loss = next_token_loss(family_base, ids, labels, torch.zeros(4, dtype=torch.long), 1)
    torch.testing.assert_close(loss[0], expected, rtol=1e-5, atol=1e-5)


def test_gemma2_is_tested_with_its_softcap(family_base):
    caps = {"gemma2": 30.0}
    cap = getattr(family_base.model.config, "final_logit_softcapping", None)
    assert cap == caps.get(family_base.name)


def test_mean_is_over_each_documents_own_tokens(tiny_base):
    ids, labels = batch()
    labels[1, 6:] = IGNORE  # rows of one document may differ in tokens
    owner = torch.tensor([0, 2, 2, 0])
    logits = tiny_base.model(input_ids=ids).logits
    loss = next_token_loss(tiny_base, ids, labels, owner, 4)
    for document in (0, 2):
        rows = owner == document
        expected = cross_entropy(
            logits[rows, :-1].flatten(0, 1), labels[rows, 1:].flatten(), ignore_index=IGNORE
        )
        torch.testing.assert_close(loss[document], expected, rtol=1e-5, atol=1e-5)
    assert loss[1] == loss[3] == 0  # no rows, no loss


def test_no_labelled_token_is_no_loss(tiny_base):
    ids, labels = batch()
    loss = next_token_loss(tiny_base, ids, torch.full_like(labels, IGNORE), torch.arange(4), 4)
    assert loss.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("tokens", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 5])
def test_gradient_equals_autograd_of_the_plain_formula(cap, tokens):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, 8, generator=generator, requires_grad=True)
    weight = torch.randn(20, 8, generator=generator)
    target = torch.randint(20, (tokens,), generator=generator)
    upstream = torch.rand(tokens, generator=generator)  # every token's loss weighs differently
    logits = hidden @ weight.T
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    plain = cross_entropy(logits, target, reduction="none")
    (expected,) = torch.autograd.grad((plain * upstream).sum(), hidden)
    ours = _LinearCrossEntropy.apply(hidden, weight, target, cap)
    (gradient,) = torch.autograd.grad((ours * upstream).sum(), hidden)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)


def test_gradient_reaches_a_lora_as_through_the_models_own_loss(family_base):
    ids, labels = batch()
    spec = AdapterSpec(family_base.fingerprint, rank=2, alpha=2, layers=(0, 1))
    adapter = random_adapter(spec, family_base)
    gradients = []
    for own in (True, False):
        delta = torch.zeros(4, 12, 32, requires_grad=True)
        layer = family_base.model.model.layers[0]
        handle = layer.mlp.register_forward_hook(lambda _, __, output, d=delta: output + d)
        with attached(family_base, adapter):
            if own:
                loss = family_base.model(input_ids=ids, labels=labels).loss
            else:
                owner = torch.zeros(4, dtype=torch.long)
                loss = next_token_loss(family_base, ids, labels, owner, 1)[0]
        gradients.append(torch.autograd.grad(loss, delta)[0])
        handle.remove()
    assert gradients[0].abs().max() > 1e-4
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


def test_padding_on_the_right_changes_nothing(tiny_base):
    ids, labels = batch(rows=2)
    padded = torch.nn.functional.pad(ids, (0, 5))
    masked = torch.nn.functional.pad(labels, (0, 5), value=IGNORE)
    owner = torch.arange(2)
    torch.testing.assert_close(
        next_token_loss(tiny_base, padded, masked, owner, 2),
        next_token_loss(tiny_base, ids, labels, owner, 2),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_distillation_with_its_gradient(tiny_base, monkeypatch, reverse, cap):
    """Against autograd over whole distributions: of all tokens but one, the others are that one."""
    monkeypatch.setattr(token_loss, "CHUNK", 3)
    torch.manual_seed(0)
    hidden, target = torch.randn(5, 32), torch.randint(0, 250, (5,))
    head = tiny_base.model.lm_head.weight
    teacher = torch.randn(5, len(head))
    likely = teacher.topk(len(head) - 1).indices
    taught = Taught(likely.int(), token_loss.coarse(teacher, likely))
    ours, theirs = (hidden.clone().requires_grad_() for _ in range(2))
    losses = Distillation(taught, 0.3, reverse).losses(tiny_base, ours, target, cap)
    logits = theirs @ head.mT
    logits = cap * torch.tanh(logits / cap) if cap else logits
    pair = (teacher.log_softmax(-1), logits.log_softmax(-1))
    pair = pair[::-1] if reverse else pair
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    expected = 0.7 * nll + 0.3 * kl_divergence(*pair)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    for part in (losses, expected):
        part.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


def test_distance_to_a_teacher():
    torch.manual_seed(0)
    logits, others = torch.randn(5, 7), torch.randn(5, 7)
    assert kl_to_teacher(logits, logits).abs().max() < 1e-6
    assert (kl_to_teacher(logits, others) > 0).all()
    p = others.softmax(-1)
    expected = (p * (p / logits.softmax(-1)).log()).sum(-1)
    torch.testing.assert_close(kl_to_teacher(logits, others), expected)


def test_what_a_teacher_says_is_kept_of_labelled_tokens(tiny_base):
    ids = torch.randint(5, 250, (2, 9))
    labels = torch.full_like(ids, IGNORE)
    labels[0, 4:7], labels[1, 8:] = ids[0, 4:7], ids[1, 8:]
    first, second = teach(tiny_base, ids, labels, 4)
    logits = tiny_base.model(ids).logits.log_softmax(-1)
    expected = logits[0, 3:6].topk(4)
    assert torch.equal(first.ids.long(), expected.indices)
    torch.testing.assert_close(first.logs[:, :4], expected.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first.logs.exp().sum(-1), torch.ones(3))
    assert second.ids.shape == (1, 4)
