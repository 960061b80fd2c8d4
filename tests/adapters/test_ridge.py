"""The closed-form rows against a dense float64 reference."""

from __future__ import annotations

import pytest
import torch

from prag_core.adapters.ridge import recover_keys, solve_rows


@pytest.mark.parametrize("rows", [5, 16, 40])  # fewer than, as many as, more than I = 16
def test_rows_equal_the_dense_float64_solution(rows):
    torch.manual_seed(0)
    keys = torch.randn(2, 3, rows, 16)
    strength = torch.tensor([0.05, 0.1, 0.3])[:, None, None]
    found, slope = solve_rows(keys, strength, slope=True)
    wide = keys.double()
    system = wide @ wide.mT + strength.double() * torch.eye(rows, dtype=torch.float64)
    expected = torch.linalg.solve(system, wide)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        slope.double(), torch.linalg.solve(system, expected), atol=2e-3, rtol=1e-3
    )


def test_rows_of_zeros_stay_zero_and_change_nothing():
    torch.manual_seed(0)
    keys, strength = torch.randn(6, 16), torch.tensor([[0.1]])
    padded = torch.cat([keys, torch.zeros(3, 16)])
    found = solve_rows(padded, strength)[0]
    assert (found[6:] == 0).all()
    torch.testing.assert_close(found[:6], solve_rows(keys, strength)[0])


def test_keys_are_recovered_from_rows_and_gram():
    torch.manual_seed(0)
    keys, strength = torch.randn(12, 16), torch.tensor(0.1)
    rows = solve_rows(keys, strength)[0]
    torch.testing.assert_close(
        recover_keys(rows, keys @ keys.mT, strength), keys, atol=1e-4, rtol=1e-4
    )
