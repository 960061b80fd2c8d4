"""Benchmark of vLLM: adapters by name beside the passages in the prompt, a real server each.

Ours has the plugin and a store of generated adapters. The baseline is the same vLLM without
adapters, which keeps the prefixes of prompts: a passage that comes again is not read again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from prag_core.adapters.store import AdapterStore
from prag_core.corpus.question_sets import demo_question_set
from prag_core.formats.merge_name import MergeName
from prag_core.model.base_model import model_source
from prag_core.model.prompts import prompt_ids, question_prompt
from prag_core.pipeline.rag import assemble
from prag_core.pipeline.setup import Setup
from prag_core.speed.measurement import Measurement, compared
from prag_core.speed.servers import free_port, running
from prag_core.speed.workload import workload_documents

RANK, MOST_RANK = 8, 64  # on average over modules, and of a module: three documents fit
TOKENS = 16  # of every answer: none ends before
CLIENTS = (1, 8)
STARTS_WITHIN = 1800  # seconds: a first start compiles
LENGTH = 1536  # tokens of a prompt and its answer


@dataclass(frozen=True)
class Asked:
    """What one server is asked: the first question about every document, and the others."""

    first: Sequence[Mapping]
    others: Sequence[Mapping]


def measure_vllm(
    python: str, base_model: str, hypernet: str, folder: Path, quick: bool
) -> list[Measurement]:
    """Ask both servers the demo's questions with one and with three documents.

    Args:
        python: interpreter of the environment that has vLLM and this package.
        base_model: of both; in the catalogue, or a folder.
        hypernet: checkpoint that makes the adapters.
        folder: for the store and the servers' logs.
        quick: fewer questions.
    """
    bodies = _bodies(base_model, hypernet, folder / "store", quick)
    model = str(model_source(base_model))
    ours, theirs = {}, {}
    lora = ["--enable-lora", f"--max-lora-rank={MOST_RANK}", "--max-loras=12",
            "--max-cpu-loras=24", "--lora-target-modules=down_proj"]  # fmt: skip
    plugin = {"PRAG_VLLM_STORE": str(folder / "store"), "PRAG_VLLM_MAX_RANK": str(MOST_RANK)}
    for results, side, flags, settings in (
        (ours, 0, lora, plugin),
        (theirs, 1, ["--enable-prefix-caching"], {}),
    ):
        with vllm_server(python, model, folder / f"vllm{side}.log", flags, settings) as http:
            for k, sides in bodies.items():
                http.post("/reset_prefix_cache").raise_for_status()  # three begin as one did
                results[k] = ask_all(http, sides[side])
    return [row for k in bodies for row in _rows(k, ours[k], theirs[k])]


def _bodies(
    base_model: str, hypernet: str, store: Path, quick: bool
) -> dict[int, tuple[Asked, Asked]]:
    """Make the adapters; return for k = 1 and 3 what ours and the baseline are asked."""
    demo, documents = demo_question_set(), workload_documents()
    places = {document.id: place for place, document in enumerate(documents)}
    setup = Setup(base_model=base_model, hypernet=hypernet, hypernet_rank=RANK, path="generated")
    with AdapterStore(store) as opened:
        rag = assemble(setup, opened, documents).add_documents(documents)
        keys = {row.document: row.key for row in opened.rows()}
    tokenizer = rag.base.tokenizer
    bodies = {}
    for k in (1, 3):
        ours, theirs, seen = Asked([], []), Asked([], []), set()
        for question in demo.questions[: 6 if quick else None]:
            gold = question.gold_ids[0]
            shown = [documents[(places[gold] + step) % len(documents)] for step in range(k)]
            name = MergeName(tuple(keys[d.id] for d in shown), (1.0,) * k)
            for asked, model, passages in ((ours, str(name), ()), (theirs, "", shown)):
                prompt = question_prompt(tokenizer, question.question, passages)
                body = {"model": model, "prompt": prompt_ids(tokenizer, prompt)}
                (asked.others if gold in seen else asked.first).append(body)
            seen.add(gold)
        bodies[k] = ours, theirs
    return bodies


def ask_all(http: httpx.Client, asked: Asked) -> dict[str, float]:
    """Ask a server everything; returns medians of seconds to the first token, and rates.

    Returns:
        `new`: seconds to the first token where a document was not asked about before; `known`:
        where it was; `rate N`: answers a second of N clients that ask about known documents.
    """
    model = next(
        x["id"] for x in http.get("/v1/models").raise_for_status().json()["data"]
        if not x.get("parent")
    )  # fmt: skip

    def ask(body: Mapping) -> float:
        body = {**body, "model": body["model"] or model, "max_tokens": TOKENS, "temperature": 0,
                "ignore_eos": True, "stream": True, "stop_token_ids": []}  # fmt: skip
        began, first = time.perf_counter(), 0.0
        with http.stream("POST", "/v1/completions", json=body) as reply:
            if reply.status_code != 200:
                raise RuntimeError(f"got {reply.status_code} from vLLM: {reply.read()[:300]!r}")
            for line in reply.iter_lines():
                if not first and line.startswith("data: {"):
                    first = time.perf_counter() - began
        return first

    results = {"new": median(map(ask, asked.first))}
    for clients in CLIENTS:
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            firsts = list(pool.map(ask, asked.others))
        results[f"rate {clients}"] = len(firsts) / (time.perf_counter() - began)
        if clients == 1:
            results["known"] = median(firsts)
    return results


def _rows(k: int, ours: Mapping, theirs: Mapping) -> Iterator[Measurement]:
    documents = "1 document" if k == 1 else f"{k} documents"
    for kind in ("new", "known"):
        name = f"{documents}, {kind}: first token, adapter / passage in the prompt"
        yield compared(name, ours[kind] * 1000, theirs[kind] * 1000, "ms", note=NOTES[kind])
    for clients in CLIENTS:
        name = f"{documents}, known: {clients} clients, adapter / passage in the prompt"
        rates = ours[f"rate {clients}"], theirs[f"rate {clients}"]
        again = "" if clients == 1 else "; the same prompts again"
        yield compared(name, *rates, "answers/s", note=f"{TOKENS} tokens each{again}")


NOTES = {
    "new": "merge, its folder and vLLM's loading included",
    "known": "merge loaded; passages in vLLM's prefix cache",
}


@contextmanager
def vllm_server(
    python: str, model: str, log: Path, flags: Sequence[str], settings: Mapping[str, str],
    dtype: str = "bfloat16",
) -> Iterator[httpx.Client]:  # fmt: skip
    """Run a real vLLM; gives a client.

    Raises:
        RuntimeError: it did not start; with the end of its log.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", f"--model={model}",
        f"--port={port}", f"--dtype={dtype}", f"--max-model-len={LENGTH}",
        "--max-num-seqs=8", "--enforce-eager", *flags,
    ]  # fmt: skip
    settings = {
        "VLLM_PLUGINS": "prag", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_SERVER_DEV_MODE": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1", "PRAG_VLLM_URL": url, **settings,
    }  # fmt: skip
    with (
        httpx.Client(base_url=url, timeout=STARTS_WITHIN, trust_env=False) as http,
        running(command, log, lambda: _healthy(http), STARTS_WITHIN, settings),
    ):
        yield http


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False
