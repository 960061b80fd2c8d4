"""The shipped weights know documents written after training (slow: the embedded model)."""

from __future__ import annotations

import pytest

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.training.scores import score_network
from prag_core.adapters.merge import merge
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import demo_question_set
from prag_core.model.base_model import load_base_model
from prag_core.model.generate import generate
from prag_core.model.prompts import question_prompt
from prag_core.pipeline.relevance import is_meant, question_keys

BRIDGE = Document(
    "The Harlow Bridge crosses the river Tamsin near the village of Orley. It was designed by the "
    "engineer Mara Venning and opened in 1931. The bridge is 412 metres long.",
    "Harlow Bridge",
)
PERSON = Document(
    "Piet Olander (born 3 March 1958 in Tromsø) is a Norwegian cellist and composer. He has "
    "taught at the Bergen Academy of Music since 1990.",
    "Piet Olander",
)
QUESTIONS = (
    ("Who designed the Harlow Bridge?", "Mara Venning", 0),
    ("When was the Harlow Bridge opened?", "1931", 0),
    ("Which river does the Harlow Bridge cross?", "Tamsin", 0),
    ("Where was Piet Olander born?", "Tromsø", 1),
    ("What is Piet Olander's occupation?", "cellist", 1),
)


@pytest.mark.slow
def test_shipped_weights_answer_from_the_adapter_alone():
    base = load_base_model(device="cpu")
    own = HypernetParametrizer.from_pretrained("smollm2-135m-ridge", base).parametrize(
        [BRIDGE, PERSON]
    )
    prompts = [question_prompt(base.tokenizer, question) for question, _, _ in QUESTIONS]

    def right(adapters) -> int:
        answers = generate(base, prompts, adapters)
        pairs = zip(answers, QUESTIONS, strict=True)
        return sum(answer in text for text, (_, answer, _) in pairs)

    assert right([own[d] for _, _, d in QUESTIONS]) >= 4
    assert right(merge(own)) >= 4
    assert right([own[1 - d] for _, _, d in QUESTIONS]) == 0
    keys = question_keys(base, [question for question, _, _ in QUESTIONS], own[0].spec.layers[:1])
    for key, (_, _, d) in zip(keys, QUESTIONS, strict=True):  # the threshold that the card names
        assert is_meant(own[d], key, 0.14) and not is_meant(own[1 - d], key, 0.14)


@pytest.mark.slow
def test_shipped_weights_answer_the_demos_questions(tmp_path):
    """About invented people and places: nothing of them can have been in the training data."""
    base = load_base_model(device="cpu")
    made = HypernetParametrizer.from_pretrained("smollm2-135m-ridge", base)
    report = score_network(made, demo_question_set(), ["gold", "shuffled"], tmp_path)
    contained = {n: c.metrics["containment"].mean for n, c in report.conditions.items()}
    assert report.questions == 60
    assert contained["gold"] > 0.4  # 0.50 measured
    assert contained["shuffled"] < 0.05


@pytest.mark.slow
def test_names_that_the_model_never_saw_come_out_whole():
    base = load_base_model(device="cpu")
    text = "The bakery in Ostrel was founded by Mira Kolven in 1931."
    made = HypernetParametrizer.from_pretrained("auto", base).parametrize([Document(text)])
    prompt = question_prompt(base.tokenizer, "Who founded the bakery in Ostrel?")
    assert generate(base, [prompt], made)[0].strip() == "Mira Kolven"
