"""The benchmark on the tiny model: every part runs and writes its rows; no times are asserted."""

from __future__ import annotations

import json
import sys

import httpx
import pytest

from hypernet.network.checkpoint import save_checkpoint
from prag_core.adapters.adapter import AdapterSpec, adapter_key
from prag_core.adapters.store import AdapterStore
from prag_core.commands.speed import speed
from prag_core.model.wordings import keep_choice
from prag_core.speed import scale, servers, serving, vllm
from prag_core.speed.measurement import bounded, compared, peft_process
from prag_core.speed.run import PARTS, speed_table
from prag_core.speed.workload import workload_questions
from tests.fixtures.hypernetworks import CONFIG, network
from tests.fixtures.services import running_server
from tests.fixtures.tiny import random_adapter
from tests.fixtures.vllm_standin import vllm_standin


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


def test_every_part_runs_and_stays_in_the_file(
    tiny_base, tiny_folder, tmp_path, capsys, monkeypatch
):
    """One run measures all parts; a later run of one part keeps the others.

    The model reads in another wording than adapters are asked in, which neither side takes.
    """
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    keep_choice(tiny_base.fingerprint, {"prompt": "turns"})
    save_checkpoint(tmp_path / "network", network(tiny_base), CONFIG, tiny_base)
    speed(
        str(tmp_path), PARTS, quick=True, base_model=tiny_folder,
        hypernet=str(tmp_path / "network"), adapters=100,
    )  # fmt: skip
    report = json.loads((tmp_path / "speed.quick.json").read_text())
    assert set(report) == set(PARTS)
    assert all(row["ours"] >= 0 and row["unit"] for p in PARTS for row in report[p]["rows"])
    assert report["train"]["quick"] and report["train"]["machine"]["versions"]["torch"]
    losses = [row for row in report["train"]["rows"] if row["unit"] == "nats"]
    assert len(losses) == 2 and all(row["met"] for row in losses)
    (texts,) = [row for row in report["generate"]["rows"] if row["unit"] == "%"]
    assert texts["ours"] == 100
    speed(str(tmp_path), ("store",), quick=True, adapters=50)
    after = json.loads((tmp_path / "speed.quick.json").read_text())
    assert after["train"] == report["train"] and after["store"] != report["store"]
    assert "latency: first" in capsys.readouterr().out
    assert speed_table(after).row_count == sum(len(after[part]["rows"]) for part in PARTS)


def test_the_stages_of_a_trained_adapter_are_timed_apart(tiny_folder, tmp_path):
    speed(str(tmp_path), ("stages",), quick=True, base_model=tiny_folder)
    whole, *stages = json.loads((tmp_path / "speed.quick.json").read_text())["stages"]["rows"]
    assert [row["unit"] for row in (whole, *stages)] == ["s/document"] * 4
    assert whole["ours"] == pytest.approx(sum(row["ours"] for row in stages), rel=0.01)


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


def test_a_server_that_is_measured_has_no_key_of_the_users_own(tmp_path, monkeypatch):
    for name in ("PRAG_API_KEY", "VLLM_API_KEY", "KEPT"):
        monkeypatch.setenv(name, "x")
    code = "import os, time; print(sorted(os.environ), flush=True); time.sleep(60)"
    log = tmp_path / "log"
    with servers.running([sys.executable, "-c", code], log, log.read_text, 60, {"NEW": "x"}):
        names = log.read_text()
    assert "'PRAG_API_KEY'" not in names and "'VLLM_API_KEY'" not in names
    assert "'KEPT'" in names and "'NEW'" in names
    failing = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(RuntimeError, match=r"got no server by .*no such model"),
        servers.running(failing, log, lambda: False, 60),
    ):
        pass


def test_an_opening_of_a_single_store_reads_its_index(store):
    (store.path / "index.sqlite").write_bytes(b"no index" * 100)
    with pytest.raises(ValueError, match="that SQLite cannot use"):
        scale._open(str(store.path))


def test_a_part_that_needs_an_option_names_it(tmp_path):
    with pytest.raises(ValueError, match="got the part places without --places"):
        speed(str(tmp_path), ("places",))
    with pytest.raises(ValueError, match="got the part retrieval without --question_sets"):
        speed(str(tmp_path), ("retrieval",), corpus="corpus.jsonl")


def test_a_place_and_a_corpus_are_measured_as_they_are(tiny_base, tiny_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    keys = [adapter_key(f"{i:032x}", tiny_spec, "p" * 16) for i in range(6)]
    for shard in range(2):
        with AdapterStore(tmp_path / "place" / f"{shard}-of-2") as store:
            made = {k: random_adapter(tiny_spec, tiny_base) for k in keys[shard::2]}
            store.put_many(made, pack=True)
    names = ("alpha", "beta", "gamma", "delta")
    lines = [{"id": n, "text": f"{n} lies in house {i}."} for i, n in enumerate(names)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:2]))
    folder = tmp_path / "asked"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines[2:]))
    asked = {"id": "q", "question": "Where does gamma lie?", "golden_answers": ["house 2"],
             "gold_ids": ["gamma"]}  # fmt: skip
    (folder / "questions.jsonl").write_text(json.dumps(asked))
    speed(
        str(tmp_path), ("places", "retrieval"), places=(str(tmp_path / "place"),),
        corpus=str(corpus), question_sets=(str(folder),),
    )  # fmt: skip
    report = json.loads((tmp_path / "speed.json").read_text())
    first, again, p50, p95, rate = report["places"]["rows"]
    assert first["note"].startswith("6 adapters, ") and first["ours"] > 0 < again["ours"]
    assert p50["note"] == "of 3" and p50["ours"] <= p95["ours"] and rate["note"] == "of 3"
    assert not (tmp_path / "cache" / "stores").exists()  # the user's own stays as it is
    rows = {row["name"]: row for row in report["retrieval"]["rows"]}
    assert rows["bm25s: build"]["note"] == rows["lancedb: build"]["note"] == "4 documents"
    assert rows["bm25s: recall@3, asked"]["ours"] == 100 == rows["lancedb: recall@3, asked"]["ours"]


def test_a_vllm_is_asked_for_adapters_by_name_and_for_passages(tiny_base, tmp_path):
    """Of a stand-in; the real one is asked by `prag speed --parts [vllm]`."""
    with AdapterStore(tmp_path / "store") as store:
        spec = AdapterSpec(tiny_base.fingerprint, rank=2, alpha=32, layers=(0,))
        store.put("one", random_adapter(spec, tiny_base))
        with vllm_standin(tiny_base, store) as standin, httpx.Client(base_url=standin.url) as http:
            adapters = [{"model": "prag:one", "prompt": [5, 6, 7]}] * 2
            found = vllm.ask_all(http, vllm.Asked(adapters[:1], adapters))
            vllm.ask_all(http, vllm.Asked(*[[{"model": "", "prompt": [1, 2]}]] * 2))
            with pytest.raises(RuntimeError, match="got 404 from vLLM"):
                vllm.ask_all(http, vllm.Asked(*[[{"model": "prag:two", "prompt": [1]}]] * 2))
    assert set(found) == {"new", "known", "rate 1", "rate 8"} and min(found.values()) > 0
    names = [body["model"] for body in standin.asked]
    assert names[:8] == ["prag:one"] * 5 + ["served"] * 3
    assert all(body["max_tokens"] == vllm.TOKENS and body["ignore_eos"] for body in standin.asked)
