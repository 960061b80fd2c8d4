"""Conversations: OpenAI's messages go in, turns that every chat template takes come out.

Templates differ in what they know beside system, user and assistant, and many want user and
assistant in alternation. So tools become text: a call is part of the assistant's turn, its result
one of the user's; turns of one role in a row become one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from prag_core.server.fields import FieldError, encodable, shown

MOST = 256  # messages
ROLES = {  # OpenAI's -> the templates'
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
    "function": "user",
}


def read_conversation(messages: object) -> list[dict[str, str]]:
    """Return the turns, the last one a user's.

    Raises:
        FieldError: messages that are no conversation, or hold more than text.
    """
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST:
        raise FieldError("messages", f"got {_count(messages)}, expected 1 to {MOST} in a list")
    turns: list[dict[str, str]] = []
    calls: dict[object, str] = {}  # id of a call -> the tool's name
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        role = _role(message, place)
        text = _text(message, place, calls)
        if turns and turns[-1]["role"] == ROLES[role]:
            turns[-1]["content"] += f"\n\n{text}"
        else:
            turns.append({"role": ROLES[role], "content": text})
    if turns[-1]["role"] != "user":
        raise FieldError(place, f"got {role} as the last role, expected user or tool")
    if not turns[-1]["content"].strip():
        raise FieldError(place, "got no text, expected the user's question")
    return turns


def _count(messages: object) -> str:
    long = isinstance(messages, list) and messages
    return f"{len(messages)} messages" if long else shown(messages)


def _role(message: object, place: str) -> str:
    if not isinstance(message, dict):
        raise FieldError(place, f"got {shown(message)}, expected an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        expected = f"one of {', '.join(ROLES)}"
        raise FieldError(f"{place}.role", f"got {shown(role)}, expected {expected}")
    return role


def _text(message: Mapping[str, Any], place: str, calls: dict[object, str]) -> str:
    """Write a message as text; takes down the calls that it makes."""
    role, content = message["role"], message.get("content")
    if message.get("audio") is not None:
        raise FieldError(f"{place}.audio", "got sound, expected content: the model reads text")
    if content is None:
        if role != "assistant":
            problem = "got null, expected a text or a list of text parts"
            raise FieldError(f"{place}.content", problem)
        content = message.get("refusal") or ""
    lines = [text] if (text := _content(content, f"{place}.content")) else []
    if role == "assistant":
        lines += _calls(message, place, calls)
    if role in ("tool", "function"):
        name = message.get("name") or calls.get(str(message.get("tool_call_id")))
        lines = [f"Result of {name}: {text}" if isinstance(name, str) else f"Result: {text}"]
    return encodable("\n".join(lines), place)


def _content(content: object, place: str) -> str:
    """Join the parts of a message's content."""
    if isinstance(content, str):
        return encodable(content, place)
    if not isinstance(content, list):
        raise FieldError(place, f"got {shown(content)}, expected a text or a list of text parts")
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        # `refusal`: what the assistant wrote instead of an answer.
        text = part.get(kind) if kind in ("text", "refusal") else None
        if not isinstance(text, str):
            expected = 'a part {"type": "text", "text": ...}: the model reads text alone'
            raise FieldError(f"{place}[{number}]", f"got {shown(part)}, expected {expected}")
        texts.append(encodable(text, f"{place}[{number}]"))
    return "\n".join(texts)


def _calls(message: Mapping[str, Any], place: str, calls: dict[object, str]) -> list[str]:
    """Write the calls of an assistant's message, one a line: `name(arguments)`."""
    items = [("tool_calls", call) for call in _list(message, "tool_calls", place)]
    if (legacy := message.get("function_call")) is not None:
        items.append(("function_call", {"function": legacy}))
    lines = []
    for field, call in items:
        kind = "custom" if isinstance(call, dict) and call.get("type") == "custom" else "function"
        function = call.get(kind) if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str):
            raise FieldError(f"{place}.{field}", "got a call without a name, expected one")
        arguments = function.get("input" if kind == "custom" else "arguments") or ""
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        calls[str(call.get("id"))] = name
        lines.append(f"{name}({written})")
    return lines


def _list(message: Mapping[str, Any], name: str, place: str) -> list[Any]:
    value = message.get(name)
    if value is not None and not isinstance(value, list):
        raise FieldError(f"{place}.{name}", f"got {shown(value)}, expected a list")
    return value or []
