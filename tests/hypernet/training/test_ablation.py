"""Ablation: variants are trained, scored and set side by side; what is finished is not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hypernet import cli
from hypernet.training import ablation
from tests.fixtures.hypernetworks import tiny_settings, write_question_set


@pytest.fixture
def config(tiny_base, tmp_path, monkeypatch):
    """A YAML of an ablation of the tiny model: heads, rank and merging."""
    monkeypatch.chdir(tmp_path)
    tiny_base.model.save_pretrained("base")
    tiny_base.tokenizer.save_pretrained("base")
    record = tiny_settings()
    record["model"] |= {"base_model": "base", "dtype": "float32"}
    data = str(write_question_set(tmp_path / "set"))
    record["data"] |= {"question_sets": [data], "corpora": [], "validation_articles": 2}
    record["trainer"] |= {"accelerator": "cpu", "max_steps": 4}
    Path("tiny.yaml").write_text(yaml.safe_dump(record))
    settings = {
        "fit_config": "tiny.yaml",
        "output": "out",
        "every": 2,
        "documents": 2,
        "measured": ["gold+1", "gold+1:concatenate", "rank:12"],
        "common": {"model.warmup_steps": 2},
        "variants": {"ridge": {}, "perceiver": {"model.network.head": "perceiver"}},
    }
    Path("ablation.yaml").write_text(yaml.safe_dump(settings))
    return "ablation.yaml"


def test_variants_are_trained_and_compared(config, capsys, monkeypatch):
    assert cli.main(["ablate", "--config", config]) == 0
    table = json.loads(Path("out/table.json").read_text())
    ridge, perceiver = table["rows"]
    assert [point["step"] for point in ridge["curve"]] == [2, 4]
    assert ridge["curve"] != perceiver["curve"]
    assert set(ridge["scores"]) == {"gold", "shuffled", "gold+1", "gold+1:concatenate", "rank:12"}
    assert set(perceiver["scores"]) == {"gold", "shuffled"}
    settings = yaml.safe_load(Path("out/variants/perceiver/config.yaml").read_text())
    assert settings["model"]["network"]["head"] == "perceiver"
    assert settings["model"]["warmup_steps"] == 2
    text = Path("out/table.md").read_text()
    assert "| perceiver |" in text and "| gold+1:concatenate |" in text
    assert "another's" in Path("out/figure.svg").read_text()

    # A second run trains and asks nothing.
    monkeypatch.setattr(ablation.subprocess, "run", None)
    monkeypatch.setattr("prag_core.pipeline.answerer.generate", None)
    capsys.readouterr()
    assert cli.main(["ablate", "--config", config]) == 0
    assert "training" not in capsys.readouterr().out
    assert Path("out/table.md").read_text() == text

    # Other settings are refused, and the finished run stays.
    assert cli.main(["ablate", "--config", config, "--every", "1"]) == 2
    assert "choose another output" in capsys.readouterr().err
    assert Path("out/variants/ridge/done").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--variants", "{}"], "at least one variant"),
        (["--drawn", "[nobody]"], "correct ['nobody']"),
        (["--variants", "{a: {model.nowhere.head: ridge}}"], "training of a failed"),
        (["--fit_config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_input_is_refused(config, change, message, capsys):
    try:
        status = cli.main(["ablate", "--config", config, *change])
    except SystemExit as error:  # raised while options are read
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_failed_training_is_named(config, capsys):
    wrong = "{broken: {model.network.width: 3}}"
    assert cli.main(["ablate", "--config", config, "--variants", wrong]) == 2
    assert "training of broken failed" in capsys.readouterr().err
    assert not Path("out/variants/broken/done").exists()
