"""`prag warmup`: an initial adapter, which the trained path starts from."""

from __future__ import annotations

import json

import pytest

from prag_core.augmentation import self_augmenter
from prag_core.corpus.question_sets import load_question_set
from prag_core.training.lora_trainer import LoraTrainer
from tests.fixtures.command_line import run


def read_by_warmup(options: list[str]) -> list[str]:
    return [option for option in options if option.startswith(("--base_model", "--training"))]


def test_warmup_trains_an_initial_adapter(corpus, options, tmp_path, capsys):
    start = tmp_path / "warm"
    shared = read_by_warmup(options)
    assert run("warmup", corpus, start, *shared) == 0
    assert (start / "adapter_config.json").exists()
    store = tmp_path / "s"
    assert run("parametrize", corpus, "--store", store, f"--training.init={start}", *options) == 0
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "holds 12 adapters" in capsys.readouterr().out  # other start, other adapters
    wrong = [f"--training.init={start}", "--training.layers=[0]"]
    assert run("parametrize", corpus, "--store", store, *wrong, *options) == 2
    assert "initial adapter" in capsys.readouterr().err


def test_warmup_draws_from_each_set_behind_the_questions_of_a_benchmark(
    corpus, options, tmp_path, monkeypatch
):
    trained = []

    def record(self, pairs):
        trained.append(sorted(pair.question for pair in pairs))
        return train(self, pairs)

    train = LoraTrainer.train_warmup
    monkeypatch.setattr(LoraTrainer, "train_warmup", record)
    shared = read_by_warmup(options)
    more = [f"--more=['{corpus}']", "--limit=2", "--skip=4"]
    assert run("warmup", corpus, tmp_path / "a", *more, *shared) == 0
    assert trained.pop() == sorted(["Where does Ed live?", "Where does Flo live?"] * 2)
    assert run("warmup", corpus, tmp_path / "b", "--limit=3", *shared) == 0
    assert len({*trained.pop()}) == 3


def test_warmup_takes_nothing_on_what_is_held_out(corpus, options, tmp_path, monkeypatch, capsys):
    trained = []

    def record(self, pairs):
        trained.append({pair.question for pair in pairs})
        return train(self, pairs)

    train = LoraTrainer.train_warmup
    monkeypatch.setattr(LoraTrainer, "train_warmup", record)
    shared = read_by_warmup(options)
    titles = tmp_path / "titles.txt"
    titles.write_text("Ada\nBo\n")
    assert run("warmup", corpus, tmp_path / "a", f"--leave_out.titles={titles}", *shared) == 0
    assert trained.pop() == {f"Where does {name} live?" for name in ("Cy", "Di", "Ed", "Flo")}
    drawn = load_question_set(corpus).sample(4, seed=0)
    assert run("warmup", corpus, tmp_path / "b", "--held_out=4", *shared) == 0
    asked = {question.question for question in drawn.questions}
    assert len(asked) == 4 and len(trained[0]) == 2 and not trained.pop() & asked


@pytest.mark.parametrize("command", ["warmup", "writer"])
def test_a_folder_with_content_is_refused_before_the_training(
    corpus, options, tmp_path, capsys, monkeypatch, command
):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    monkeypatch.setattr("prag_core.training.lora_trainer.LoraTrainer._train_one", None)
    shared = [option for option in options if option.startswith(("--base_model", "--dtype"))]
    assert run(command, corpus, tmp_path / "a", *shared) == 2
    assert "which has content" in capsys.readouterr().err


def test_warmup_without_questions_is_refused(corpus, options, tmp_path, capsys):
    shared = read_by_warmup(options)
    assert run("warmup", corpus, tmp_path / "a", "--skip=6", *shared) == 2
    assert "behind its first 6 questions" in capsys.readouterr().err


def test_warmup_of_chains_of_thought_has_the_base_model_write_them(
    corpus, options, tmp_path, monkeypatch, capsys
):
    texts = ["She lives in house 0. So the answer is house 0.", "So the answer is house 9."]
    monkeypatch.setattr(
        self_augmenter,
        "generate_fitting",
        lambda base, prompts, options: texts * (len(prompts) // 2),
    )
    shared = read_by_warmup(options)
    chains = ["--training.scheme=paper", "--training.prompt=paper_cot",
              "--training.distillation=0", "--training.max_steps=0"]  # fmt: skip
    assert run("warmup", corpus, tmp_path / "a", *chains, *shared) == 0
    texts[0] = texts[1]
    assert run("warmup", corpus, tmp_path / "b", *chains, *shared) == 2
    assert "got no question-answer pairs" in capsys.readouterr().err


def test_a_warmup_says_how_it_was_made(corpus, options, tmp_path):
    titles = tmp_path / "titles.txt"
    titles.write_text("Ada\n")
    left_out = f"--leave_out.titles={titles}"
    drawn = ["--skip=1", "--limit=3", left_out, *read_by_warmup(options)]
    assert run("warmup", corpus, tmp_path / "a", *drawn) == 0
    kept = json.loads((tmp_path / "a" / "training.json").read_text())
    assert kept["question_sets"] == [str(corpus)] and kept["leave_out"]["titles"] == str(titles)
    assert (kept["limit"], kept["skip"], kept["held_out"], kept["pairs"]) == (3, 1, 0, 3)
    assert kept["training"]["epochs"] == 5 and kept["training"]["learning_rate"] > 0


@pytest.mark.parametrize("command", ["warmup", "writer"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--limit=-1", "got limit -1, expected 0 or more"),
        ("--held_out=-1", "got held_out -1, expected 0 or more"),
        ("--most_words=-2", "got most_words -2, expected 0 or more"),
    ],
)
def test_numbers_below_0_are_refused_before_the_model_is_loaded(
    corpus, tmp_path, capsys, monkeypatch, command, option, message
):
    monkeypatch.setattr("prag_core.model.base_model.load_base_model", None)
    assert run(command, corpus, tmp_path / "a", option) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_skip_or_set_is_told_before_the_model_is_loaded(
    corpus, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("prag_core.model.base_model.load_base_model", None)
    assert run("warmup", corpus, tmp_path / "a", "--skip=-1") == 2
    assert "got skip -1, expected 0 or more" in capsys.readouterr().err
    assert run("warmup", corpus, tmp_path / "a", f"--more=['{tmp_path / 'nowhere'}']") == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["warmup", "writer"])
def test_an_adapter_to_start_from_is_refused_by_its_option(
    corpus, options, tmp_path, capsys, command
):
    shared = [*read_by_warmup(options), "--dtype=float32", f"--training.init={tmp_path}"]
    assert run(command, corpus, tmp_path / "a", *shared) == 2
    assert "leave training.init out" in capsys.readouterr().err
