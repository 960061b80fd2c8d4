"""Fields: every field of OpenAI's API is in the table, and the README shows the table."""

from __future__ import annotations

from typing import get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params as completion
from openai.types.chat import completion_create_params as chat
from pydantic import ValidationError

from prag_core.server.fields import FIELDS, HONOURED, REFUSED, request_error
from prag_core.server.limits import Limits
from prag_core.server.schemas import ChatRequest, CompletionRequest, Request
from tests.fixtures.examples import examples
from tests.fixtures.paths import ROOT

REQUESTS = examples(100)
README = (ROOT / "prag_core/server/README.md").read_text()
ENDPOINTS = [
    (ChatRequest, {"messages": [{"role": "user", "content": "a"}]}),
    (CompletionRequest, {"prompt": "a"}),
]


def test_the_table_is_whole_and_shown():
    names = {"stream"}
    for kind in (chat.CompletionCreateParamsBase, completion.CompletionCreateParamsBase):
        names |= set(get_type_hints(kind))
    assert names <= set(FIELDS)
    honoured = {name for name, field in FIELDS.items() if field.treatment == HONOURED}
    read = {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    own = {name for name, field in Request.model_fields.items() if field.description}
    assert read - own == honoured
    rows = [row for row in README.splitlines() if row.startswith("| `")]
    for field in FIELDS.values():
        (row,) = (row for row in rows if f"`{field.name}`" in row.split(" | ")[0])
        assert row.endswith(f" | {field.treatment} | {field.note} |")
    for name in own:
        assert f"| `{name}` | {Request.model_fields[name].description} |" in README


@pytest.mark.parametrize(("schema", "body"), ENDPOINTS)
def test_both_endpoints_do_alike(schema, body):
    for field in FIELDS.values():
        if field.name in schema.model_fields:
            continue
        if field.treatment == REFUSED:
            for value in (None, *field.passes):
                schema.model_validate({**body, field.name: value})
        values = [object()] if field.treatment == REFUSED else [5]
        for value in values if field.treatment != "passed over" else []:
            with pytest.raises(ValidationError) as raised:
                schema.model_validate({**body, field.name: value})
            errors = [{**e, "loc": ("body", *e["loc"])} for e in raised.value.errors()]
            assert request_error(errors, body).param == field.name
    for name, value in (("document_id", "a"), ("\ud800", 1)):
        with pytest.raises(ValidationError, match="got a field that there is none of"):
            schema.model_validate({**body, name: value})


LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()),
    st.sampled_from(["user", "tool", "text", "\ud800"]),
)  # fmt: skip
KEYS = st.sampled_from(["role", "content", "type", "text", "tool_calls", "name", "\ud800"])
JSON = st.recursive(
    LEAF, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=4)
)
NAMES = st.sampled_from([*FIELDS, *Request.model_fields, "merge", "other", "\ud800"])


@settings(max_examples=REQUESTS, deadline=None)
@given(st.sampled_from(ENDPOINTS), st.dictionaries(NAMES, JSON, max_size=3))
def test_whatever_comes_is_read_or_refused_in_one_sentence(endpoint, changes):
    schema, body = endpoint
    body = {**body, **changes}
    try:
        schema.model_validate(body)
    except ValidationError as error:
        errors = [{**e, "loc": ("body", *e["loc"])} for e in error.errors()]
        problem = request_error(errors, body)
        str(problem).encode()
        assert problem.param and "\n" not in str(problem) and "Input should" not in str(problem)


@pytest.mark.parametrize(("body", "tokens"), [({}, 32), ({"max_tokens": 8}, 8)])
def test_no_answer_is_longer_than_the_limit(body, tokens):
    request = CompletionRequest.model_validate({"prompt": "a", **body})
    assert request.options(Limits(max_tokens=32)).max_new_tokens == tokens
