"""Cross-entropy of chosen tokens without the (tokens, V) logits of a whole batch in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prag_core.model.base_model import BaseModel

IGNORE = -100  # label of tokens that carry no loss
CHUNK = 128  # tokens whose logits exist at one time


class _LinearCrossEntropy(torch.autograd.Function):
    """Per-token loss of softmax(X W'), its gradient computed chunk by chunk in the forward pass.

    The fusion of Liger Kernel (Hsu et al., 2024, arXiv 2410.10989, section 3.2); W is frozen.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, target: Tensor, cap: float | None) -> Tensor:
        losses = torch.empty(len(hidden), device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = (hidden[rows] @ weight.mT).float()  # (chunk, V)
            if cap:
                logits = cap * torch.tanh(logits / cap)
            normaliser = logits.logsumexp(-1, keepdim=True)
            picked = target[rows, None]
            losses[rows] = (normaliser - logits.gather(-1, picked))[:, 0]
            slope = 1 - (logits / cap) ** 2 if cap else None
            delta = logits.sub_(normaliser).exp_()
            delta.scatter_add_(-1, picked, torch.full_like(picked, -1, dtype=delta.dtype))
            delta = delta * slope if cap else delta
            gradient[rows] = delta.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx, upstream: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[:, None].to(gradient.dtype), None, None, None


def next_token_loss(
    base: BaseModel, ids: Tensor, labels: Tensor, owner: Tensor, count: int
) -> Tensor:
    """Mean cross-entropy of the labelled tokens, one value a document.

    Rows are padded on the right and attention is causal, so no padding mask is needed.

    Args:
        base: base model with hooks attached; gradients flow to what the hooks hold.
        ids: (rows, T) token ids.
        labels: (rows, T) token ids, IGNORE where there is no loss; label t is predicted at t - 1.
        owner: (rows,) document of each row.
        count: number of documents N.

    Returns:
        (N,) in float32; 0 for a document without a labelled token.
    """
    ids, labels, owner = (tensor.to(base.device) for tensor in (ids, labels, owner))
    hidden = base.model.model(input_ids=ids, use_cache=False).last_hidden_state  # (rows, T, H)
    target = labels[:, 1:]
    chosen = target != IGNORE
    cap = getattr(base.model.config, "final_logit_softcapping", None)
    head: nn.Linear = base.model.lm_head
    loss = _LinearCrossEntropy.apply(hidden[:, :-1][chosen], head.weight, target[chosen], cap)
    index = owner[:, None].expand_as(target)[chosen]
    total = torch.zeros(count, device=loss.device).index_add(0, index, loss)
    return total / torch.bincount(index, minlength=count).clamp(min=1)


@torch.no_grad()
def sequence_nll(base: BaseModel, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the mean NLL of every row's labelled tokens, without gradients.

    Args:
        base: base model, with adapters attached or not.
        ids: (rows, T) token ids, padded on the right.
        labels: (rows, T) token ids, IGNORE where a token does not count.

    Returns:
        (rows,) in float32, in nats a token; 0 for a row without a labelled token.
    """
    ids, target = ids.to(base.device), labels.to(base.device)[:, 1:]
    hidden = base.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    chosen = target != IGNORE
    cap = getattr(base.model.config, "final_logit_softcapping", None)
    losses = []
    for states, tokens in zip(
        hidden[chosen].split(CHUNK), target[chosen].split(CHUNK), strict=True
    ):
        logits = base.model.lm_head(states).float()  # (chunk, V)
        logits = cap * torch.tanh(logits / cap) if cap else logits
        losses.append(torch.nn.functional.cross_entropy(logits, tokens, reduction="none"))
    rows = torch.arange(len(ids), device=base.device)[:, None].expand_as(target)[chosen]
    total = torch.zeros(len(ids), device=base.device).index_add(0, rows, torch.cat(losses))
    return total / chosen.sum(1).clamp(min=1)
