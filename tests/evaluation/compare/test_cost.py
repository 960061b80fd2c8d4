import pytest

from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.evaluation.compare.cells import Cells
from prag_core.evaluation.compare.cost import cost, making, peak_bytes
from tests.fixtures.parametrizers import RandomParametrizer


def cells(**seconds: float) -> Cells:
    """Cells of two questions each, whose answers took so long on average."""
    answers = {
        name.replace("_own", "/parametric"): {"a": {"seconds": 0.0}, "b": {"seconds": 2 * each}}
        for name, each in seconds.items()
    }
    return Cells(QuestionSet("set", (), ()), answers=answers)


def test_an_adapter_pays_after_the_seconds_that_answers_save():
    part = cost({"trained": {"seconds": 3.0}}, cells(in_context=0.5, trained_own=0.25))
    assert part["questions"] == {"in_context": 0.5, "trained/parametric": 0.25}
    assert part["break_even"] == {"trained": pytest.approx(12.0)}


def test_it_never_pays_where_answers_are_slower_and_is_unknown_where_none_were_asked():
    assert cost({"trained": {"seconds": 3.0}}, cells(in_context=0.2, trained_own=0.25))[
        "break_even"
    ] == {"trained": None}
    assert cost({"trained": {"seconds": 3.0}}, cells(trained_own=0.25))["break_even"] == {}


def test_making_measures_every_document_once(tiny_base):
    parametrizer = RandomParametrizer(tiny_base)
    documents = [Document(f"Document {n}.") for n in range(5)]
    measured = making(parametrizer, documents, on_gpu=False)
    (adapter,) = parametrizer.parametrize(documents[:1])
    assert measured["bytes"] == adapter.nbytes
    assert measured["seconds"] > 0
    made = [
        i for batch in parametrizer.batches[1:-1] for i in batch
    ]  # without the first, to warm up
    assert sorted(made) == sorted(document.id for document in documents)
    assert 0 < measured["peak_bytes"] <= peak_bytes(on_gpu=False)
