"""Blocks: the adapters of a serial run in the same batches, written by any runner, exactly once."""

from __future__ import annotations

import pytest

from prag_core.adapters.shards import open_store
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.pipeline.blocks import BlockWriter, missing_blocks, run_serial, take
from prag_core.pipeline.rag import ParametricRAG
from tests.fixtures.parametrizers import RandomParametrizer, make_parametrizer
from tests.fixtures.stores import assert_same

DOCUMENTS = [Document(f"{'Ada ' * (9 - i % 7)}lives in house {i}.") for i in range(11)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))


def test_blocks_give_the_adapters_of_a_serial_run_bit_for_bit(tiny_base, tmp_path):
    parametrizer = make_parametrizer("generated", tiny_base)
    place = tmp_path / "place"
    with AdapterStore(tmp_path / "serial") as serial:
        ParametricRAG(tiny_base, None, parametrizer, serial).add_documents(DOCUMENTS)
        blocks = missing_blocks(DOCUMENTS, parametrizer, AdapterStore(tmp_path / "none"), 5)
        assert list(map(len, blocks)) == [4, 4, 3]  # whole batches of 2
        take(run_serial(BlockWriter(parametrizer, str(place)), blocks), print, 11)
        with open_store(place) as shards:
            assert list(shards) == list(serial) and len([*place.glob("*/packs/*.safetensors")]) == 3
            assert list(shards.records("document")) == list(serial.records("document"))
            for key, adapter in serial.items():
                assert_same(shards.get(key), adapter)
            assert missing_blocks(DOCUMENTS, parametrizer, shards, 5) == []


def test_a_killed_writer_leaves_whole_blocks_and_the_others_keep_their_batches(tiny_base, tmp_path):
    place, empty = str(tmp_path / "place"), AdapterStore(tmp_path / "none")
    whole = RandomParametrizer(tiny_base)
    blocks = missing_blocks(DOCUMENTS, whole, empty, 4)
    take(run_serial(BlockWriter(whole, str(tmp_path / "whole")), blocks), print, 11)
    dying = RandomParametrizer(tiny_base, fail_in_batch=4)  # the second of the second block
    with pytest.raises(KeyboardInterrupt):
        take(run_serial(BlockWriter(dying, place), blocks), print, 11)
    with open_store(place) as shards:
        assert len(shards) == 4
        again = RandomParametrizer(tiny_base)
        missing = missing_blocks(DOCUMENTS, again, shards, 4)
    take(run_serial(BlockWriter(again, place), missing), print, 11)
    assert again.batches == whole.batches[2:]
    with open_store(place) as shards, open_store(tmp_path / "whole") as expected:
        assert {k: a.to_bytes() for k, a in shards.items()} == {
            k: a.to_bytes() for k, a in expected.items()
        }


def test_documents_that_no_adapter_can_be_made_of_are_named(tiny_base, tmp_path):
    class Failing(RandomParametrizer):
        def parametrize(self, documents):
            if any("house 3" in document.text for document in documents):
                raise ValueError("got house 3")
            return super().parametrize(documents)

    writer = BlockWriter(Failing(tiny_base), str(tmp_path / "place"))
    done = []
    with pytest.raises(ValueError, match=r"1 of 11 documents .* got house 3"):
        take(run_serial(writer, [DOCUMENTS]), done.append, 11)
    assert done == [11] and len(open_store(tmp_path / "place")) == 10
