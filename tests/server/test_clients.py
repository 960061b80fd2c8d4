"""Other projects' clients against a real server; each skips where it is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest

from tests.fixtures.services import documents, running_server

QUESTION = "What is P1?"


@pytest.fixture
def server(tiny_base, tmp_path):
    with running_server(tiny_base, tmp_path / "store") as (address, service):
        service.add(documents(2))
        yield address


def direct(address: str, **fields) -> str:
    """What the server answers to a plain request."""
    body = {"messages": [{"role": "user", "content": QUESTION}], **fields}
    reply = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60).json()
    return reply["choices"][0]["message"]["content"]


def test_langchain(server):
    langchain = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    model = langchain.ChatOpenAI(
        base_url=f"{server}/v1", api_key="none", model="tiny", temperature=0,
        extra_body={"mode": "combine"},
    )  # fmt: skip
    expected = direct(server, mode="combine")
    assert model.invoke(QUESTION).content == expected
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == expected


def test_llama_index(server):
    like = pytest.importorskip(
        "llama_index.llms.openai_like", reason="needs llama-index-llms-openai-like"
    )
    model = like.OpenAILike(
        api_base=f"{server}/v1", api_key="none", model="tiny", is_chat_model=True, temperature=0,
        max_tokens=64,
    )  # fmt: skip
    expected = direct(server)
    assert str(model.complete(QUESTION)) == expected
    assert [piece.text for piece in model.stream_complete(QUESTION)][-1] == expected


def test_lm_evaluation_harness(server, tmp_path):
    pytest.importorskip("lm_eval", reason="needs lm-eval[api]")
    rows = [{"question": f"What is P{i}?", "answer": f"{i}"} for i in range(2)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines)
    (tmp_path / "task.yaml").write_text(
        "task: own\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 8}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    url = f"{server}/v1/completions"
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--tasks", "own",
        "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--model_args",
        f"model=tiny,base_url={url},tokenized_requests=False,tokenizer_backend=None",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exact_match" in done.stdout
