"""Ridge memories: closed-form rows and joint solves against dense float64 references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.adapters.ridge_memory import (
    RidgeMemory,
    require_one_network,
    solve_rows,
    solve_together,
)

INPUTS, OUTPUTS, BACKGROUND = 16, 24, 4


@pytest.mark.parametrize("rows", [5, 16, 40])  # fewer than, as many as, more than I = 16
def test_rows_equal_the_dense_float64_solution(rows):
    torch.manual_seed(0)
    keys = torch.randn(2, 3, rows, 16)
    strength = torch.tensor([0.05, 0.1, 0.3])[:, None, None]
    found = solve_rows(keys, strength)
    wide = keys.double()
    system = wide @ wide.mT + strength.double() * torch.eye(rows, dtype=torch.float64)
    expected = torch.linalg.solve(system, wide)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [3, 5, 8])  # fewer than, as many as, more than I = 5
def test_gradients_of_keys_and_lambda_are_exact(rows):
    torch.manual_seed(0)
    keys = torch.randn(2, 3, rows, 5, dtype=torch.float64, requires_grad=True)
    strength = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)[:, None, None].requires_grad_()
    assert torch.autograd.gradcheck(solve_rows, (keys, strength))


def test_rows_of_zeros_stay_zero_and_change_nothing():
    torch.manual_seed(0)
    keys, strength = torch.randn(6, 16), torch.tensor([[0.1]])
    padded = torch.cat([keys, torch.zeros(3, 16)])
    found = solve_rows(padded, strength)
    assert (found[6:] == 0).all()
    torch.testing.assert_close(found[:6], solve_rows(keys, strength))


def document(rows: int, seed: int, background: int = 0):
    """A memory of two modules, K^ (2, R, I + k), A (2, R, I), B (2, O, R)."""
    generator = torch.Generator().manual_seed(seed)
    whitening, ridge = torch.linspace(0.5, 2, INPUTS).repeat(2, 1), torch.tensor([0.05, 0.2])
    keys = torch.randn(2, rows, INPUTS + background, generator=generator).half().float()
    memory = RidgeMemory.from_keys(keys, whitening, ridge)
    a = torch.stack([memory.solve(keys[module], module) for module in (0, 1)])
    return memory, keys, a, torch.randn(2, OUTPUTS, rows, generator=generator)


@pytest.mark.parametrize("background", [0, BACKGROUND])
@pytest.mark.parametrize("rows", [5, 40])  # fewer and more than I
def test_product_equals_values_times_rows(rows, background):
    memory, keys, a, b = document(rows, 0, background)
    for module in (0, 1):
        product = memory.solve_product(b[module], keys[module], module)
        torch.testing.assert_close(product, b[module] @ a[module], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("background", [0, BACKGROUND])
def test_tensors_make_the_memory_again(background):
    memory = document(5, 0, background)[0]
    named = memory.tensors()
    assert set(named) == {"gram", "whitening", "ridge"} | ({"beside"} if background else set())
    again = RidgeMemory.from_tensors(named).to("cpu")
    assert all(torch.equal(tensor, named[name]) for name, tensor in again.tensors().items())
    assert memory.nbytes == 2 * (2 * 25 + 2 * 5 * background) + 4 * (2 * INPUTS + 2)


@pytest.mark.parametrize("change", [{"gram": None}, {"statistics": torch.ones(2)}])
def test_foreign_tensors_are_refused(change):
    named = document(5, 0)[0].tensors() | change
    with pytest.raises(ValueError, match=r"got a ridge memory of .*expected gram, whitening"):
        RidgeMemory.from_tensors({name: x for name, x in named.items() if x is not None})


@pytest.mark.parametrize("background", [0, BACKGROUND])
def test_a_memory_recovers_its_keys_and_knows_its_answers(background):
    memory, keys, a, _ = document(7, 0, background)
    for module in (0, 1):
        found = memory.keys(a[module], module)
        torch.testing.assert_close(found, keys[module], atol=2e-2, rtol=2e-2)  # from a half Gram
        gram = keys[module].double() @ keys[module].double().mT
        system = gram + memory.ridge[module].double() * torch.eye(7, dtype=torch.float64)
        expected = torch.linalg.solve(system, gram).float()
        torch.testing.assert_close(memory.answers(module), expected, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("sizes", [(4, 6), (12, 20)])  # the second has more rows than outputs
@pytest.mark.parametrize("background", [0, BACKGROUND])
def test_memories_are_solved_over_all_their_keys(sizes, background):
    documents = [document(rows, seed, background) for seed, rows in enumerate(sizes)]
    memories, weights = [memory for memory, *_ in documents], [1.0, -0.5]
    for module in (0, 1):
        pairs = list(zip(documents, weights, strict=True))
        rows = [(a[module], b[module] * weight) for (_, _, a, b), weight in pairs]
        (a, b), joint = solve_together(rows, memories, weights, module)
        stacked = torch.cat([k[module] * abs(weight) for (_, k, *_), weight in pairs])
        wide, strength = stacked.double(), memories[0].ridge[module].double()
        system = wide @ wide.mT + strength * torch.eye(len(wide), dtype=torch.float64)
        addresses = torch.linalg.solve(system, wide)[:, :INPUTS] * memories[0].scale(module)
        expected = torch.cat([b for _, b in rows], 1).double() @ addresses
        assert (b.double() @ a.double() - expected).norm() < 0.02 * expected.norm()
        if sum(sizes) <= OUTPUTS:
            torch.testing.assert_close(joint, stacked, atol=3e-2, rtol=3e-2)
        else:
            assert joint is None and torch.equal(b, torch.eye(OUTPUTS))


@pytest.mark.parametrize("rows", [6, 30])
def test_rows_without_a_memory_are_added_as_they_are(rows):
    memory, _, a, b = document(5, 0)
    plain = torch.randn(rows, INPUTS), torch.randn(OUTPUTS, rows)
    (joint_a, joint_b), keys = solve_together([plain, (a[0], b[0])], [None, memory], [1, 1], 0)
    expected = plain[1] @ plain[0] + b[0] @ a[0]
    assert keys is None
    assert (joint_b @ joint_a - expected).norm() < 0.01 * expected.norm()


def test_memories_of_two_networks_are_refused():
    memory = document(5, 0)[0]
    require_one_network([memory, document(6, 1)[0]])
    for name in ("whitening", "ridge"):
        other = replace(memory, **{name: 2 * getattr(memory, name)})
        with pytest.raises(ValueError, match=f"got adapters that differ in {name}"):
            require_one_network([memory, other])
