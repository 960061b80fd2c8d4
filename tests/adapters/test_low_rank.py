"""Reduced rank: responses on the document's own keys, against dense references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.low_rank import (
    PASSED_ON,
    POST_NORM,
    rank_of_shared,
    reduce_rank,
    response_directions,
)
from prag_core.adapters.merge import merge
from prag_core.corpus.documents import Document
from prag_core.model.padding import pad
from tests.fixtures.hypernetworks import DOCUMENTS, parametrizer
from tests.fixtures.tiny import family_model, random_adapter

SHARED = 3
BUDGET = 6 + 1  # of the shared rows one is kept


@pytest.fixture
def memory(tiny_base, tmp_path):
    """A generated adapter of one row a token."""
    return parametrizer(tiny_base, tmp_path).parametrize(DOCUMENTS[:1])[0]


def own(adapter, path) -> torch.Tensor:
    """The document's own update, without the shared rows."""
    (a, b), _ = adapter.split(path)
    return b @ a


def keys(adapter, index, path) -> torch.Tensor:
    """The inputs of down_proj that the adapter was solved from (R, I)."""
    (a, _), _ = adapter.split(path)
    return adapter.memory.keys(a, index) / adapter.memory.scale(index)


def test_responses_are_the_nearest_of_that_budget(memory):
    reduced = reduce_rank(memory, BUDGET)
    assert reduced.spec.rank == BUDGET and reduced.spec.scale == 1
    paths = memory.spec.paths()
    ranks = [len(reduced.tensors[path][0]) - 1 for path in paths]
    assert sum(ranks) == 6 * len(paths) and min(ranks) >= 1
    shares, left_out = [], 0.0
    for index, (path, rank) in enumerate(zip(paths, ranks, strict=True)):
        a, b = (x.double() for x in memory.tensors[path])
        a, b = a[:-SHARED], b[:, :-SHARED]
        document = keys(memory, index, path).double()
        singular = torch.linalg.svdvals(b @ a @ document.mT)
        shares.append(singular / singular.square().sum() ** 0.25)
        growth = singular.norm() / singular[:rank].norm()
        b = b + PASSED_ON * left_out
        left, values, right = torch.linalg.svd(b @ a @ document.mT, full_matrices=False)
        nearest = growth * (left[:, :rank] * values[:rank]) @ right[:rank]
        seen = own(reduced, path).double() @ document.mT
        assert (seen - nearest).norm() < 0.02 * nearest.norm()
        left_out = b - left[:, :rank] @ left[:, :rank].mT @ b
    kept = min(float(s[rank - 1]) for s, rank in zip(shares, ranks, strict=True) if rank > 1)
    assert kept >= 0.99 * max(float(s[rank]) for s, rank in zip(shares, ranks, strict=True))


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_nothing_is_passed_on_through_a_norm_behind_the_ffn(family, tmp_path):
    base = family_model(family)
    made = parametrizer(base, tmp_path)
    adapter = made.parametrize(DOCUMENTS[:1])[0]
    assert (POST_NORM in adapter.metadata) == base.post_norm == (family != "gemma")
    reduced = reduce_rank(adapter, BUDGET)
    inside = True  # what a later layer keeps lies in its own values, with nothing of others
    for path in adapter.spec.paths():
        values, kept = (own(x, path).double() for x in (adapter, reduced))
        left = torch.linalg.svd(kept)[0][:, : torch.linalg.matrix_rank(kept, rtol=1e-4)]
        shown = left @ (left.mT @ values)
        growth = kept.norm() / shown.norm()
        inside &= bool((kept - growth * shown).norm() < 1e-3 * kept.norm())
    assert inside == base.post_norm
    with torch.no_grad():  # the training sees the same
        encoding = made.encoder(*pad(made._chunks(DOCUMENTS[0]), 0, 32))
        rows = made.network(encoding, rank=BUDGET)
    for index, path in enumerate(adapter.spec.paths()):
        seen = (rows.b[0, index, :-SHARED].mT @ rows.a[0, index, :-SHARED]).double()
        assert (seen - own(reduced, path)).norm() < 0.02 * seen.norm()


def test_layers_share_the_budget(memory):
    first, *rest = memory.spec.paths()
    loud = {path: (a, 1e4 * b) for path, (a, b) in memory.tensors.items() if path == first}
    reduced = reduce_rank(replace(memory, tensors={**memory.tensors, **loud}), BUDGET)
    own_rows = {path: len(a) - 1 for path, (a, _) in reduced.tensors.items()}
    assert own_rows == {first: 6 * (1 + len(rest)) - len(rest), **dict.fromkeys(rest, 1)}


def test_training_sees_the_update_that_a_budget_leaves(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path)
    reduced = reduce_rank(made.parametrize(DOCUMENTS[:1])[0], BUDGET)
    with torch.no_grad():
        encoding = made.encoder(*pad(made._chunks(DOCUMENTS[0]), 0, 32))
        rows, whole = made.network(encoding, rank=BUDGET), made.network(encoding)
        with pytest.raises(ValueError, match="got rank 1, expected 2 or more"):
            made.network(encoding, rank=1)
    for index, path in enumerate(reduced.spec.paths()):
        expected = own(reduced, path).float()
        seen, full = (x.b[0, index, :-SHARED].mT @ x.a[0, index, :-SHARED] for x in (rows, whole))
        assert (seen - expected).norm() < 0.05 * (full - expected).norm()


def test_shared_rows_keep_what_answers_most_to_whitened_inputs(memory):
    reduced = reduce_rank(memory, BUDGET)
    for path, whitening in zip(memory.spec.paths(), memory.memory.whitening, strict=True):
        full, small = (b[:, -n:] @ a[-n:] for (a, b), n in zip(
            (memory.tensors[path], reduced.tensors[path]), (SHARED, 1), strict=True
        ))  # fmt: skip
        left, values, right = torch.linalg.svd(full / whitening)
        best = values[0] * left[:, :1] @ right[:1] * whitening
        assert (small - best).norm() < 0.02 * best.norm()
    assert reduced.memory is None and reduced.shared_rows == 1


def test_shared_rows_stay_where_the_budget_has_room(memory):
    assert (rank_of_shared(64, 8), rank_of_shared(32, 8), rank_of_shared(999, 8)) == (4, 2, 8)
    other = replace(memory, memory=None, shared_rows=1)
    reduced = reduce_rank(other, BUDGET)
    for path in other.spec.paths():
        (a, b), (small_a, small_b) = (x.tensors[path] for x in (other, reduced))
        assert torch.equal(a[-1], small_a[-1]) and torch.equal(b[:, -1], small_b[:, -1])


def test_budgets_that_keep_all_or_nothing(memory):
    assert memory.rank < 16 * SHARED and reduce_rank(memory, 16 * SHARED) is memory
    with pytest.raises(ValueError, match="got rank 1, expected 2 or more: a row for the document"):
        reduce_rank(memory, 1)


def test_reduced_adapters_are_summed_with_their_shared_rows_once(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, rank=BUDGET)
    first, second = made.parametrize(DOCUMENTS[:2])
    merged = merge([first, second])
    for path in merged.spec.paths():
        (a, b), (c, d), (e, f) = (x.tensors[path] for x in (merged, first, second))
        expected = d.float() @ c.float() + f[:, :-1].float() @ e[:-1].float()
        torch.testing.assert_close(b.float() @ a.float(), expected, atol=1e-3, rtol=2e-2)


def test_a_document_within_the_budget_is_merged_with_one_beyond_it(tiny_base, tmp_path):
    short, long = parametrizer(tiny_base, tmp_path).parametrize(
        [Document("Ulm."), Document(DOCUMENTS[0].text * 3)]
    )
    budget = short.rank + 1
    assert long.rank > budget and rank_of_shared(budget, SHARED) < SHARED
    fitted, reduced = reduce_rank(short, budget), reduce_rank(long, budget)
    path = short.spec.paths()[0]
    assert torch.equal(own(fitted, path), own(short, path)) and fitted.memory is short.memory
    assert fitted.shared_rows == reduced.shared_rows == rank_of_shared(budget, SHARED)
    merged = merge([fitted, reduced])
    assert merged.shared_rows == fitted.shared_rows
    expected = own(fitted, path) + own(reduced, path)
    torch.testing.assert_close(own(merged, path), expected, rtol=1e-3, atol=1e-4)


def test_own_rows_that_fit_beside_the_shared_ones_kept_stay_as_they_are(memory):
    own_rows = memory.rank - SHARED
    budget = own_rows + rank_of_shared(own_rows + 1, SHARED)
    assert budget < memory.rank
    reduced = reduce_rank(memory, budget)
    assert reduced.memory is memory.memory and reduced.rank == budget
    path = memory.spec.paths()[0]
    assert torch.equal(own(reduced, path), own(memory, path))


def test_adapters_without_a_memory_that_fit_keep_their_shared_rows(memory):
    trained = replace(memory, memory=None)
    assert reduce_rank(trained, trained.rank) is trained


def test_a_document_multiplied_out_is_merged_with_a_short_one(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, rank=BUDGET, max_tokens=40, overlap=4)
    short, long = made.parametrize([Document("Ulm."), Document(DOCUMENTS[0].text * 4)])
    assert merge([short, long]).shared_rows == 1
    whole = parametrizer(tiny_base, tmp_path, max_tokens=40, overlap=4)
    short, long = whole.parametrize([Document("Ulm."), Document(DOCUMENTS[0].text * 4)])
    assert long.memory is None
    reduced = reduce_rank(long, BUDGET, short.memory.whitening)
    assert merge([reduce_rank(short, BUDGET), reduced]).shared_rows == 1
    with pytest.raises(ValueError, match="shared rows differ"):
        merge([reduce_rank(short, BUDGET), reduce_rank(long, BUDGET)])


def test_other_adapters_keep_their_largest_directions(tiny_base):
    spec = AdapterSpec(tiny_base.fingerprint, rank=6, alpha=12, layers=(0, 1))
    adapter = random_adapter(spec, tiny_base)
    reduced = reduce_rank(adapter, 4)
    assert reduced.spec.scale == adapter.spec.scale and reduced.rank == 4
    for path, (a, b) in adapter.tensors.items():
        left, values, right = torch.linalg.svd(b @ a)
        best = (left[:, :4] * values[:4]) @ right[:4]
        small_a, small_b = reduced.tensors[path]
        torch.testing.assert_close(small_b @ small_a, best, atol=1e-4, rtol=1e-3)


def test_a_long_document_keeps_the_budget(tiny_base, tmp_path):
    made = parametrizer(tiny_base, tmp_path, rank=10, max_tokens=24, overlap=4)
    long = replace(DOCUMENTS[0], text="abcdefghij" * 6)
    ranks = [len(a) for a, _ in made.parametrize([long])[0].tensors.values()]
    assert sum(ranks) == 10 * len(ranks)


class OnGPU(torch.Tensor):
    """A tensor of the CPU that says it is a GPU's."""

    is_cuda = True


@pytest.mark.parametrize("shape", [(20, 9), (5, 3, 20, 9)])
def test_threads_find_the_directions_of_a_gpu(shape):
    """The threads' part alone: there is no GPU here."""
    torch.manual_seed(0)
    responses, threads = torch.randn(shape), torch.get_num_threads()
    left, energies = response_directions(responses)
    found = [x.as_subclass(torch.Tensor) for x in response_directions(responses.as_subclass(OnGPU))]
    assert torch.allclose(found[0].abs(), left.abs(), atol=1e-4)  # the sign is anyone's
    assert torch.allclose(found[1], energies, rtol=1e-4)
    assert torch.get_num_threads() == threads


def test_directions_of_fewer_tokens_than_rows():
    responses = torch.randn(2, 20, 4) @ torch.randn(2, 4, 9)
    left, energies = response_directions(responses)
    kept = left[..., :4]
    assert torch.allclose(kept.mT @ kept, torch.eye(4).expand(2, 4, 4), atol=1e-4)
    assert torch.allclose(kept @ (kept.mT @ responses), responses, atol=1e-4)
    assert left[..., 4:].norm() < 0.1 and energies[..., 4:].abs().max() < 1e-3
