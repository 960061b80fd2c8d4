"""Ablation: variants are trained, scored and set side by side; what is finished is not repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from hypernet import cli
from hypernet.training import ablation
from prag_core.evaluation.rendering import render
from prag_core.model.hardware import machine
from tests.fixtures.hypernetworks import tiny_settings, write_question_set


@pytest.fixture
def config(tiny_base, tmp_path, monkeypatch):
    """A YAML of an ablation of the tiny model: heads, rank and merging."""
    machine()  # asks the system once, before the tests put themselves in place of `subprocess`
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
        "rates": {"perceiver": [1e-5, 1e-2]},
        "common": {"model.warmup_steps": 2, "last_checkpoint.every_n_steps": 1},
        "variants": {"ridge": {}, "perceiver": {"model.network.head": "perceiver"}},
    }
    Path("ablation.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return "ablation.yaml"


def here(monkeypatch, *more: str) -> None:
    """Train in this process, which has everything loaded, with more arguments."""

    def run(command, **_):
        return SimpleNamespace(returncode=cli.main([*command[3:], *more]))

    monkeypatch.setattr(ablation.subprocess, "run", run)


def test_variants_are_trained_and_compared(config, capsys, monkeypatch):
    here(monkeypatch)
    assert cli.main(["ablate", "--config", config]) == 0
    table = json.loads(Path("out/ablation.json").read_text())
    ridge, perceiver = table["rows"]
    assert [point["step"] for point in ridge["curve"]] == [2, 4]
    assert ridge["curve"] != perceiver["curve"]
    assert ridge["machine"] == machine()
    assert set(ridge["scores"]) == {"gold", "shuffled", "gold+1", "gold+1:concatenate", "rank:12"}
    assert set(perceiver["scores"]) == {"gold", "shuffled"}
    # The better of its two rates, each tried from the start.
    tried = perceiver["rates"]
    best = min(tried, key=tried.get)
    assert len(set(tried.values())) == 2 and not ridge["rates"]
    assert perceiver["settings"]["model.learning_rate"] == float(best)
    assert perceiver["curve"][-1]["own"] == tried[best]  # four steps there as here
    settings = yaml.safe_load(Path("out/variants/perceiver/version_0/config.yaml").read_text())
    assert settings["model"]["network"]["head"] == "perceiver"
    assert settings["model"]["warmup_steps"] == 2
    text = Path("out/table.md").read_text()
    assert "| perceiver |" in text and "| gold+1:concatenate |" in text
    assert "| perceiver | 0.01 |" in text and "documents seen" in text
    figure = Path("out/figure.svg").read_bytes()
    assert b"another's" in figure

    block = "<!-- table: tables ablation.json -->\n<!-- end -->"
    document = render(block, Path("out/README.md"))
    assert document.split("-->\n")[1].split("<!--")[0] == text

    # Table and figure are made of the file alone.
    for name in ("table.md", "figure.svg"):
        Path("out", name).unlink()
    assert cli.main(["ablate", "--render", "out/ablation.json"]) == 0
    assert Path("out/table.md").read_text() == text
    assert Path("out/figure.svg").read_bytes() == figure
    assert cli.main(["ablate", "--render", "out/ablation.json", "--drawn", "[nobody]"]) == 2
    assert "got drawn ['nobody'], expected variants of out/ablation.json" in capsys.readouterr().err

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


def test_a_row_is_all_that_is_needed_of_a_finished_variant(config, capsys, monkeypatch):
    here(monkeypatch)
    settings = yaml.safe_load(Path(config).read_text()) | {"measured": [], "rates": {}}
    perceiver = settings["variants"].pop("perceiver")
    Path(config).write_text(yaml.safe_dump(settings))
    assert cli.main(["ablate", "--config", config]) == 0
    (ridge,) = json.loads(Path("out/ablation.json").read_text())["rows"]
    shutil.rmtree("out/variants")  # another machine, to which only the file came
    capsys.readouterr()

    settings["variants"] = {"perceiver": perceiver, **settings["variants"]}
    Path(config).write_text(yaml.safe_dump(settings, sort_keys=False))
    assert cli.main(["ablate", "--config", config]) == 0
    rows = json.loads(Path("out/ablation.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["perceiver", "ridge"] and rows[1] == ridge
    assert not Path("out/variants/ridge").exists()

    # Another number of documents, or fewer variants, would lose the row that is nowhere else.
    before = Path("out/ablation.json").read_bytes()
    for change in (["--documents", "3"], ["--variants", "{perceiver: {}}"]):
        assert cli.main(["ablate", "--config", config, *change]) == 2
        assert "got settings other than those that ridge of out" in capsys.readouterr().err
    assert Path("out/ablation.json").read_bytes() == before
    assert not Path("out/variants/ridge").exists()


def test_a_run_that_was_cut_goes_on_with_its_time_counted(config, monkeypatch):
    settings = {"model.max_hours": 1.0, "trainer.val_check_interval": 2, "logger": "csv"}
    settings |= {"model.warmup_steps": 9, "last_checkpoint.every_n_steps": 1}
    whole, cut = Path("whole"), Path("cut")
    here(monkeypatch)
    ablation.train("tiny.yaml", settings, whole)

    # The second ends after three of its four steps, as if the machine had gone.
    here(monkeypatch, "--trainer.max_steps=3")
    ablation.train("tiny.yaml", settings, cut)
    (cut / "done").unlink()
    here(monkeypatch)
    (half,) = ablation.read_curve(cut)
    ablation.train("tiny.yaml", settings, cut)
    assert (cut / "done").exists()

    first, second = ablation.read_curve(cut)
    assert first == half and first["seconds"] < second["seconds"]
    losses = ("own", "another's", "none")
    for point, same in zip((first, second), ablation.read_curve(whole), strict=True):
        assert point["step"] == same["step"] and point["documents"] == same["documents"]
        assert [point[name] for name in losses] == pytest.approx([same[name] for name in losses])

    # What was begun with other settings is not gone on with.
    (cut / "done").unlink()
    with pytest.raises(ValueError, match="choose another output"):
        ablation.train("tiny.yaml", settings | {"model.warmup_steps": 1}, cut)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--variants", "{}"], "at least one variant"),
        (["--drawn", "[nobody]"], "correct ['nobody']"),
        (["--rates", "{nobody: [0.1]}"], "correct ['nobody']"),
        (["--render", "nowhere.json"], "nowhere.json"),
        (["--variants", "{a: {data.seed: 1}}"], "got data.seed in variant a"),
        (["--variants", "{a: {model.nowhere.head: ridge}}"], "variants/a failed"),
        (["--fit_config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_bad_input_is_refused(config, change, message, capsys):
    try:
        status = cli.main(["ablate", "--config", config, "--rates", "{}", *change])
    except SystemExit as error:  # raised while options are read
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_held_out_documents_are_those_of_the_common_settings(config, monkeypatch):
    here(monkeypatch)
    seen, real = [], ablation.held_out
    monkeypatch.setattr(
        ablation, "held_out", lambda data, *rest: seen.append(data) or real(data, *rest)
    )
    settings = yaml.safe_load(Path(config).read_text()) | {"measured": [], "rates": {}}
    settings["variants"], settings["common"]["data.seed"] = {"ridge": {}}, 1
    Path(config).write_text(yaml.safe_dump(settings))
    assert cli.main(["ablate", "--config", config]) == 0
    assert [data["seed"] for data in seen] == [1]
    trained = yaml.safe_load(Path("out/variants/ridge/version_0/config.yaml").read_text())
    assert trained["data"]["seed"] == 1
    notes = json.loads(Path("out/variants/ridge/export/config.json").read_text())["training"]
    data = yaml.safe_load(Path("tiny.yaml").read_text())["data"] | {"seed": 1}
    base = ablation.load_base_model("base", "float32")
    assert {d.title for d in real(data, base, 9).documents} == {*notes["held_out"]}


def test_the_base_model_may_be_left_to_its_default(config, monkeypatch):
    record = yaml.safe_load(Path("tiny.yaml").read_text())
    del record["model"]["base_model"]
    Path("tiny.yaml").write_text(yaml.safe_dump(record))
    here(monkeypatch, "--model.base_model=base")
    monkeypatch.setattr(ablation, "EMBEDDED_NAME", "base")
    change = ["--rates", "{}", "--measured", "[]", "--variants", "{ridge: {}}"]
    assert cli.main(["ablate", "--config", config, *change]) == 0
    assert len(json.loads(Path("out/ablation.json").read_text())["rows"]) == 1


@pytest.mark.parametrize("text", ['{"rows": []}', '{"rows": [{}]}', "[1]", '{"minutes": 4, "ro'])
def test_what_is_no_ablation_is_not_rendered(tmp_path, capsys, text):
    file = tmp_path / "results.json"
    file.write_text(text)
    assert cli.main(["ablate", "--render", str(file)]) == 2
    assert f"got {file}, which holds no ablation" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [file]


def test_more_variants_than_colours_are_all_drawn(tmp_path):
    losses = {"own": 1.0, "another's": 2.0, "none": 3.0}
    curve = [{"documents": n, "seconds": 60 * n, **losses} for n in (1, 2)]
    names = [f"variant {number}" for number in range(9)]
    file = tmp_path / "figure.svg"
    ablation.write_curves([{"name": name, "curve": curve} for name in names], file)
    assert [name for name in names if f"{name}, own" not in file.read_text("utf-8")] == []


def test_a_try_that_was_killed_is_no_rate_that_diverged(config, monkeypatch):
    monkeypatch.setattr(ablation.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-9))
    with pytest.raises(ChildProcessError, match="the training of tried"):
        ablation.try_rates("tiny.yaml", {}, [0.1, 0.2], 1.0, Path("tried"))


def test_a_failed_training_is_named(config, capsys):
    wrong = "{broken: {model.network.width: 3}}"
    assert cli.main(["ablate", "--config", config, "--rates", "{}", "--variants", wrong]) == 2
    assert "variants/broken failed" in capsys.readouterr().err
    assert not Path("out/variants/broken/done").exists()
