import builtins
import struct

import pytest

from prag_core.evaluation.report.page import render_report
from prag_core.evaluation.report.wandb_run import flat_numbers, log_to_wandb
from tests.fixtures.comparisons import make_report

BLOCK, HEAD = 32768, 7  # the run file is a LevelDB log: pieces in blocks


def run_file_content(path) -> bytes:
    """Join the pieces of a run file, so that what crosses a block is found too."""
    content, place, pieces = path.read_bytes(), HEAD, []
    while place + HEAD <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEAD:
            place += left
            continue
        _, length, _ = struct.unpack("<IHB", content[place : place + HEAD])
        pieces.append(content[place + HEAD : place + HEAD + length])
        place += HEAD + length
    return b"".join(pieces)


def test_an_offline_run_holds_the_numbers(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb: pip install wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    report = make_report(documents=3)
    report["quality"]["conditions"]["trained/parametric"]["metrics"]["containment"]["mean"] = (
        0.361728
    )
    log_to_wandb(report, tmp_path)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    content = run_file_content(next(run.glob("*.wandb")))
    at = content.index(b"quality/conditions/trained/parametric/metrics/containment/mean")
    assert b"0.361728" in content[at : at + 80]
    assert b"invented_set" in content and b"prag-compare" in content
    (page,) = run.rglob("*.html")
    assert page.read_text(encoding="utf-8") == render_report(report)


def test_numbers_by_key():
    flat = flat_numbers(make_report())
    own = "quality/conditions/trained/parametric/metrics/containment"
    assert flat[f"{own}/mean"] == 0.367
    assert flat[f"{own}/low"] == pytest.approx(0.327)
    assert flat["quality/differences/parametric/generated - trained/f1/p"] == 0.0002
    assert flat["knowledge/text/trained/parametric/mean"] == 1.2
    assert flat["knowledge/gap_closed/trained/mean"] == 0.68
    assert flat["similarity/within/trained/mean"] == 0.31
    assert flat["side_effects/trained/kept/high"] == pytest.approx(0.35)
    assert flat["merging/series/trained/ones/1/mean"] == 0.367
    assert flat["cost/adapters/trained/seconds"] == 1.4
    assert flat["cost/questions/in_context"] == 0.25
    assert all(type(value) in (int, float) for value in flat.values())


def test_what_is_missing_has_no_key():
    flat = flat_numbers(make_report(("trained",), questions=0))
    assert not [key for key in flat if key.startswith(("quality", "merging"))]
    few = flat_numbers(make_report(questions=3))
    assert not [key for key in few if key.startswith("quality") and key.endswith(("/low", "/p"))]
    assert "cost/break_even/foreign" not in flat_numbers(make_report(("foreign",)))


def test_without_wandb_the_remedy_is_named(tmp_path, monkeypatch):
    def refuse(name, *rest, **named):
        if name == "wandb":
            raise ImportError(name)
        return imported(name, *rest, **named)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"pip install 'prag\[train\]'"):
        log_to_wandb(make_report(), tmp_path)
