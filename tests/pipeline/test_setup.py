"""Settings that answers depend on: those that a path reads, and no others."""

from __future__ import annotations

import pytest

from prag_core.pipeline.setup import AugmentationOptions, Setup, content_hash
from prag_core.training.options import LoraTrainingOptions

TRAINING = LoraTrainingOptions(init="generated", rank=32)


@pytest.mark.parametrize(
    ("setup", "read", "unread"),
    [
        (Setup(path="generated"), {"hypernet", "hypernet_rank"}, {"training", "augmentation"}),
        (Setup(path="trained"), {"training", "augmentation"}, {"hypernet", "hypernet_rank"}),
        # What a training starts from is made by the hypernetwork.
        (Setup(path="trained", training=TRAINING), {"training", "augmentation", "hypernet"}, set()),
        (Setup(), {"training", "augmentation", "hypernet"}, {"device"}),
    ],
)
def test_settings_that_a_path_does_not_read_are_not_kept(setup, read, unread):
    config = setup.answer_config()
    assert config.keys() >= read and config.keys().isdisjoint(unread | {"device"})


def test_files_are_kept_by_what_they_hold(tmp_path):
    writer, hashes = tmp_path / "adapter.bin", []
    for content in (b"one", b"two"):
        writer.write_bytes(content)
        augmentation = AugmentationOptions("adapter", adapter=str(writer))
        config = Setup(path="trained", augmentation=augmentation).answer_config()
        hashes.append(config["contents"][str(writer)])
    assert len({*hashes}) == 2


def test_of_a_folder_what_is_being_written_does_not_count(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = content_hash(str(tmp_path))
    (tmp_path / ".model.safetensors.7").write_bytes(b"half")
    assert content_hash(str(tmp_path)) == before != ""
