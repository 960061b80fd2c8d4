"""Any bytes in an adapter's files: the adapter is imported, or an error says what is wrong.

PRAG_EXAMPLES sets their number (the default is small).
"""

from __future__ import annotations

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prag_core.formats.gguf_file import from_gguf, to_gguf
from prag_core.formats.peft_folder import from_peft, to_peft
from tests.fixtures.examples import examples
from tests.fixtures.parametrizers import CORPUS, make_parametrizer

PIECES = [
    b"", b"\0", b"\xff" * 8, b"\0" * 8, b"\1\0\0\0\0\0\0\0", b"\xff\xff\xff\x7f", b"{", b"}", b'"',
    b"[]", b"null", b"NaN", b"-1", b"1e999", b"[" * 9000, b"\xc3", b"true", b"9" * 400, b"F64",
    b"BF16", b"lora_A", b"lora_B", b"general.type", b"llama", b":0", b"\\ud800",
]  # fmt: skip
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1) | st.floats(0, 0.1),  # headers stand at the beginning
        st.integers(0, 20),
        st.sampled_from(PIECES) | st.binary(max_size=4),
    ),
    min_size=1,
    max_size=3,
)


def mutated(content: bytes, edits) -> bytes:
    """The content with pieces put in the place of some of its bytes."""
    for where, length, piece in edits:
        place = int(where * len(content))
        content = content[:place] + piece + content[place + length :]
    return content


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tiny_base):
    """A PEFT folder with all its files, and a GGUF file."""
    folder = tmp_path_factory.mktemp("sources")
    (adapter,) = make_parametrizer("generated", tiny_base).parametrize(CORPUS[:1])
    to_peft(adapter, folder / "peft", "org/tiny")
    to_gguf(adapter, folder / "adapter.gguf", tiny_base.model.config.model_type)
    return folder


def imported(read, path, base) -> None:
    """Read an adapter; it is whole, or the error is one for users."""
    try:
        adapter = read(path, base)
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert message.startswith("got ") and ("expected" in message or str(path) in message)
    else:
        assert all(torch.isfinite(part).all() for ab in adapter.tensors.values() for part in ab)


def test_any_peft_folder_is_imported_or_refused(sources, tiny_base, tmp_path):
    names = sorted(path.name for path in (sources / "peft").iterdir())
    assert len(names) == 4  # the settings, the weights, the memory, the note

    @settings(max_examples=examples(60), deadline=None)
    @given(name=st.sampled_from(names), edits=EDITS, note=st.booleans())
    def check(name, edits, note):
        folder = tmp_path / "peft"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sources / "peft", folder)
        if not note:
            (folder / "prag_adapter.json").unlink()
        (folder / name).write_bytes(mutated((sources / "peft" / name).read_bytes(), edits))
        imported(from_peft, folder, tiny_base)

    check()


@settings(max_examples=examples(60), deadline=None)
@given(edits=EDITS)
def test_any_gguf_file_is_imported_or_refused(sources, tiny_base, edits):
    path = sources / "any.gguf"
    path.write_bytes(mutated((sources / "adapter.gguf").read_bytes(), edits))
    imported(from_gguf, path, tiny_base)


@pytest.mark.parametrize("name", ["adapter_config.json", "prag_adapter.json"])
def test_settings_nested_too_deeply_are_refused(sources, tiny_base, tmp_path, name):
    shutil.copytree(sources / "peft", tmp_path / "peft")
    (tmp_path / "peft" / name).write_bytes(b"[" * 9000)
    with pytest.raises(ValueError, match=rf"{name} that is not JSON"):
        from_peft(tmp_path / "peft", tiny_base)
