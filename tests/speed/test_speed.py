"""The benchmark on the tiny model: every part runs and writes its rows; no times are asserted."""

from __future__ import annotations

import json

import pytest

from hypernet.network.checkpoint import save_checkpoint
from prag_core.commands.speed import speed
from prag_core.speed import serving
from prag_core.speed.measurement import bounded, compared, peft_process
from prag_core.speed.run import PARTS, speed_table
from prag_core.speed.workload import workload_questions
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.services import running_server


@pytest.fixture(scope="module")
def tiny_folder(tiny_base, tmp_path_factory):
    """The tiny model as a local folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_base.model.save_pretrained(folder)
    tiny_base.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 8192  # room for 10 passages, one token a byte
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_every_part_runs_and_stays_in_the_file(tiny_base, tiny_folder, tmp_path, capsys):
    """One run measures all parts; a later run of one part keeps the others."""
    save_checkpoint(tmp_path / "network", network(tiny_base), CONFIG, tiny_base)
    speed(
        str(tmp_path), PARTS, quick=True, base_model=tiny_folder,
        hypernet=str(tmp_path / "network"), adapters=100,
    )  # fmt: skip
    report = json.loads((tmp_path / "speed.json").read_text())
    assert set(report) == set(PARTS)
    assert all(row["ours"] >= 0 and row["unit"] for p in PARTS for row in report[p]["rows"])
    assert report["train"]["quick"] and report["train"]["machine"]["versions"]["torch"]
    losses = [row for row in report["train"]["rows"] if row["unit"] == "nats"]
    assert len(losses) == 2 and all(row["met"] for row in losses)
    (texts,) = [row for row in report["generate"]["rows"] if row["unit"] == "%"]
    assert texts["ours"] == 100
    speed(str(tmp_path), ("store",), quick=True, adapters=50)
    after = json.loads((tmp_path / "speed.json").read_text())
    assert after["train"] == report["train"] and after["store"] != report["store"]
    assert "latency: first" in capsys.readouterr().out
    assert speed_table(after).row_count == sum(len(after[part]["rows"]) for part in PARTS)


def test_ratios_say_how_many_times_better():
    """Rates count up, times count down; a limit is met at the limit."""
    assert compared("", 6.0, 2.0, "documents/s", 2).ratio == 3
    assert compared("", 2.0, 6.0, "ms", 4).met is False
    assert compared("", 2.0, 6.0, "ms").met is None
    for value, sign in ((5.1, "<="), (4.9, ">=")):
        assert bounded("", 5.0, "ms", sign, 5).met and not bounded("", value, "ms", sign, 5).met


def test_a_question_that_comes_again_has_other_documents():
    """256 questions are 256 different sets of 3 documents, each led by the document asked for."""
    questions = workload_questions(256)
    sets = {(q.text, q.document_ids) for q in questions}
    assert len(sets) == 256
    assert all(len(set(q.document_ids)) == 3 for q in questions)
    assert all(len(set(q.document_ids)) == 10 for q in workload_questions(20, 10))


def test_a_failing_baseline_is_an_error(tiny_base):
    """What is raised in its process is raised here."""
    with peft_process(tiny_base) as peft, pytest.raises(AttributeError, match="float3"):
        peft("train", dtype="float3", adapter="", sequences=[], length=0, rate=1.0)


def test_a_stream_is_followed_while_documents_are_added(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "DOCUMENTS", 4)
    monkeypatch.setattr(serving, "BATCH", 2)
    with running_server(tiny_base, tmp_path) as (address, service):
        port = int(address.rpartition(":")[2])
        with pytest.raises(RuntimeError, match="got status 404 from /v1/none, expected success"):
            serving.post(port, "/v1/none", {})
        (row,) = serving.measure_stalls(port)
        assert len(service.list(99)) == 4
    assert row.ours > 0 < row.baseline and row.note.startswith("4 documents in ")
