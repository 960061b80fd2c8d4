"""Fields: what this server does with every field of a request to the completion endpoints.

One table for both endpoints, in three groups: honoured; passed over, because the answer is the same
with and without; refused by name, but for values that ask for nothing. A field that is in neither
this table nor the server's own (`schemas.Request`) is refused. null always asks for nothing.

What is wrong with a request is said in one sentence that names the field, whoever found it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

NO_MODEL = "model_not_found"
HONOURED, PASSED_OVER, REFUSED = "honoured", "passed over", "refused"
LONGEST_SHOWN = 40  # characters of a value that an error repeats


@dataclass(frozen=True)
class RequestField:
    """One field of OpenAI's API, or of the servers that speak it too.

    Attributes:
        name: of the field.
        treatment: what is done with it.
        note: how it is honoured, or why it changes or cannot change the answer.
        passes: values of a refused field that ask for nothing, beside null.
    """

    name: str
    treatment: Literal["honoured", "passed over", "refused"]
    note: str
    passes: tuple[Any, ...] = ()


_NO_TOOLS = "the model calls no tools"
_NO_LOGPROBS = "probabilities of tokens are not kept"
_NO_PENALTY = "tokens are drawn without penalties"
_TEXT_ALONE = "the model reads and writes text alone"
_NO_REASONING = "the model answers at once"
_OTHER_SAMPLING = "tokens are drawn by temperature and top_p alone"

FIELDS: Mapping[str, RequestField] = {
    field.name: field
    for field in (
        RequestField("model", HONOURED, "the served model's name, or nothing"),
        RequestField("messages", HONOURED, "chat alone; text in every role"),
        RequestField("prompt", HONOURED, "completions alone; texts or token ids, one or many"),
        RequestField("max_tokens", HONOURED, "1 to `--limits.max_tokens`"),
        RequestField("max_completion_tokens", HONOURED, "the same; of two numbers the smaller"),
        RequestField("temperature", HONOURED, "0 to 2; 0, greedy, by default"),
        RequestField("top_p", HONOURED, "0 to 1"),
        RequestField("seed", HONOURED, "any whole number; drawn when none is given"),
        RequestField("stop", HONOURED, "one text or up to 16"),
        RequestField("n", HONOURED, "1 to 16 answers a prompt; they are alike at temperature 0"),
        RequestField("stream", HONOURED, "server-sent events"),
        RequestField("stream_options", HONOURED, "`include_usage`"),
        RequestField("user", PASSED_OVER, "a name for the provider's records"),
        RequestField("safety_identifier", PASSED_OVER, "a name for the provider's records"),
        RequestField("metadata", PASSED_OVER, "labels of a kept answer; none is kept"),
        RequestField("store", PASSED_OVER, "no answer is kept"),
        RequestField("service_tier", PASSED_OVER, "there is one"),
        RequestField("prompt_cache_key", PASSED_OVER, "a hint about speed"),
        RequestField("prompt_cache_options", PASSED_OVER, "a hint about speed"),
        RequestField("prompt_cache_retention", PASSED_OVER, "a hint about speed"),
        RequestField("prediction", PASSED_OVER, "a hint about speed"),
        RequestField("parallel_tool_calls", PASSED_OVER, _NO_TOOLS),
        RequestField("tools", REFUSED, f"{_NO_TOOLS}; with `tool_choice` none they pass", ([],)),
        RequestField("tool_choice", REFUSED, _NO_TOOLS, ("none", "auto")),
        RequestField("functions", REFUSED, _NO_TOOLS, ([],)),
        RequestField("function_call", REFUSED, _NO_TOOLS, ("none", "auto")),
        RequestField("response_format", REFUSED, "answers are plain text", ({"type": "text"}, {})),
        RequestField("logprobs", REFUSED, _NO_LOGPROBS, (False,)),
        RequestField("top_logprobs", REFUSED, _NO_LOGPROBS, (0,)),
        RequestField("logit_bias", REFUSED, _NO_PENALTY, ({},)),
        RequestField("frequency_penalty", REFUSED, _NO_PENALTY, (0,)),
        RequestField("presence_penalty", REFUSED, _NO_PENALTY, (0,)),
        RequestField("best_of", REFUSED, "every answer that is made is returned", (1,)),
        RequestField("echo", REFUSED, "the prompt is not repeated", (False,)),
        RequestField("suffix", REFUSED, "the model writes on at the end alone", ("",)),
        RequestField("modalities", REFUSED, _TEXT_ALONE, ([], ["text"])),
        RequestField("audio", REFUSED, _TEXT_ALONE),
        RequestField("moderation", REFUSED, "nothing is moderated"),
        RequestField("reasoning_effort", REFUSED, _NO_REASONING, ("none",)),
        RequestField("verbosity", REFUSED, "length is set by max_tokens", ("medium",)),
        RequestField("web_search_options", REFUSED, "nothing but the documents is searched"),
        # Not OpenAI's; other servers' clients send them, often with these values.
        RequestField("top_k", REFUSED, _OTHER_SAMPLING, (0, -1)),
        RequestField("min_p", REFUSED, _OTHER_SAMPLING, (0,)),
        RequestField("repetition_penalty", REFUSED, _NO_PENALTY, (1,)),
        RequestField(
            "chat_template_kwargs", REFUSED, _NO_REASONING, ({}, {"enable_thinking": False})
        ),
    )
}


class FieldError(ValueError):
    """A field of a request that cannot be taken.

    Attributes:
        param: the field, as OpenAI's errors name it; None: the request as a whole.
        code: OpenAI's name of the problem, where it has one.
    """

    def __init__(self, param: str | None, problem: str, code: str | None = None) -> None:
        """Write the sentence."""
        # Either may repeat half a surrogate pair of the request, which neither pydantic nor a
        # reply can write.
        self.param = param and param.encode("utf-8", "replace").decode()
        problem = problem.encode("utf-8", "replace").decode()
        super().__init__(f"{self.param}: {problem}" if param else problem)
        self.code = code


def check_fields(body: Mapping[str, Any], honoured: Collection[str]) -> dict[str, Any]:
    """Return the fields that have a say, without those that ask for nothing.

    Args:
        body: of a request.
        honoured: fields that its endpoint reads.

    Raises:
        FieldError: a field that cannot be honoured.
    """
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name not in honoured:
            _require_nothing(name, value, tools_off=given.get("tool_choice") == "none")
    return {name: value for name, value in given.items() if name in honoured}


def _require_nothing(name: str, value: object, tools_off: bool) -> None:
    """Raise FieldError unless this field's value asks for nothing."""
    field = FIELDS.get(name)
    if field is None:
        problem = "got a field that there is none of: leave it out, or correct its name"
        raise FieldError(shorten(name), problem)
    if field.treatment == HONOURED:
        raise FieldError(name, "got a field of the other endpoint: leave it out")
    if field.treatment == PASSED_OVER or (tools_off and name in ("tools", "functions")):
        return
    if not any(_same(value, other) for other in field.passes):
        expected = " or ".join(json.dumps(other) for other in (*field.passes, None))
        reason = field.note.partition(";")[0]
        raise FieldError(name, f"got {shown(value)}, expected {expected}: {reason}")


def _same(value: object, other: object) -> bool:
    """Tell whether two JSON values are the same; in Python False equals 0."""
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def shown(value: object) -> str:
    """Write a value for an error: as JSON where it is short, else what kind it is."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        kind = value.get("type")
        return f"an object of type {shorten(kind)}" if isinstance(kind, str) else "an object"
    text = json.dumps(value, ensure_ascii=False, default=lambda other: "another kind of value")
    if len(text) <= LONGEST_SHOWN:
        return text
    return f"a text of {len(value)} characters" if isinstance(value, str) else "a long number"


def shorten(text: str) -> str:
    """Cut a text of the client that an error repeats."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def encodable(text: str, param: str | None = None) -> str:
    """Return a text that can be written as UTF-8; JSON may name halves of characters alone.

    Raises:
        FieldError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = "got half of a surrogate pair, expected whole characters"
        raise FieldError(param, problem) from error
    return text


def request_error(errors: Sequence[Mapping[str, Any]], body: object) -> FieldError:
    """Say what is wrong with a request, of several fields with the first.

    Args:
        errors: as pydantic reports them.
        body: of the request.
    """
    first = errors[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError) and cause.param:
        return cause
    name = _place(first, body)
    if name is None and isinstance(body, Mapping) and not isinstance(body, dict):  # of a form
        expected = "expected one or more in this field of a form (multipart/form-data)"
        return FieldError(str(first["loc"][1]), f"got no file, {expected}")
    if name is None:
        position = f" (at character {first['loc'][-1]})" if first["type"] == "json_invalid" else ""
        expected = "expected one, sent as content-type application/json"
        return FieldError(None, f"got a body that is no JSON object{position}, {expected}")
    if isinstance(cause, ValueError):
        return FieldError(name, str(cause))
    if first["type"] == "missing":
        return FieldError(name, "got nothing, expected this field")
    if first["type"] == "extra_forbidden":
        return FieldError(name, "got a field that there is none of: leave it out")
    # Of a field that takes several kinds, each kind has its own error.
    same = [error for error in errors if _place(error, body) == name]
    expected = " or ".join(dict.fromkeys(_expected(error["msg"]) for error in same))
    return FieldError(name, f"got {shown(first['input'])}, expected {expected}")


def _expected(message: str) -> str:
    """Return what pydantic expects, without its wording."""
    _, found, text = re.sub(r" should (?:be|have) ", "\0", message).partition("\0")
    text = re.split(r" after validation| or instance of|, (?:unable|got|not) ", text)[0]
    text = text.replace("valid ", "").replace("dictionary", "object")
    text = re.sub(r"^a (?=[aeio])", "an ", text)
    return text if found else "another value"


def _place(error: Mapping[str, Any], body: object) -> str | None:
    """Name the field as OpenAI does, `messages[0].content`; None for the body as a whole.

    Among the parts are names of the validator's own types: those that the body does not have.
    """
    source, *parts = error["loc"]
    if source != "body":  # of the address
        return str(parts[0]) if parts else str(source)
    name, value = "", body
    for part in parts:
        if isinstance(value, dict) and part in value:
            name, value = f"{name}.{part}" if name else str(part), value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            name, value = f"{name}[{part}]", value[part]
    if error["type"] == "missing" and isinstance(value, dict):
        name = f"{name}.{parts[-1]}" if name else str(parts[-1])
    return shorten(name) or None
