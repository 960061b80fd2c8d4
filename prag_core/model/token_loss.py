"""Token loss: ids and labels go in, cross-entropy comes out, a few tokens' logits at a time."""

from __future__ import annotations

import torch
from torch import Tensor

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
            normaliser = logits.logsumexp(-1, keepdim=True)  # (chunk, 1)
            index = target[rows, None]  # (chunk, 1)
            losses[rows] = (normaliser - logits.gather(-1, index))[:, 0]
            if not ctx.needs_input_grad[0]:  # it is only measured
                continue
            slope = 1 - (logits / cap) ** 2 if cap else None  # of the tanh
            # d loss / d logits = softmax - one-hot; in place, because V is large.
            delta = logits.sub_(normaliser).exp_()  # (chunk, V)
            delta.scatter_add_(-1, index, torch.full_like(index, -1, dtype=delta.dtype))
            delta = delta * slope if cap else delta
            gradient[rows] = delta.to(weight.dtype) @ weight  # (chunk, H)
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
    ids, targets = ids.to(base.device), labels.to(base.device)[:, 1:]  # (rows, T - 1)
    # The model up to its head; of its states those of the P tokens that predict a label.
    hidden = base.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    inside = targets != IGNORE  # (rows, T - 1)
    cap = getattr(base.model.config, "final_logit_softcapping", None)  # of Gemma 2
    weight = base.model.lm_head.weight  # (V, H)
    losses = _LinearCrossEntropy.apply(hidden[inside], weight, targets[inside], cap)  # (P,)
    owners = owner.to(base.device)[inside.nonzero()[:, 0]]  # (P,)
    total = torch.zeros(count, device=losses.device).index_add(0, owners, losses)
    return total / torch.bincount(owners, minlength=count).clamp(min=1)  # (N,)


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
    return next_token_loss(base, ids, labels, torch.arange(len(ids)), len(ids))
