"""Conditions: names and what they mean."""

from __future__ import annotations

import pytest

from prag_core.evaluation.conditions import (
    Condition,
    EvaluationOptions,
    condition_of,
    file_name,
    in_order,
    parse_condition,
)
from prag_core.pipeline.answers import AnswerOptions
from prag_core.pipeline.modes import MODES


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_a_condition(mode):
    assert parse_condition(mode) == Condition(mode, mode)


@pytest.mark.parametrize(
    ("name", "mode", "documents", "neighbours", "overrides"),
    [
        ("gold", "parametric", "gold", 0, {}),
        ("shuffled", "parametric", "other", 0, {}),
        ("mean", "sft", "all", 0, {}),
        ("rank:32", "parametric", "gold", 0, {"rank": 32}),
        ("gold+9", "parametric", "gold", 9, {"merge_weights": "ones"}),
        ("gold+2:relative", "parametric", "gold", 2, {"merge_weights": "relative"}),
        ("combine+2:mean", "combine", "gold", 2, {"merge_weights": "mean"}),
        ("in_context+4", "in_context", "gold", 4, {"merge_weights": "ones"}),
        ("in_context:unanswerable", "in_context", "nearest", 0, {}),
        ("in_context:prompt:turns", "in_context", "own", 0, {"prompt": "turns"}),
        ("in_context:gated", "in_context", "own", 0, {"gated": True}),
        ("parametric:abstain", "parametric", "own", 0, {"abstain": True}),
        ("parametric:focus:0.8", "parametric", "own", 0, {"focus": 0.8}),
        ("combine:focus:1", "combine", "own", 0, {"focus": 1.0}),
        ("combine:unanswerable:abstain", "combine", "nearest", 0, {"abstain": True}),
        (
            "gold+2:concatenate", "parametric", "gold", 2,
            {"merge_weights": "ones", "merge_method": "concatenate"},
        ),
    ],
)  # fmt: skip
def test_names(name, mode, documents, neighbours, overrides):
    condition = parse_condition(name)
    assert condition == Condition(name, mode, documents, neighbours, overrides)
    assert condition_of(file_name(name)) == name and ":" not in file_name(name)
    chosen = condition.options(AnswerOptions(prompt="cot", rank=7))
    assert chosen.prompt == overrides.get("prompt", "cot") and chosen.rank == overrides.get(
        "rank", 7
    )


@pytest.mark.parametrize(
    "name",
    ["golden", "gold+", "gold+x", "gold+2:best", "rank:", "rank:-1", "in_context+2:mean",
     "closed_book:unanswerable", "sft:abstain", "gold:abstain", "parametric:", "parametric:best",
     "parametric:abstain:unanswerable", "parametric:gated", "gold:gated", "in_context@0",
     "in_context@", "closed_book@1", "gold@1", "closed_book@1:prompt:short", "parametric@2:gated",
     "in_context:gated@1", "in_context:focus:0.5", "gold:focus:0.5", "combine:focus:0",
     "combine:focus:2", "combine:focus:0.5:abstain"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"got condition '.*', expected one of closed_book"):
        parse_condition(name)
    assert condition_of(f"{name}.jsonl") is None


def test_a_mode_of_fewer_documents():
    assert parse_condition("in_context@1") == Condition("in_context@1", "in_context", k=1)
    gated = parse_condition("in_context@1:gated")
    assert (gated.k, gated.overrides) == (1, {"gated": True})
    assert parse_condition("combine@2:prompt:short").k == 2
    assert condition_of(file_name("combine@12:gated")) == "combine@12:gated"
    names = ["in_context@12", "in_context@1", "combine", "in_context@2", "in_context"]
    assert sorted(names, key=in_order) == [
        "in_context", "in_context@1", "in_context@2", "in_context@12", "combine",
    ]  # fmt: skip
    EvaluationOptions(("in_context@3",), k=3)
    with pytest.raises(ValueError, match="of the first 3 documents with k 2, expected no more"):
        EvaluationOptions(("in_context@1", "in_context@3"), k=2)


def test_order_of_tables():
    names = ["gold+9", "gold+10", "rank:8", "rank:64", "gpt", "sft", "closed_book", "gold"]
    assert sorted(names, key=in_order) == [
        "closed_book", "gold", "sft", "rank:8", "rank:64", "gold+9", "gold+10", "gpt",
    ]  # fmt: skip
