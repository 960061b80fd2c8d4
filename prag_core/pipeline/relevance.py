"""Relevance: questions and adapters go in, how much each memory answers to a question comes out.

A ridge memory addresses its document's tokens by what the base model computes at them, so it can
tell by itself whether a question is about its document, at the cost of the layers up to the first
adapted one. A document that is not meant is then left out, as if it had not been retrieved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prag_core.adapters.adapter import Adapter
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel, ffn_linears, start_token
from prag_core.model.padding import pad
from prag_core.retrieval.retriever import Hit

BATCH = 32  # questions read together


@torch.no_grad()
def question_keys(base: BaseModel, questions: Sequence[str], layer: int) -> list[Tensor]:
    """Return the inputs of down_proj in one layer at every question's tokens, (T, I) each.

    A question is read by itself, behind a start token that does not count; later layers do not run.
    """
    start, padding = start_token(base.tokenizer), base.tokenizer.pad_token_id or 0
    rows = [[start, *ids] for ids in text_ids(base.tokenizer, questions)]
    (linear,) = ffn_linears(base.model, ("down_proj",), [layer]).values()
    keys: list[Tensor] = []
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        ids, _ = pad(batch, padding)  # (N, T)
        found = _inputs(base, linear, ids.to(base.device))  # (N, T, I)
        keys += [found[index, 1 : len(row)] for index, row in enumerate(batch)]
    return keys


def relevance(adapter: Adapter, keys: Tensor) -> float | None:
    """Return the mean over a question's tokens of the memory's strongest response, max_t (A k)_t.

    None where rows are not tokens' addresses: trained adapters, those of a smaller rank, and long
    documents whose rows were multiplied out.

    Args:
        adapter: adapter of a document.
        keys: (T, I), of its first layer (see `question_keys`).
    """
    if adapter.memory is None or not len(keys):
        return None
    (own, _), _ = adapter.split(adapter.spec.paths()[0])
    own = own.float()  # (R, I)
    return (keys.to(own) @ own.mT).amax(-1).mean().item()  # (T, R) -> (T,) -> a number


def is_meant(adapter: Adapter, keys: Tensor, least: float) -> bool:
    """Tell whether a question of these keys is about the adapter's document, or that is unknown."""
    score = relevance(adapter, keys)
    return score is None or score >= least


def relevant_hits(
    base: BaseModel,
    questions: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    adapters: Mapping[str, Adapter],
    least: float,
) -> list[list[Hit]]:
    """Return every question's documents without those whose adapter responds to it less.

    Args:
        base: base model.
        questions: plain questions.
        hits: documents of every question.
        adapters: of these documents, by document id.
        least: `relevance` that a document needs; one that has none is kept.
    """
    layers = {adapter.spec.layers[0] for adapter in adapters.values()}
    keys = {layer: question_keys(base, questions, layer) for layer in layers}

    def meant(number: int, adapter: Adapter) -> bool:
        return is_meant(adapter, keys[adapter.spec.layers[0]][number], least)

    return [
        [hit for hit in row if meant(number, adapters[hit.document_id])]
        for number, row in enumerate(hits)
    ]


class _ReadError(Exception):
    """Ends a pass of the base model where the keys are read."""


def _inputs(base: BaseModel, linear: nn.Linear, ids: Tensor) -> Tensor:
    """Return a linear layer's inputs (N, T, I); causal attention needs no mask for padding."""
    kept = []

    def keep(module: nn.Module, inputs: tuple[Tensor]) -> None:
        kept.append(inputs[0])
        raise _ReadError

    handle = linear.register_forward_pre_hook(keep)
    try:
        base.model.get_submodule("model")(input_ids=ids, use_cache=False)
    except _ReadError:
        pass
    finally:
        handle.remove()
    return kept[0]
