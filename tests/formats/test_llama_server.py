"""GGUF files in a real llama-server: its greedy text is ours, adapter by adapter and mixed."""

from __future__ import annotations

from contextlib import contextmanager

import httpx
import pytest
import torch
import xllamacpp

from hypernet.generation.parametrizer import HypernetParametrizer
from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.merge import merge
from prag_core.corpus.question_sets import demo_question_set
from prag_core.formats.gguf_file import to_gguf
from prag_core.model.attach import attached
from prag_core.model.base_model import load_base_model
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prompts import chat, prompt_ids, question_prompt
from tests.fixtures.tiny import random_adapter
from tests.fixtures.tiny_gguf import write_gguf

TOKENS = 8
GREEDY = GenerationOptions(TOKENS, stop=())


@contextmanager
def llama_server(model, adapters):
    """A llama-server that computes in float32; its adapters weigh nothing but by request."""
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx, params.n_parallel = str(model), 0, 512, 1
    params.warmup, params.verbosity = False, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(path), 0.0) for path in adapters]
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=60) as http:
        yield http


def complete(http, base, prompt: str, scales, **options) -> dict:
    """Ask with every id listed: those that a request leaves out keep what they had."""
    body = {
        "prompt": prompt_ids(base.tokenizer, prompt), "temperature": 0, "return_tokens": True,
        "lora": [{"id": number, "scale": scale} for number, scale in enumerate(scales)],
    }  # fmt: skip
    return http.post("/completion", json=body | options).raise_for_status().json()


def merged(adapters, scales, method: str = "auto"):
    pairs = [(x, scale) for x, scale in zip(adapters, scales, strict=True) if scale]
    return merge(*zip(*pairs, strict=True), method) if pairs else None


def test_mixes_are_our_merge_in_every_family(tmp_path, family_base):
    """By probabilities: llama.cpp's GELU is a table, and random models have ties."""
    base, spec = family_base, AdapterSpec(family_base.fingerprint, 3, 12, layers=(0, 1))
    adapters = [random_adapter(spec, base, seed) for seed in (1, 2)]
    files = [to_gguf(x, tmp_path / f"{i}.gguf", base.model.config.model_type)
             for i, x in enumerate(adapters)]  # fmt: skip
    prompt, firsts = chat(base.tokenizer, "Where is Ada?"), []
    ids = torch.tensor([prompt_ids(base.tokenizer, prompt)])
    # Whatever is likeliest: half a character would come without probabilities.
    options = {"n_predict": 1, "n_probs": 8, "logit_bias": [["A", 1000]]}
    with llama_server(write_gguf(base, tmp_path / "base.gguf"), files) as http:
        for scales in ([0, 0], [1, 0], [0, 1], [1, 1], [1, 0.5]):
            reply = complete(http, base, prompt, scales, **options)
            top = reply["completion_probabilities"][0]["top_logprobs"]
            with torch.no_grad(), attached(base, [merged(adapters, scales)]):
                expected = base.model(ids).logits[0, -1].log_softmax(-1)
            expected = expected[[entry["id"] for entry in top]]
            found = torch.tensor([entry["logprob"] for entry in top])
            torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
            firsts.append(expected)
    distances = [(x - y).abs().max() for i, x in enumerate(firsts) for y in firsts[:i]]
    assert min(distances) > 0.1  # the mixes differ by more than the tolerance


@pytest.mark.slow
def test_ridge_memories_answer_one_by_one_and_merged_by_us(tmp_path):
    """What llama.cpp adds up is not solved together: it gets the merge as a file of its own."""
    base, questions = load_base_model(dtype="float32"), demo_question_set()
    documents = questions.documents[:2]
    parametrizer = HypernetParametrizer.from_pretrained("smollm2-135m-ridge", base)
    adapters = parametrizer.parametrize(documents)
    everything = [*adapters, merge(adapters)]
    files = [to_gguf(x, tmp_path / f"{i}.gguf", "llama") for i, x in enumerate(everything)]
    ids = [document.id for document in documents]
    asked = {q.gold_ids[0]: q.question for q in questions.questions if q.gold_ids[0] in ids}
    prompts = [question_prompt(base.tokenizer, question) for question in asked.values()]
    texts = []
    with llama_server(write_gguf(base, tmp_path / "base.gguf"), files) as http:
        for scales, method in (
            ([0, 0, 0], "auto"), ([1, 0, 0], "auto"), ([0, 1, 0], "auto"), ([0, 0, 1], "auto"),
            ([1, 1, 0], "concatenate"), ([1, 0.5, 0], "concatenate"),
        ):  # fmt: skip
            tokens = [complete(http, base, p, scales, n_predict=TOKENS)["tokens"] for p in prompts]
            texts.append([text.strip() for text in base.tokenizer.batch_decode(tokens, True)])
            adapter = merged(everything, scales, method)
            assert texts[-1] == generate(base, prompts, adapter, GREEDY)
    plain, first, second, joint, added, _ = texts
    assert len({*map(tuple, (plain, first, second))}) == 3 and joint != added
