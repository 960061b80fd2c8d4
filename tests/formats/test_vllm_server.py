"""The plugin in a real vLLM, in float32: its tokens have our probabilities (`make test-vllm`)."""

from __future__ import annotations

import os
from dataclasses import replace
from queue import Queue
from types import SimpleNamespace

import pytest
import torch

from hypernet.generation.parametrizer import HypernetParametrizer
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.question_sets import demo_question_set
from prag_core.formats.merge_name import MergeName, named_adapter
from prag_core.model.attach import attached
from prag_core.model.base_model import load_base_model
from prag_core.model.decoding_rows import Row
from prag_core.model.generate import generate
from prag_core.model.gguf_weights import embedded_model_folder
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import prompt_ids, question_prompt
from prag_core.server.vllm_engine import VllmEngine
from prag_core.speed.vllm import vllm_server

PYTHON = os.environ.get("PRAG_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not PYTHON, reason="needs vLLM in an environment of its own: make test-vllm"
    ),
]
TOKENS = 12
CLOSE = 0.01  # of log probabilities
QUESTIONS = 27  # each asked without adapter, with its document's, and with two documents'
BASES = ("smollm2-135m", "qwen2.5-coder-0.5b")


def vllm(model, store, log, **settings):
    """A real server; gives a client."""
    flags = ["--enable-lora", "--max-lora-rank=320", "--max-loras=2", "--max-cpu-loras=2",
             "--lora-target-modules=down_proj"]  # fmt: skip
    settings = {"PRAG_VLLM_STORE": str(store), "PRAG_VLLM_MAX_RANK": "320", **settings}
    return vllm_server(PYTHON, str(model), log, flags, settings, dtype="float32")


@pytest.fixture(scope="module", params=BASES)
def served(request, tmp_path_factory):
    """Questions about the demo's documents, a store with these, and a vLLM on both."""
    folder, questions = tmp_path_factory.mktemp("vllm"), demo_question_set()
    base = load_base_model(request.param, dtype="float32", device="cpu")
    parametrizer = HypernetParametrizer.from_pretrained(f"{request.param}-ridge", base)
    with AdapterStore(folder / "store") as store:
        for document in questions.documents:
            store.put(document.id, *parametrizer.parametrize([document]))
        asked = questions.questions[:QUESTIONS]
        with vllm(embedded_model_folder(request.param), store.path, folder / "log") as http:
            yield SimpleNamespace(base=base, store=store, http=http, asked=asked, folder=folder)


def complete(http, model: str, prompts):
    body = {"model": model, "prompt": prompts, "max_tokens": TOKENS, "temperature": 0,
            "logprobs": 1, "return_token_ids": True}  # fmt: skip
    return http.post("/v1/completions", json=body)


@torch.no_grad()
def our_log_probabilities(base, prompt, tokens, adapter):
    """Return the log probability of every token, and of the likeliest in its place."""
    ids = torch.tensor([[*prompt, *tokens]])
    with attached(base, [adapter]):
        logits = base.model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)  # (T, V)
    return logits.gather(1, torch.tensor(tokens)[:, None])[:, 0], logits.amax(-1)  # (T,), (T,)


def test_tokens_of_single_and_merged_documents_have_our_probabilities(served):
    """One request at a time: beside adapters' rows, vLLM on a CPU computes the base's wrongly.

    Their slot has the index -1, which picks the last one's adapter (0.32, torch_ops/lora_ops.py).
    """
    base, store, ids = served.base, served.store, sorted(served.store.keys())
    model = served.http.get("/v1/models").json()["data"][0]["id"]
    texts, worst, compared = {"base": [], "single": [], "merged": []}, 0.0, 0
    for question in served.asked:
        (gold,) = question.gold_ids
        other = ids[(ids.index(gold) + 1) % len(ids)]
        prompt = prompt_ids(base.tokenizer, question_prompt(base.tokenizer, question.question))
        for kind, name in (
            ("base", None),
            ("single", MergeName((gold,), (1.0,))),
            ("merged", MergeName((gold, other), (1.0, 0.5))),
        ):
            reply = complete(served.http, str(name or model), prompt)
            assert reply.status_code == 200, reply.text
            (choice,) = reply.json()["choices"]
            texts[kind].append(choice["text"])
            adapter = named_adapter(store, str(name)) if name else None
            tokens, theirs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            ours, most = our_log_probabilities(base, prompt, tokens, adapter)
            worst = max(worst, (torch.tensor(theirs) - ours).abs().max().item())
            # What vLLM took is our greedy choice too, or as likely.
            assert (most - ours).max() <= 2 * CLOSE, (question, kind, choice, ours, most)
            compared += len(tokens)
    assert worst <= CLOSE
    count = len(served.asked)
    differ = sum(x != y for x, y in zip(texts["base"], texts["single"], strict=True))
    assert differ >= 0.9 * count
    moved = sum(x != y for x, y in zip(texts["single"], texts["merged"], strict=True))
    print(f"{base.name}: {compared} tokens of {3 * count} answers, log probabilities at most "
          f"{worst:.2g} apart; {differ} of {count} texts differ with the document's adapter, "
          f"{moved} with a second one")  # fmt: skip


def test_what_is_not_there_or_too_large_is_said(served):
    reply = complete(served.http, "prag:nothing", [1, 2, 3])
    assert reply.status_code == 404 and "`prag:nothing` does not exist" in reply.text
    everything = "prag:" + "+".join(served.store.keys())  # twelve documents
    reply = complete(served.http, everything, [1, 2, 3])
    assert reply.status_code == 400 and "expected at most 320" in reply.text
    reply = complete(served.http, "prag:a+", [1, 2, 3])
    assert reply.status_code == 400 and "expected KEY" in reply.text


def test_the_servers_engine_streams_our_texts(served):
    base, options = served.base, GenerationOptions(TOKENS)
    engine, different = VllmEngine(str(served.http.base_url)), []
    for question in served.asked[:6]:
        (gold,) = question.gold_ids
        prompt, adapter = question_prompt(base.tokenizer, question.question), served.store.get(gold)
        keyed = replace(adapter, metadata={**adapter.metadata, "key": gold})
        row, pieces = Row(base, prompt, engine.merge([keyed], [1.0], "auto"), options), Queue()
        engine.submit(lambda row=row: row, lambda *event, q=pieces: q.put(event), 600)
        text = ""
        while not row.finish or not pieces.empty():
            piece, error = pieces.get(timeout=600)
            assert error is None
            text += piece
        expected = generate(base, [prompt], adapter, options)[0]
        different += [] if text.strip() == expected else [(text, expected)]
    engine.close(60)
    assert different == []


def test_adapters_that_left_come_back(served, tmp_path):
    """With room for one folder, of adapters that vLLM itself has no room for either."""
    keys = sorted(served.store.keys())[:4]
    model = embedded_model_folder(served.base.name)
    prompt = prompt_ids(served.base.tokenizer, "What is it?")
    with vllm(model, served.store.path, tmp_path / "log", PRAG_VLLM_BYTES="1") as http:
        before = [complete(http, f"prag:{key}", prompt).json()["choices"] for key in keys]
        assert len(http.get("/v1/models").json()["data"]) == 2  # the base, and the newest
        after = [complete(http, f"prag:{key}", prompt).json()["choices"] for key in keys]
    assert [c[0]["text"] for c in before] == [c[0]["text"] for c in after]
