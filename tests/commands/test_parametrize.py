"""`prag parametrize`: documents become adapters, once; YAML, malformed input and killed runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
import yaml

from prag_core.adapters.shards import open_store
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.files import locked
from tests.fixtures.command_line import run


def test_what_the_store_has_is_not_made_again(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "6 documents" in capsys.readouterr().out
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "holds 6 adapters" in capsys.readouterr().out
    assert json.loads((store / "config.json").read_text())["dtype"] == "float32"
    kept = {"corpus": str(corpus), "chunk_tokens": 384, "chunk_overlap": 0}
    assert json.loads((store / "corpus.json").read_text()) == kept
    assert run("parametrize", "--store", store, *options) == 0  # no corpus is added
    assert json.loads((store / "corpus.json").read_text()) == kept


def test_long_documents_are_cut_into_chunks(options, tmp_path, capsys, caplog):
    corpus, store, whole = tmp_path / "corpus.jsonl", tmp_path / "store", tmp_path / "whole"
    long = {"id": "d1", "title": "Bo", "text": "Bo lives in Oss, far away. " * 40}  # a byte a token
    corpus.write_text("\n".join(map(json.dumps, [long, {"id": "d2", "text": "Short."}])))
    options = [
        *options,
        "--augmentation.file=",
        "--augmentation.strategy=span",
        "--training.max_steps=2",
    ]
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "1 documents of more than 384 tokens were cut into chunks" in capsys.readouterr().out
    with AdapterStore(store) as opened:
        texts = [record["text"] for _, record in opened.records("document")]
        count = len(opened)
    # Chunks of one text are one document: 14 of these sentences fill a chunk.
    assert sorted(map(len, texts)) == [6, 12 * 27 - 1, 14 * 27 - 1] and count == 3
    assert run("parametrize", corpus, "--store", store, *options) == 0
    assert "holds 3 adapters" in capsys.readouterr().out  # nothing is made again
    assert "384 tokens" not in caplog.text
    assert run("parametrize", corpus, "--store", whole, "--chunk_tokens=0", *options) == 0
    assert "holds 2 adapters" in capsys.readouterr().out
    assert "1 of 2 documents have more than 384 tokens" in caplog.text
    assert run("parametrize", corpus, "--store", whole, *options) == 0  # whole stays whole
    assert "holds 2 adapters" in capsys.readouterr().out


def test_without_corpus_missing_adapters_are_made(corpus, options, tmp_path, capsys):
    store = tmp_path / "store"
    options = [
        *options,
        "--augmentation.file=",
        "--augmentation.strategy=span",
        "--training.max_steps=2",
    ]
    assert run("parametrize", "--store", store, *options) == 2
    assert "prag parametrize" in capsys.readouterr().err  # there is no store yet
    (corpus / "corpus.jsonl").write_text('{"text": "Ada lives in Oss."}')
    assert run("parametrize", corpus, "--store", store, *options) == 0
    with AdapterStore(store) as opened:  # as an indexing server records them
        opened.put_records("document", {d.id: asdict(d) for d in [Document("Bo lives in Tarn.")]})
    capsys.readouterr()
    assert run("parametrize", "--store", store, *options) == 0
    assert "1 of 2 documents" in capsys.readouterr().out
    assert run("parametrize", "--store", store, *options) == 0
    assert "0 of 2 documents" in capsys.readouterr().out
    with AdapterStore(store) as opened:
        assert len(opened) == 2 and opened.documents_without_adapter() == []


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


def test_a_folder_with_an_unreadable_file_gives_the_others_and_says_so(options, tmp_path, capsys):
    folder, store = tmp_path / "folder", tmp_path / "s"
    options = [*options, "--augmentation.file=", "--augmentation.strategy=span"]
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"text\nBo was born in 1931.\nAda Caf\xe9 was born in 1940.\n")
    (folder / "b.txt").write_text("Carl was born in 1952.")
    (folder / "picture.png").write_bytes(b"x")
    assert run("parametrize", folder, "--store", store, *options) == 2
    output = capsys.readouterr()
    assert "1 documents" in output.out and "2 files left out" in output.out
    assert "got 1 files" in output.err and "leave them out with skip_bad" in output.err
    assert run("parametrize", folder, "--store", store, "--encoding=cp1252", *options) == 0
    (folder / "a.csv").unlink()
    (folder / "c.pdf").write_bytes(b"x")
    assert run("parametrize", folder, "--store", store, "--skip_bad", *options) == 0
    with AdapterStore(store) as opened:
        assert len(opened) == 3


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


def test_jobs_of_an_array_write_shards_that_are_read_as_one(
    corpus, options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    options = [
        *options,
        "--augmentation.file=",
        "--augmentation.strategy=span",
        "--training.max_steps=2",
    ]
    serial, shards = tmp_path / "serial", tmp_path / "shards"
    assert run("parametrize", corpus, "--store", serial, *options) == 0
    array = ("parametrize", corpus, "--store", shards, *options, "--num_shards", 2)
    for number in range(2):
        assert run(*array, "--shard", number) == 0
    with AdapterStore(serial) as one, open_store(shards) as all:
        assert list(all) == list(one) and all.verify() == []
        assert list(all.records("document")) == list(one.records("document"))
        for key, adapter in one.items():  # made in other batches: equal but for rounding
            for path, pair in all.get(key).tensors.items():
                torch.testing.assert_close(pair, adapter.tensors[path])
    for number in range(2):
        with AdapterStore(shards / f"{number}-of-2") as part:
            assert {int(row.document, 16) % 2 for row in part.rows()} <= {number}
    assert run("store", "list", "--path", shards) == 0
    assert run("answer", "Where does Bo live?", "--store", shards, *options) == 0
    capsys.readouterr()
    with locked(shards / "1-of-2"):
        assert run(*array, "--shard", 1) == 1
    assert "which another process writes to" in capsys.readouterr().err
    for words, message in (
        ((*array, "--shard", 2), "got shard 2 of 2"),
        (("store", "sweep", "--path", shards), "name one of them"),
        (("parametrize", corpus, "--store", serial, *options, "--num_shards", 3), "is a store"),
        ((*array, "--replace"), "got replace for shards"),
        (("parametrize", corpus, "--store", shards, *options, "--training.rank=3"),
         "got a shard of rank 3 (expected "),
    ):  # fmt: skip
        assert run(*words) == 2
        assert message in capsys.readouterr().err
    names = sorted(path.name for path in shards.iterdir() if path.is_dir())
    assert names == ["0-of-2", "1-of-2"]  # nothing was written


def test_a_killed_run_goes_on_where_it_stopped(corpus, options, tmp_path):
    """A real process, killed without warning after its first adapters."""
    store = tmp_path / "store"
    arguments = [
        "parametrize", str(corpus / "corpus.jsonl"), f"--store={store}", *options,
        "--training.documents_per_batch=1", "--training.max_steps=300",
    ]  # fmt: skip

    def count() -> int:
        if not (store / "store.json").exists():
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
