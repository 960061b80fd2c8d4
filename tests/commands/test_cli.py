"""The command line on the tiny model: every subcommand, YAML, and bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import yaml

from prag_core import cli
from prag_core.adapters.store import AdapterStore
from prag_core.formats.peft_folder import from_peft
from tests.fixtures.tiny import byte_tokenizer, tiny_model


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """The tiny model as a local folder, as a user would bring one."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path):
    """Six documents with three questions, in a folder that loads as a question set."""
    names = ["Ada", "Bo", "Cy", "Di", "Ed", "Flo"]
    folder = tmp_path / "set"
    folder.mkdir()
    documents = [
        {"id": f"d{i}", "title": n, "text": f"{n} lives in house {i}."} for i, n in enumerate(names)
    ]
    questions = [
        {"id": f"q{i}", "question": f"Where does {n} live?", "golden_answers": [f"house {i}"],
         "gold_ids": [f"d{i}"]}
        for i, n in enumerate(names)
    ]  # fmt: skip
    for name, rows in (("corpus", documents), ("questions", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def options(tiny_folder, tmp_path):
    """Options that every pipeline command takes here: tiny model, ready-made pairs."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"document": "d1", "question": "Who?", "answer": "Bo"}) + "\n")
    return [
        f"--base_model={tiny_folder}", "--dtype=float32", "--augmentation.strategy=file",
        f"--augmentation.file={pairs}", "--generation.max_new_tokens=4",
    ]  # fmt: skip


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_parametrize_answer_and_store(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "6 documents" in capsys.readouterr().out
    assert run("parametrize", corpus, "--store", store, *options) == 0  # nothing is made again
    assert "holds 6 adapters" in capsys.readouterr().out
    answers = tmp_path / "answers.jsonl"
    assert run("answer", "Where is Bo?", "--store", store, "--output", answers, *options) == 0
    assert capsys.readouterr().out.count("\n") == 4  # the answer and three documents
    assert json.loads(answers.read_text())["mode"] == "parametric"
    for config in (answers.with_suffix(".config.json"), store / "config.json"):
        assert json.loads(config.read_text())["dtype"] == "float32"
    assert run("store", "verify", "--path", store) == 0
    assert run("store", "list", "--path", store) == 0
    key = capsys.readouterr().out.splitlines()[1].split("\t")[0]
    assert run("store", "compact", "--path", store) == 0
    target, model = tmp_path / "peft", options[0].split("=")[1]
    assert run("store", "export", "--path", store, "--key", key, "--to", target,
               "--base_model", model) == 0  # fmt: skip
    with AdapterStore(store) as opened:
        expected = opened.get(key)
    for path, (a, b) in from_peft(target, tiny_model()).tensors.items():
        assert a.equal(expected.tensors[path][0]) and b.equal(expected.tensors[path][1])
    assert run("store", "delete", "--path", store, "--key", key) == 0
    assert run("store", "import", "--path", store, "--key", key, "--source", target,
               "--base_model", model) == 0  # fmt: skip
    assert len(AdapterStore(store)) == 6


def test_warmup_trains_an_initial_adapter(corpus, options, tmp_path, capsys):
    start = tmp_path / "warm"
    shared = [option for option in options if "augmentation" not in option]
    assert run("warmup", corpus, start, *shared) == 0
    assert (start / "adapter_config.json").exists()
    store = tmp_path / "s"
    assert run("parametrize", corpus, "--store", store, f"--training.init={start}", *options) == 0
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "holds 12 adapters" in capsys.readouterr().out  # other start, other adapters
    wrong = [f"--training.init={start}", "--training.rank=3"]
    assert run("parametrize", corpus, "--store", store, *wrong, *options) == 2
    assert "initial adapter" in capsys.readouterr().err


def test_evaluate_writes_results_and_resolved_config(corpus, options, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["evaluate", corpus, "--output", output, "--evaluation.k", 1, *options]
    assert run(*arguments) == 0
    assert "parametric" in capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["conditions"]["shuffled"]["n"] == 6
    config = json.loads((output / "config.json").read_text())
    assert config["run"]["generation"]["max_new_tokens"] == 4
    assert run(*arguments[:-1], "--generation.max_new_tokens=5") == 2
    assert "generation.max_new_tokens" in capsys.readouterr().err


def test_yaml_holds_any_option_and_refuses_unknown_keys(corpus, options, tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"store": str(tmp_path / "s"), "training": {"rank": 3}}))
    assert run("parametrize", corpus, "--config", config, *options) == 0
    with AdapterStore(tmp_path / "s") as opened:
        assert {adapter.rank for _, adapter in opened.items()} == {3}
    config.write_text("trainnig:\n  rank: 3\n")
    with pytest.raises(SystemExit) as exit:
        run("parametrize", corpus, "--config", config, *options)
    assert exit.value.code == 2
    assert "trainnig" in capsys.readouterr().err


def test_skip_bad_counts_malformed_lines(options, tmp_path, capsys):
    corpus = tmp_path / "bad.jsonl"
    corpus.write_text('{"id": "d1", "title": "Bo", "text": "Bo is here."}\n{"id": broken\n')
    assert run("parametrize", corpus, "--store", tmp_path / "s", *options) == 2
    assert "line 2" in capsys.readouterr().err
    assert run("parametrize", corpus, "--store", tmp_path / "s", "--skip-bad", *options) == 0
    assert "1 bad" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--training.rank=0", "rank"),
        ("--training.modules=[q_proj]", "q_proj"),
        ("--base_model=no/such/folder", "no/such/folder"),
        ("--training.learning_rate=-1", "learning_rate"),
    ],
)
def test_bad_options_say_what_is_wrong(corpus, options, tmp_path, capsys, change, message):
    try:
        status = run("parametrize", corpus, "--store", tmp_path / "s", *options, change)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_answer_without_store_names_the_command_that_makes_one(options, tmp_path, capsys):
    assert run("answer", "Who?", "--store", tmp_path / "none", *options) == 2
    assert "prag parametrize" in capsys.readouterr().err


def test_a_killed_run_goes_on_where_it_stopped(corpus, options, tmp_path):
    """A real process, killed without warning after its first adapters."""
    store = tmp_path / "store"
    arguments = [
        "parametrize", str(corpus / "corpus.jsonl"), f"--store={store}", *options,
        "--training.documents_per_batch=1", "--training.epochs=100",
    ]  # fmt: skip

    def count() -> int:
        if not (store / "data.mdb").exists():
            return 0
        with AdapterStore(store, readonly=True) as opened:
            return len(opened)

    with subprocess.Popen([sys.executable, "-m", "prag_core.cli", *arguments]) as process:
        while process.poll() is None and not count():
            time.sleep(0.05)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    with AdapterStore(store) as opened:
        assert opened.verify() == []
        made = {key: adapter.to_bytes() for key, adapter in opened.items()}
    assert 0 < len(made) < 6
    assert run(*arguments) == 0
    with AdapterStore(store) as opened:
        assert opened.verify() == []
        assert len(opened) == 6
        assert all(opened.get(key).to_bytes() == value for key, value in made.items())


@pytest.mark.parametrize(
    "arguments", [("demo", "--path=generated"), ("serve", "--generation.max_new_tokens=3")]
)
def test_options_that_a_command_would_not_read_are_refused(arguments):
    with pytest.raises(SystemExit):
        run(*arguments)


def test_models_and_help(capsys):
    assert run("models") == 0
    assert "smollm2-135m" in capsys.readouterr().out
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as exit:
            run(command, "--help")
        assert exit.value.code == 0
