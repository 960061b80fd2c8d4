"""Conversations: OpenAI's messages become turns of text, or one sentence says why not."""

from __future__ import annotations

import pytest

from prag_core.server.conversations import read_conversation
from prag_core.server.fields import FieldError

USER = {"role": "user", "content": "Is it warm in Oss?"}
CALL = {
    "id": "c",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"at": "Oss"}'},
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def test_calls_and_their_results_are_text():
    asked = {"role": "assistant", "content": None, "tool_calls": [CALL], "audio": None}
    told = {"role": "tool", "tool_call_id": "c", "content": "21 degrees"}
    turns = read_conversation([{"role": "developer", "content": "Be brief."}, USER, asked, told])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[2]["content"] == 'weather({"at": "Oss"})'
    assert turns[3]["content"] == "Result of weather: 21 degrees"
    asked = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    old = read_conversation([USER, asked, {"role": "function", "name": "weather", "content": "21"}])
    assert old[1:] == [turns[2], {"role": "user", "content": "Result of weather: 21"}]


def test_parts_are_joined_and_turns_of_one_role_too():
    parts = [{"type": "text", "text": "Where?"}, {"type": "text", "text": "When?"}]
    assert read_conversation([{"role": "user", "name": "Bo", "content": parts}, USER]) == [
        {"role": "user", "content": "Where?\nWhen?\n\nIs it warm in Oss?"}
    ]
    refused = {"role": "assistant", "content": None, "refusal": "No.", "annotations": []}
    assert read_conversation([USER, refused, USER])[1]["content"] == "No."


@pytest.mark.parametrize(
    ("message", "param", "text"),
    [
        ({"role": "user", "content": [IMAGE]}, "messages[0].content[0]", "type image_url"),
        ({"role": "user", "content": None}, "messages[0].content", "got null"),
        ({"role": "user", "content": 5}, "messages[0].content", "got 5"),
        ({"role": "user", "content": " "}, "messages[0]", "got no text"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content", "surrogate"),
        ({"role": "bot", "content": "a"}, "messages[0].role", 'got "bot"'),
        ({"role": "assistant", "content": "a"}, "messages[0]", "got assistant as the last"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio", "got sound"),
        ({"role": "assistant", "tool_calls": [5]}, "messages[0].tool_calls", "without a name"),
        ("a", "messages[0]", 'got "a"'),
    ],
)
def test_what_is_no_conversation(message, param, text):
    with pytest.raises(FieldError) as raised:
        read_conversation([message])
    assert raised.value.param == param and text in str(raised.value)
