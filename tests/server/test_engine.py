"""Engine: rows from many threads get their own text; other work runs between the steps."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from queue import Queue

import pytest
import torch

from prag_core.model.decoding_rows import Row
from prag_core.model.generate import generate
from prag_core.server.engine import AHEAD, ClosedError, Engine, QueueFullError
from tests.fixtures.decoding import GREEDY, PROMPTS
from tests.fixtures.services import hold

LONG = replace(GREEDY, max_new_tokens=300)


@pytest.fixture
def engine(tiny_base):
    made = Engine(tiny_base, max_rows=3, max_queue=4)
    yield made
    made.close(10)


class Listener:
    """Collects a row's pieces."""

    def __init__(self, engine, row, timeout: float = 60) -> None:
        self.row, self.events = row, Queue()
        self.ticket = engine.submit(
            lambda: row, lambda piece, error: self.events.put((piece, error, row.finish)), timeout
        )

    def text(self) -> str:
        text = ""
        while True:
            piece, error, finish = self.events.get(timeout=60)
            if error:
                raise error
            text += piece
            if finish:
                return text.strip()


def ask(engine, base, prompt, adapter=None, options=GREEDY, **kwargs) -> Listener:
    return Listener(engine, Row(base, prompt, adapter, options), **kwargs)


def test_rows_of_many_threads_get_the_text_they_get_alone(tiny_base, adapters):
    engine, texts = Engine(tiny_base, max_rows=5), {}

    def client(number: int) -> None:
        prompt, adapter = PROMPTS[number % 4], adapters[number % 3]
        options = replace(GREEDY, max_new_tokens=1 + number % 11)
        texts[number] = ask(engine, tiny_base, prompt, adapter, options).text()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close(10)
    for number, text in texts.items():
        options = replace(GREEDY, max_new_tokens=1 + number % 11)
        expected = generate(tiny_base, [PROMPTS[number % 4]], [adapters[number % 3]], options)
        assert [text] == expected
    assert len(texts) == 40


def test_others_use_the_model_while_it_decodes(engine, tiny_base, adapters):
    ids = torch.tensor([[5, 9, 7]])

    def logits():
        with torch.no_grad():
            return tiny_base.model(input_ids=ids).logits

    before = logits()
    answer = ask(engine, tiny_base, PROMPTS[0], adapters[0], LONG)
    answer.events.get(timeout=60)
    while not answer.row.finish:
        assert torch.equal(logits(), before)
    assert answer.row.adapter is None  # the batch had its own copy
    weights = zip(tiny_base.model.parameters(), engine.batch.base.model.parameters(), strict=True)
    assert all(ours is theirs for ours, theirs in weights)
    assert answer.text() == generate(tiny_base, [PROMPTS[0]], [adapters[0]], LONG)[0]


def test_rows_are_built_when_there_will_be_room(tiny_base):
    """A long queue holds no adapters, and what was given up is never built."""
    engine, built = Engine(tiny_base, max_rows=1, max_queue=256), []
    gate = hold(engine, tiny_base)

    def build() -> Row:
        built.append(Row(tiny_base, PROMPTS[1], None, GREEDY))
        return built[-1]

    done = Queue()
    tickets = [engine.submit(build, lambda *event: done.put(event), 60) for _ in range(200)]
    time.sleep(0.05)
    assert len(built) <= 1 + AHEAD
    for ticket in tickets[50:]:
        ticket.cancel()
    assert len(engine.waiting) == 50
    gate.set()
    engine.close(60)
    assert 50 <= len(built) <= 50 + AHEAD
    assert not engine.waiting


def test_failures_reach_who_asked_and_no_one_else(engine, tiny_base, adapters):
    def fail():
        raise MemoryError("no memory")

    foreign = replace(adapters[0], spec=replace(adapters[0].spec, base_model="other"))
    good = ask(engine, tiny_base, PROMPTS[0], adapters[0])
    with pytest.raises(ValueError, match="got an adapter of base model other"):
        ask(engine, tiny_base, PROMPTS[1], foreign).text()
    events = Queue()
    engine.submit(fail, lambda piece, error: events.put(error), 60)
    assert isinstance(events.get(timeout=60), MemoryError)
    assert good.text() == generate(tiny_base, [PROMPTS[0]], [adapters[0]], GREEDY)[0]


def test_full_queue_timeouts_and_cancellation(engine, tiny_base):
    gate = hold(engine, tiny_base)
    waiting = [ask(engine, tiny_base, PROMPTS[0]) for _ in range(3)]
    late = ask(engine, tiny_base, PROMPTS[0], timeout=0.0)
    with pytest.raises(QueueFullError, match="got 5 waiting requests, expected at most 4"):
        ask(engine, tiny_base, PROMPTS[0])
    waiting[0].ticket.cancel()
    gate.set()
    with pytest.raises(TimeoutError):
        late.text()
    texts = [listener.text() for listener in waiting[1:]]
    assert texts == generate(tiny_base, [PROMPTS[0]] * 2, None, GREEDY)


def test_a_row_is_given_up_while_it_is_decoded(engine, tiny_base):
    first = ask(engine, tiny_base, PROMPTS[0], options=LONG)
    first.events.get(timeout=60)  # it is built
    piece, _, _ = first.events.get(timeout=60)
    first.ticket.cancel()
    assert ask(engine, tiny_base, PROMPTS[1]).text()
    assert first.row.tokens < 300 or first.row.finish
    assert not engine.batch.rows
    assert piece


def test_closing_answers_what_is_there_and_takes_nothing_more(engine, tiny_base):
    answers = [ask(engine, tiny_base, prompt) for prompt in PROMPTS]
    engine.close(30)
    assert [a.text() for a in answers] == generate(tiny_base, PROMPTS, None, GREEDY)
    assert not engine.alive
    with pytest.raises(ClosedError):
        ask(engine, tiny_base, PROMPTS[0])
