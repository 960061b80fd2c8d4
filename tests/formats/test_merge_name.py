"""Names of merges: what they say is what is merged, and what says nothing is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prag_core.adapters.merge import merge
from prag_core.adapters.store import UnknownKeyError
from prag_core.formats.merge_name import MergeName, named_adapter
from tests.fixtures.stores import assert_same
from tests.fixtures.tiny import random_adapter


@pytest.fixture
def filled(store, tiny_base, tiny_spec):
    """Three adapters; two keys begin alike, one has a + in it."""
    for seed, key in enumerate(("aa1", "aa2", "b", "c+d"), 1):
        store.put(key, random_adapter(replace(tiny_spec, alpha=2.0 * seed), tiny_base, seed))
    return store


@pytest.mark.parametrize(("text", "keys", "weights", "name"), [
    ("prag:a", ("a",), (1,), "prag:a"),
    ("a+b", ("a", "b"), (1, 1), "prag:a+b"),
    ("prag:a+b@1,0.5", ("a", "b"), (1, 0.5), "prag:a+b@1,0.5"),
    ("prag:a@0.123456", ("a",), (0.123456,), "prag:a@0.1235"),
    ("prag:a+b@1,1", ("a", "b"), (1, 1), "prag:a+b"),
])  # fmt: skip
def test_names_are_read_and_written(text, keys, weights, name):
    parsed = MergeName.parse(text)
    assert (parsed.keys, parsed.weights, str(parsed)) == (keys, weights, name)


@pytest.mark.parametrize("text", [
    "", "prag:", "a+", "+a", "a++b", "a@", "a@x", "a+b@1", "a@1,2", "a@nan", "a@inf", "a@1@2",
])  # fmt: skip
def test_what_is_no_name_is_refused(text):
    with pytest.raises(ValueError, match=r"expected KEY, KEY\+KEY or KEY\+KEY@1,0\.5"):
        MergeName.parse(text)


def test_a_name_is_the_merge_that_it_says(filled):
    one, two = filled.get("aa1"), filled.get("b")
    assert_same(named_adapter(filled, "prag:aa1"), one)
    assert_same(named_adapter(filled, "c+d"), filled.get("c+d"))
    assert_same(named_adapter(filled, "aa1+b"), merge([one, two]))
    assert_same(named_adapter(filled, "prag:aa1+b@0.5,2"), merge([one, two], [0.5, 2]))
    assert_same(named_adapter(filled, "b@0.5"), merge([two], [0.5]))
    with pytest.raises(ValueError, match=r"'aa', which several entries have"):
        named_adapter(filled, "aa+b")
    with pytest.raises(UnknownKeyError, match=r"'x', which no entry has"):
        named_adapter(filled, "b+x")
