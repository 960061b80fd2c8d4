import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.evaluation.compare.cells import Cells
from prag_core.evaluation.compare.parts import cost, first_token, keeping, making, peak_bytes
from prag_core.model.decoding import DecodingBatch
from prag_core.model.options import GenerationOptions
from prag_core.pipeline.answerer import Answerer
from tests.fixtures.parametrizers import RandomParametrizer

DOCUMENTS = [Document(f"Document {n}, of some words." * (n + 1)) for n in range(3)]


def cells(**seconds: float) -> Cells:
    """Cells of two questions each, whose answers took so long on average."""
    answers = {
        name.replace("_own", "/parametric"): {"a": {"seconds": 0.0}, "b": {"seconds": 2 * each}}
        for name, each in seconds.items()
    }
    return Cells(QuestionSet("set", (), ()), answers=answers)


def measured(adapter: float, kept: float = 1.0) -> dict:
    """What was measured: seconds to make an adapter, and to keep keys and values."""
    return {"adapters": {"trained": {"seconds": adapter}}, "kv_cache": {"seconds": kept}}


def test_an_adapter_pays_after_the_seconds_that_answers_save():
    asked = cells(in_context=0.5, kv_cache=0.35, trained_own=0.25)
    part = cost(measured(3.0), asked)
    assert part["questions"] == {"in_context": 0.5, "kv_cache": 0.35, "trained/parametric": 0.25}
    assert part["break_even"] == {"trained": pytest.approx(12.0)}
    # Keys and values are made, too: 2 seconds more for 0.1 a question.
    assert part["break_even_kv_cache"] == {"trained": pytest.approx(20.0)}
    assert cost(measured(0.5), asked)["break_even_kv_cache"] == {"trained": 0.0}


def test_it_never_pays_where_answers_are_slower_and_is_unknown_where_none_were_asked():
    for made in (3.0, 0.5):  # cheaper to make, but dearer with every question
        asked = cells(in_context=0.2, kv_cache=0.1, trained_own=0.25)
        part = cost(measured(made), asked)
        assert part["break_even"] == part["break_even_kv_cache"] == {"trained": None}
    part = cost(measured(3.0), cells(trained_own=0.25))
    assert part["break_even"] == part["break_even_kv_cache"] == {}


@pytest.fixture
def answerer(tiny_base, tmp_path):
    parametrizer = RandomParametrizer(tiny_base)
    documents = {d.id: d for d in DOCUMENTS}
    return Answerer(
        tiny_base, documents.__getitem__, lambda i: parametrizer.parametrize([documents[i]])[0],
        kept=tmp_path / "kv", generation=GenerationOptions(max_new_tokens=9),
    )  # fmt: skip


def test_keeping_measures_the_bytes_that_are_stored(answerer):
    part = keeping(answerer, DOCUMENTS, on_gpu=False)
    assert not answerer.kept.exists()  # made anew, elsewhere
    sizes = answerer.keep_passages(document.id for document in DOCUMENTS)
    assert part["bytes"] == sum(sizes) / len(DOCUMENTS)
    files = sum(path.stat().st_size for path in answerer.kept.iterdir())
    assert sum(sizes) < files < 1.2 * sum(sizes)  # tokens and names beside them
    assert part["seconds"] > 0 and part["peak_bytes"] > 0


@pytest.mark.parametrize("mode", ["closed_book", "in_context", "kv_cache", "parametric"])
def test_only_the_first_token_is_timed(answerer, mode, monkeypatch):
    steps = []
    monkeypatch.setattr(DecodingBatch, "step", lambda *_: steps.append(1))
    questions = [Question(f"q{i}", "Who?", ("x",), (d.id,)) for i, d in enumerate(DOCUMENTS)]
    assert first_token(answerer, mode, questions) > 0 and not steps


def test_making_measures_every_document_once(tiny_base):
    parametrizer = RandomParametrizer(tiny_base)
    documents = [Document(f"Document {n}.") for n in range(5)]
    measured = making(parametrizer, documents, on_gpu=False)
    (adapter,) = parametrizer.parametrize(documents[:1])
    assert measured["bytes"] == adapter.stored_bytes
    assert measured["seconds"] > 0
    made = [
        i for batch in parametrizer.batches[1:-1] for i in batch
    ]  # without the first, to warm up
    assert sorted(made) == sorted(document.id for document in documents)
    assert 0 < measured["peak_bytes"] <= peak_bytes(on_gpu=False)
