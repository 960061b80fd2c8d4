"""Relevance: questions and adapters go in, how much each memory answers to a question comes out.

A ridge memory addresses its document's tokens by what the base model computes at them, so it can
tell by itself whether a question is about its document, and about which of its sentences, at the
cost of the first layers. A document that is not meant is then left out, as if it had not been
retrieved; sentences that are not meant are weighed down.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress

import torch
from torch import Tensor, nn

from prag_core.adapters.adapter import Adapter
from prag_core.adapters.merge import weigh_rows
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel, ffn_linears, start_token
from prag_core.model.padding import pad
from prag_core.retrieval.retriever import Hit

BATCH = 32  # questions read together
LOOKING_LAYERS = 3  # adapted layers, from the first: deeper ones find a question's sentence less
Keys = dict[int, Tensor]  # by layer: inputs of down_proj at a question's tokens, (T, I)


@torch.no_grad()
def question_keys(base: BaseModel, questions: Sequence[str], layers: Collection[int]) -> list[Keys]:
    """Return the inputs of down_proj in some layers at every question's tokens, (T, I) each.

    A question is read by itself, behind a start token that does not count, as far as the context
    has room; layers behind the last one do not run.
    """
    start, padding = start_token(base.tokenizer), base.tokenizer.pad_token_id or 0
    room = base.context_length - 1
    rows = [[start, *ids[:room]] for ids in text_ids(base.tokenizer, questions)]
    keys: list[Keys] = []
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        ids, _ = pad(batch, padding)  # (N, T)
        found = _inputs(base, sorted(layers), ids.to(base.device))  # (N, T, I) by layer
        keys += [
            {layer: of_all[index, 1 : len(row)] for layer, of_all in found.items()}
            for index, row in enumerate(batch)
        ]
    return keys


def relevance(adapter: Adapter, keys: Keys) -> float | None:
    """Return the mean over a question's tokens of the memory's strongest response, max_t (A k)_t.

    None where rows are not tokens' addresses: trained adapters, those of a smaller rank, and long
    documents whose rows were multiplied out.

    Args:
        adapter: adapter of a document.
        keys: of its first layer, at least (see `question_keys`).
    """
    first = adapter.spec.layers[0]
    if adapter.memory is None or not len(keys[first]):
        return None
    return _responses(adapter, keys, first).amax(-1).mean().item()  # (T, R) -> (T,) -> a number


def focused(adapter: Adapter, keys: Keys, focus: float) -> Adapter:
    """Weigh a document's sentences by how much its memory answers to the question at them.

    A sentence counts the sum over the question's tokens of its strongest response, max_t (A k)_t,
    and over the first layers (`LOOKING_LAYERS`); its rows weigh 1 - focus (1 - count / largest
    count), the title's 1 (see `weigh_rows`). What else the document says then claims less of what
    the question addresses.

    Args:
        adapter: adapter of a document; it comes back as it is where sentences are not known, as of
            trained adapters, those of a smaller rank and of texts multiplied out.
        keys: of `looking_layers` (see `question_keys`).
        focus: what a sentence loses that does not answer at all, in [0, 1].
    """
    sentences = adapter.memory.sentences if adapter.memory else None
    if sentences is None or sentences.amax() < 1:
        return adapter  # not known, or nothing to choose from
    places = sentences.long().cpu() + 1  # 0: the title
    counts = torch.zeros(int(places.amax()) + 1)
    for layer in looking_layers(adapter):
        responses = _responses(adapter, keys, layer).clamp(min=0).cpu()  # (T, R)
        best = torch.zeros(len(responses), len(counts))
        best.scatter_reduce_(1, places.expand_as(responses), responses, "amax")
        counts += best.sum(0)
    if not counts[1:].any():
        return adapter  # no sentence answers: none is better than another
    shares = counts / counts[1:].amax()
    shares[0] = 1
    return weigh_rows(adapter, 1 - focus * (1 - shares[places]))


def looking_layers(adapter: Adapter) -> tuple[int, ...]:
    """Return the layers whose responses say which sentences a question is about, if any do."""
    known = adapter.memory is not None and adapter.memory.sentences is not None
    return tuple(adapter.spec.layers[:LOOKING_LAYERS]) if known else ()


def _responses(adapter: Adapter, keys: Keys, layer: int) -> Tensor:
    """Return A k at a question's tokens, (T, R), of a memory's own rows."""
    (own, _), _ = adapter.split(adapter.spec.paths()[adapter.spec.layers.index(layer)])
    own = own.float()  # (R, I)
    return keys[layer].to(own) @ own.mT


def is_meant(adapter: Adapter, keys: Keys, least: float) -> bool:
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
    if not layers:
        return [list(row) for row in hits]
    known = question_keys(base, questions, layers)
    return [
        [hit for hit in row if is_meant(adapters[hit.document_id], keys, least)]
        for row, keys in zip(hits, known, strict=True)
    ]


class _ReadError(Exception):
    """Ends a pass of the base model where the keys are read."""


def _inputs(base: BaseModel, layers: Sequence[int], ids: Tensor) -> Keys:
    """Return linear layers' inputs (N, T, I); causal attention needs no mask for padding."""
    kept: Keys = {}
    linears = ffn_linears(base.model, ("down_proj",), layers).values()
    with ExitStack() as hooks:
        for layer, linear in zip(layers, linears, strict=True):

            def keep(module: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> None:
                kept[layer] = inputs[0]
                if layer == layers[-1]:
                    raise _ReadError

            hooks.callback(linear.register_forward_pre_hook(keep).remove)
        with suppress(_ReadError):
            base.model.get_submodule("model")(input_ids=ids, use_cache=False)
    return kept
