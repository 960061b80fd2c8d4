"""Prefixes: prompts that go on from kept keys and values are answered as whole ones are."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace

import pytest
import torch

from prag_core.model.decoding import DecodingBatch
from prag_core.model.decoding_rows import Row
from prag_core.model.generate import generate
from prag_core.model.prefix import Prefix, prefix_cache, read_prefix
from prag_core.model.prompts import prompt_ids
from tests.fixtures.decoding import GREEDY
from tests.fixtures.tiny import family_model, random_adapter

HEAD = "The mill of Oss stands still in May. "
# Of several lengths, so that rows are padded before the prefix and between it and the question.
PROMPTS = [HEAD + "Who?", HEAD + "When does the mill of Oss stand still, and for how long?"]
OTHER = "The river Elm flows through Tarn and Oss to the sea. Where?"


def prefix_of(base, text: str) -> Prefix:
    return read_prefix(base, prompt_ids(base.tokenizer, text))


def answer_elsewhere(family: str, path, answers) -> None:
    """Answer in another process, which has the file alone."""
    base, prefix = family_model(family), Prefix.load(path)
    answers.put(generate(base, PROMPTS, None, GREEDY, [prefix] * 2))


def test_answers_of_another_process_equal_those_of_whole_prompts(family_base, tmp_path):
    path = tmp_path / "prefix.safetensors"
    prefix_of(family_base, HEAD).save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    (tmp_path / "other").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    whole = generate(family_base, PROMPTS, None, GREEDY)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(
        target=answer_elsewhere, args=(family_base.name, path, answers), daemon=True
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0 and answers.get() == whole


def test_logits_behind_a_prefix_are_those_of_the_whole_prompt(family_base):
    prefix = prefix_of(family_base, HEAD)
    ids = torch.tensor([prompt_ids(family_base.tokenizer, PROMPTS[1])])  # (1, T)
    for start in (len(HEAD), len(HEAD) // 2):
        cache, past = prefix_cache(family_base, [prefix], [start])
        assert past.tolist() == [[1] * start]
        with torch.no_grad():
            whole = family_base.model(input_ids=ids).logits[:, start:]
            rest = family_base.model(input_ids=ids[:, start:], past_key_values=cache).logits
        torch.testing.assert_close(rest, whole, rtol=1e-4, atol=1e-4)


def test_rows_with_and_without_prefix_share_a_batch(tiny_base, tiny_spec):
    long, short = prefix_of(tiny_base, OTHER[:40]), prefix_of(tiny_base, HEAD)
    prompts = [*PROMPTS, OTHER, "Who?"]
    adapters = [None, random_adapter(tiny_spec, tiny_base), None, None]
    # An adapter is attached behind the prefix only: that row is compared with one of its own kind.
    alone = [
        generate(tiny_base, [prompt], [adapter], GREEDY, [prefix])[0]
        for prompt, adapter, prefix in zip(
            prompts, adapters, (short, short, long, None), strict=True
        )
    ]
    together = generate(tiny_base, prompts, adapters, GREEDY, [short, short, long, None])
    assert together == alone
    assert [together[i] for i in (0, 2, 3)] == [
        generate(tiny_base, [prompts[i]], None, GREEDY)[0] for i in (0, 2, 3)
    ]


def test_rows_join_and_leave_a_batch_that_has_prefixes(tiny_base):
    batch, prefix = DecodingBatch(tiny_base), prefix_of(tiny_base, HEAD)
    rows = [
        Row(tiny_base, prompt, None, replace(GREEDY, max_new_tokens=n), known)
        for prompt, n, known in ((OTHER, 3, None), (PROMPTS[0], 9, prefix), (PROMPTS[1], 6, prefix))
    ]
    pieces = [batch.join(rows[:2]), batch.step(), batch.join(rows[2:])]
    while batch.rows:
        pieces.append(batch.step())
    for row, prompt in zip(rows, (OTHER, *PROMPTS), strict=True):
        text = "".join(piece for step in pieces for other, piece in step if other is row)
        assert [text.strip()] == generate(tiny_base, [prompt], None, row.options)


def test_only_what_a_prompt_shares_with_it_is_used(tiny_base):
    prefix = prefix_of(tiny_base, HEAD + "Wh")
    for prompt, start in (
        (PROMPTS[0], len(HEAD) + 2),
        (HEAD + "Where?", len(HEAD) + 2),
        (HEAD + "How?", len(HEAD)),
        (HEAD + "Wh", len(HEAD) + 1),  # the last token is read again
        (OTHER, 4),
    ):
        assert Row(tiny_base, prompt, None, GREEDY, prefix).start == start
        answers = generate(tiny_base, [prompt], None, GREEDY, [prefix])
        assert answers == generate(tiny_base, [prompt], None, GREEDY)


def test_wrong_keys_give_another_answer(tiny_base):
    """What the cache holds is what is read: the equalities above do not come of themselves."""
    prefix = prefix_of(tiny_base, HEAD)
    strange = replace(prefix, states=tuple((-k, v.flip(1)) for k, v in prefix.states))
    assert generate(tiny_base, PROMPTS, None, GREEDY, [strange] * 2) != generate(
        tiny_base, PROMPTS, None, GREEDY
    )


def test_files_hold_the_models_dtype(tiny_base, tmp_path):
    prefix = prefix_of(tiny_base, HEAD)
    halved = replace(prefix, states=tuple((k.bfloat16(), v.bfloat16()) for k, v in prefix.states))
    for kept, size in ((prefix, 4), (halved, 2)):
        kept.save(tmp_path / "p")
        loaded = Prefix.load(tmp_path / "p")
        # 2 layers, keys and values, 2 heads of 8
        assert loaded.nbytes == kept.nbytes == 2 * 2 * 2 * 8 * len(HEAD) * size
        assert loaded.ids == kept.ids
        for pair, other in zip(loaded.states, kept.states, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(pair, other, strict=True))
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"that is damaged .* delete it"):
        Prefix.load(tmp_path / "p")
