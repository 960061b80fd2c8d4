"""`prag compare` on the tiny model: every part, resume, controls and bad input."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hypernet.network.checkpoint import save_checkpoint
from prag_core import cli
from prag_core.evaluation.compare import run as compare_run
from prag_core.evaluation.compare.options import PARTS
from prag_core.model.base_model import load_base_model
from prag_core.model.wordings import keep_choice
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network, write_question_set
from tests.fixtures.tiny import byte_tokenizer, tiny_model

TINY = [
    "--dtype=float32", "--generation.max_new_tokens=3", "--training.layers=[0]",
    "--training.max_steps=2", "--augmentation.qa_pairs=1", "--training.rank=2",
    "--augmentation.strategy=span",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The tiny model, a checkpoint for it, and a question set."""
    folder = tmp_path_factory.mktemp("compare")
    base = tiny_model()
    base.model.config.max_position_embeddings = 4096  # one token a byte: prompts are long
    base.model.save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    save_checkpoint(folder / "hypernet", network(base), CONFIG, base, dtype=torch.float32)
    write_question_set(folder / "set")
    (folder / "alone.jsonl").write_text(
        "".join(json.dumps({"title": d.title, "text": d.text}) + "\n" for d in DOCUMENTS)
    )
    return folder


def run(folders, source, output, *options) -> int:
    """Run `prag compare`; returns the exit status."""
    return cli.main(
        [
            "compare", str(folders / source), f"--output={output}", *TINY,
            f"--base_model={folders / 'model'}", f"--hypernet={folders / 'hypernet'}",
            "--comparison.merge_counts=[1,3]", "--comparison.cost_documents=2", *options,
        ]
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """A whole comparison: its folder and report."""
    output = tmp_path_factory.mktemp("output") / "runs"
    assert run(folders, "set", output) == 0
    return output, json.loads((output / "report.json").read_text())


def test_a_comparison_has_every_part_for_both_paths(finished):
    output, report = finished
    assert all(report[part] for part in PARTS)
    quality = report["quality"]
    shared = {"closed_book", "in_context", "kv_cache", "da_rag", "sft"}
    own = ("parametric", "combine", "shuffled", "mean")
    paths = ("trained", "generated")
    assert {*quality["conditions"]} == {*shared, *(f"{p}/{c}" for p in paths for c in own)}
    assert all(cell["n"] == 6 for cell in quality["conditions"].values())
    assert {
        "parametric/generated - trained",
        "generated/parametric - mean",
        "trained/combine - in_context",
    } <= {*quality["differences"]}
    assert "trained/closed_book's kept by shuffled" in quality["ratios"]
    assert set(report["knowledge"]["text"]) == {
        "closed_book", *(f"{p}/{c}" for p in paths for c in ("parametric", "shuffled")),
    }  # fmt: skip
    assert report["merging"]["k"] == [1, 3]
    assert len(report["similarity"]["map"]) == 12
    assert report["side_effects"]["generated"]["changed_answers"] is not None
    assert report["cost"]["adapters"]["generated"]["seconds"] > 0
    assert set(report["cost"]["break_even"]) == {*paths}
    assert set(report["cost"]["break_even_kv_cache"]) == {*paths}
    assert report["cost"]["kv_cache"]["bytes"] > 0
    assert set(report["cost"]["first_token"]) == {
        "closed_book", "in_context", "kv_cache", "trained/parametric", "generated/parametric",
    }  # fmt: skip
    assert any("reader is left out" in note for note in report["notes"])
    assert all(len(losses) == 5 for losses in report["knowledge"]["per_document"].values())
    assert [d["title"] for d in report["documents"]] == [d.title for d in DOCUMENTS]
    page = (output / "report.html").read_text()
    assert "<svg" in page and "generated" in page


def test_cells_are_those_of_evaluate(folders, finished, tmp_path):
    """`prag evaluate` on its own gets the same numbers for the same conditions."""
    output, report = finished
    options = [
        f"--output={tmp_path}", *TINY, f"--base_model={folders / 'model'}", "--path=generated",
        f"--hypernet={folders / 'hypernet'}", "--evaluation.k=1", "--evaluation.retrieval=gold",
        "--evaluation.conditions=[closed_book,parametric,combine,shuffled,mean]",
    ]  # fmt: skip
    assert cli.main(["evaluate", str(folders / "set"), *options]) == 0
    alone = json.loads((tmp_path / "results.json").read_text())
    together = json.loads((output / "generated" / "results.json").read_text())
    for name, cell in alone["conditions"].items():
        key = name if name == "closed_book" else f"generated/{name}"
        assert report["quality"]["conditions"][key]["metrics"] == cell["metrics"]
    assert {*alone["differences"]} <= {*together["differences"]}
    for name, metrics in alone["differences"].items():
        assert report["quality"]["differences"][f"generated/{name}"] == metrics


def test_a_second_run_computes_nothing_again(folders, finished, monkeypatch):
    output, report = finished

    def refuse(*arguments, **options):
        raise AssertionError("computed again")

    for name in ("knowledge", "similarity", "making"):
        monkeypatch.setattr(compare_run, name, refuse)
    monkeypatch.setattr("prag_core.pipeline.answerer.generate", refuse)
    assert run(folders, "set", output) == 0
    again = json.loads((output / "report.json").read_text())
    assert [again[part] for part in PARTS] == [report[part] for part in PARTS]


def test_another_config_is_refused(folders, finished, capsys):
    output, _ = finished
    before = (output / "report.json").read_bytes()
    assert run(folders, "set", output, "--comparison.seed=1") == 2
    assert "comparison.seed 1, not 0" in capsys.readouterr().err
    assert (output / "report.json").read_bytes() == before


def test_documents_without_questions_get_the_parts_that_need_none(folders, tmp_path):
    assert run(folders, "alone.jsonl", tmp_path, "--documents=5") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert "quality" not in report and "merging" not in report
    assert report["knowledge"]["answers"] is None
    assert "changed_answers" not in report["side_effects"]["trained"]
    assert len(report["documents"]) == 5
    assert "no questions" in report["notes"][0]


def test_a_file_of_pairs_may_name_documents_that_a_sample_leaves_out(folders, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"document": d.title, "question": "Who?", "answer": "Ana"} for d in DOCUMENTS]
    pairs.write_text("\n".join(map(json.dumps, rows)))
    options = ["--documents=2", "--comparison.paths=[trained]", "--comparison.parts=[cost]"]
    named = ["--augmentation.strategy=file", f"--augmentation.file={pairs}"]
    assert run(folders, "set", tmp_path / "out", *options, *named) == 0


def test_few_questions_get_no_intervals_and_a_word_why(folders, tmp_path):
    options = ["--documents=3", "--comparison.paths=[generated]"]
    assert run(folders, "set", tmp_path, *options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    estimate = report["quality"]["conditions"]["generated/parametric"]["metrics"]["f1"]
    assert estimate["low"] is None
    notes = " ".join(report["notes"])
    assert "3 questions in 3 groups by document: intervals" in notes
    assert "sft is left out" in notes and "da_rag is left out" in notes
    assert report["disagreements"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hypernet=checkpoints/none"], "checkpoints/none"),
        (["--comparison.paths=[]"], "got paths []"),
        (["--comparison.paths=[forged]"], "got path 'forged'"),
        (["--comparison.parts=[quality,speed]"], "got parts ['quality', 'speed']"),
        (["--comparison.conditions=[mean,mean]"], "got conditions ['mean', 'mean']"),
        (["--comparison.merge_counts=[0]"], "merge_counts [0]"),
        (["--documents=9"], "expected 1 to 6"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    folders, tmp_path, capsys, options, message
):
    try:
        assert run(folders, "set", tmp_path / "out", *options) == 2
    except SystemExit as stopped:  # the parser's own refusal
        assert stopped.code == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out" / "parts").exists()


def test_a_checkpoint_of_another_base_is_refused(folders, tmp_path, capsys):
    other = tiny_model(seed=1)
    save_checkpoint(tmp_path / "other", network(other), CONFIG, other, dtype=torch.float32)
    assert run(folders, "set", tmp_path / "out", f"--hypernet={tmp_path / 'other'}") == 2
    assert "base" in capsys.readouterr().err


def test_parts_added_later_see_what_others_need(folders, tmp_path):
    paths = "--comparison.paths=[generated]"
    few = "--comparison.conditions=[closed_book,in_context,parametric,shuffled]"
    assert run(folders, "set", tmp_path, paths, few, "--comparison.parts=[side_effects,cost]") == 0
    first = json.loads((tmp_path / "report.json").read_text())
    assert "changed_answers" not in first["side_effects"]["generated"]
    assert first["cost"]["questions"] == {}
    parts = "--comparison.parts=[quality,side_effects,cost]"
    assert run(folders, "set", tmp_path, paths, few, parts) == 0
    second = json.loads((tmp_path / "report.json").read_text())
    assert second["side_effects"]["generated"]["changed_answers"] is not None
    assert second["cost"]["questions"]


def test_other_weights_under_the_same_name_are_noticed(folders, tmp_path, capsys):
    shutil.copytree(folders / "hypernet", tmp_path / "hypernet")
    options = ["--comparison.paths=[generated]", "--comparison.parts=[knowledge]"]
    options.append(f"--hypernet={tmp_path / 'hypernet'}")
    assert run(folders, "set", tmp_path / "out", *options) == 0
    base = tiny_model()
    save_checkpoint(tmp_path / "hypernet", network(base, seed=9), CONFIG, base, dtype=torch.float32)
    assert run(folders, "set", tmp_path / "out", *options) == 2
    assert "contents" in capsys.readouterr().err


def test_a_bad_line_is_named_or_left_out(folders, tmp_path, capsys):
    good = json.dumps({"title": "a", "text": "Ana likes red."})
    other = json.dumps({"title": "b", "text": "Bob likes tin."})
    (folders / "bad.jsonl").write_text(f"{good}\n{{bad\n{other}\n")
    options = ["--comparison.paths=[generated]", "--comparison.parts=[similarity]"]
    assert run(folders, "bad.jsonl", tmp_path, *options) == 2
    assert "line 2" in capsys.readouterr().err
    assert run(folders, "bad.jsonl", tmp_path, *options, "--skip_bad") == 0
    assert len(json.loads((tmp_path / "report.json").read_text())["documents"]) == 2


def test_a_folder_is_not_measured_without_the_files_that_cannot_be_read(folders, tmp_path, capsys):
    folder = folders / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text("Ana likes red.")
    (folder / "b.txt").write_bytes(b"Bob likes the caf\xe9.")
    options = ["--comparison.paths=[generated]", "--comparison.parts=[similarity]"]
    assert run(folders, "mixed", tmp_path, *options) == 2
    assert "got 1 files in" in capsys.readouterr().err


def test_k_may_come_in_any_order_and_none_may_fit(folders, tmp_path):
    options = ["--comparison.paths=[generated]", "--comparison.parts=[merging]"]
    assert run(folders, "set", tmp_path, *options, "--comparison.merge_counts=[3,1]") == 0
    merging = json.loads((tmp_path / "report.json").read_text())["merging"]
    assert merging["k"] == [1, 3]
    ones = merging["series"]["generated/ones"]
    assert merging["series"]["generated/relative"]["1"] == ones["1"]
    assert run(folders, "set", tmp_path / "b", *options, "--comparison.merge_counts=[50]") == 0
    assert json.loads((tmp_path / "b/report.json").read_text())["merging"] is None


def test_one_document_is_compared_without_another(folders, tmp_path):
    options = ["--documents=1", "--comparison.paths=[generated]"]
    assert run(folders, "set", tmp_path, *options) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert "generated/parametric" in report["quality"]["conditions"]
    assert "shuffled is left out" in " ".join(report["notes"])
    assert "generated" not in report["side_effects"]


@pytest.mark.parametrize("control", ["shuffled", "mean"])
def test_answers_in_another_prompt_are_no_side_effect(folders, tmp_path, monkeypatch, control):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    keep_choice(load_base_model(str(folders / "model")).fingerprint, {"prompt": "turns"})
    options = [f"--comparison.conditions=[closed_book,parametric,{control}]"]
    options += ["--comparison.paths=[generated]", "--comparison.parts=[side_effects]"]
    assert run(folders, "set", tmp_path / "out", *options) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "changed_answers" not in report["side_effects"]["generated"]
    said = any("asked in another prompt" in note for note in report["notes"])
    assert said == (control == "shuffled")  # else nobody asked for it
