"""The embedded 135M model, for real: README code, and documents that answer through adapters."""

from __future__ import annotations

import re

import pytest
import torch

from prag_core.adapters.store import AdapterStore
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.question_sets import demo_question_set
from prag_core.model.base_model import load_base_model, model_fingerprint
from prag_core.pipeline.rag import build_pipeline
from prag_core.pipeline.setup import Setup
from tests.fixtures.paths import ROOT

pytestmark = pytest.mark.slow
README = ROOT / "README.md"


@pytest.fixture(autouse=True)
def all_cores():
    """The other tests run on one thread, the real model wants all."""
    before = torch.get_num_threads()
    torch.set_num_threads(torch.get_num_interop_threads() or before)
    yield
    torch.set_num_threads(before)


def test_one_checkpoint_has_one_fingerprint_in_both_dtypes():
    base = load_base_model(dtype="bfloat16")
    assert base.fingerprint == model_fingerprint(base.model.float())


def test_readme_code_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = README.read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = re.findall(r"^print\(.*\) +# (.*)$", code, re.MULTILINE)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == printed != []


def test_trained_adapters_carry_their_documents(tmp_path):
    question_set = demo_question_set()
    documents = question_set.documents[:4]
    ids = [document.id for document in documents]
    asked = [q for q in question_set.questions if q.gold_ids[0] in ids]
    texts = [q.question for q in asked]
    with build_pipeline(Setup(), tmp_path) as rag:
        rag.add_documents(documents)
        own = [[q.gold_ids[0]] for q in asked]
        other = [[ids[(ids.index(gold) + 1) % 4]] for (gold,) in own]
        gold = _containment(rag.answer(texts, "parametric", document_ids=own), asked)
        shuffled = _containment(rag.answer(texts, "parametric", document_ids=other), asked)
        closed = _containment(rag.answer(texts, "closed_book"), asked)
    assert gold >= 0.2 > max(shuffled, closed)
    with AdapterStore(tmp_path, readonly=True) as store:
        assert store.verify() == []


def _containment(answers, asked) -> float:
    scores = [
        score_answer(a.text, q.golden_answers).containment
        for a, q in zip(answers, asked, strict=True)
    ]
    return sum(scores) / len(scores)
