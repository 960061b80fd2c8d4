"""Fields: every field of OpenAI's API is in the table, and the README shows the table."""

from __future__ import annotations

from typing import get_type_hints

import pytest
from openai.types import completion_create_params as completion
from openai.types.chat import completion_create_params as chat
from pydantic import ValidationError

from prag_core.server.fields import FIELDS, HONOURED, REFUSED, request_error
from prag_core.server.schemas import ChatRequest, CompletionRequest, Request
from tests.fixtures.paths import ROOT

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
    for field in FIELDS.values():
        assert f"| `{field.name}` | {field.treatment} | {field.note} |" in README
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
