"""Token loss: ids and labels go in, cross-entropy comes out, a few tokens' logits at a time.

Beside it the distance to what a teacher says of the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import Cache

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
            logits = soft_capped((hidden[rows] @ weight.mT).float(), cap)  # (chunk, V)
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


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """Return logits as a model with a final soft cap gives them (Gemma 2: 30); else as they are."""
    return cap * torch.tanh(logits / cap) if cap else logits


def final_cap(base: BaseModel) -> float | None:
    """Return the soft cap of a model's logits; None where it has none."""
    return getattr(base.model.config, "final_logit_softcapping", None)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of log-probabilities (..., V), (...)."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def kl_to_teacher(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(teacher || student) of every position; (P, V) twice -> (P,).

    With the teacher reading the passage it is context distillation (Snell et al., 2022; used by
    Doc-to-LoRA, 2026); with the base model as teacher, on what the document does not answer, it
    says that an adapter leaves unrelated text alone.
    """
    teacher = torch.log_softmax(teacher_logits.float(), -1)  # (P, V)
    return kl_divergence(teacher, torch.log_softmax(logits.float(), -1))


@dataclass(frozen=True, eq=False)  # equality of tensors is no truth value
class Taught:
    """What a teacher says of P tokens: of k likely ones each, and of all others together.

    Attributes:
        ids: token ids (P, k).
        logs: their log-probabilities, and that of the others as the last (P, k + 1).
    """

    ids: Tensor
    logs: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Taught]) -> Taught:
        """Return the tokens of several, one behind the other."""
        return cls(torch.cat([part.ids for part in parts]), torch.cat([p.logs for p in parts]))


def coarse(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probabilities of k tokens, and of all others as one; (P, V) -> (P, k + 1)."""
    others = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)  # (P, 1)
    return torch.cat([logits.gather(-1, ids), others], -1).log_softmax(-1)


@dataclass(frozen=True)
class Distillation:
    """How the loss is mixed.

    Attributes:
        taught: of the targets, in their order.
        share: of the divergence; the rest is cross-entropy.
        reverse: KL(student || teacher), in place of KL(teacher || student).
    """

    taught: Taught
    share: float
    reverse: bool = False

    def losses(self, base: BaseModel, hidden: Tensor, target: Tensor, cap: float | None) -> Tensor:
        """Return the loss of every token: hidden (P, H), target (P,) -> (P,)."""
        ids, logs = self.taught.ids.to(base.device).long(), self.taught.logs.to(base.device)

        def mixed(hidden: Tensor, target: Tensor, ids: Tensor, logs: Tensor) -> Tensor:
            logits = (hidden @ base.model.lm_head.weight.mT).float()  # (chunk, V)
            logits = soft_capped(logits, cap)
            nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
            student = coarse(logits, ids)  # (chunk, k + 1)
            kl = kl_divergence(student, logs) if self.reverse else kl_divergence(logs, student)
            return (1 - self.share) * nll + self.share * kl

        # The backward pass computes a chunk's logits again: those of all would fill the memory.
        chunks = zip(*(x.split(CHUNK) for x in (hidden, target, ids, logs)), strict=True)
        return torch.cat([checkpoint(mixed, *chunk, use_reentrant=False) for chunk in chunks])


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
    owners = owner.to(base.device)[inside.nonzero()[:, 0]]  # (P,)
    return mean_loss(base, hidden[inside], targets[inside], owners, count)


def mean_loss(
    base: BaseModel,
    hidden: Tensor,
    targets: Tensor,
    owners: Tensor,
    count: int,
    distillation: Distillation | None = None,
) -> Tensor:
    """Mean loss of predicted tokens, one value a document: cross-entropy, or what is mixed.

    Args:
        base: base model.
        hidden: (P, H) last states of the tokens that predict.
        targets: (P,) token ids that follow them.
        owners: (P,) document of each.
        count: number of documents N.
        distillation: mixes in what a teacher says of the targets.

    Returns:
        (N,) in float32; 0 for a document without a target.
    """
    cap = final_cap(base)
    weight = base.model.lm_head.weight  # (V, H)
    if distillation is None:
        losses = _LinearCrossEntropy.apply(hidden, weight, targets, cap)  # (P,)
    else:
        losses = distillation.losses(base, hidden, targets, cap)  # (P,)
    return mean_by_owner(losses, owners, count)


def mean_by_owner(losses: Tensor, owners: Tensor, count: int) -> Tensor:
    """Average losses (P,) within each owner (P,) of 0..N-1; one without any has 0."""
    total = losses.new_zeros(count).index_add(0, owners, losses)  # (N,)
    return total / torch.bincount(owners, minlength=count).clamp(min=1)


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


@torch.no_grad()
def teach(
    base: BaseModel, ids: Tensor, labels: Tensor, count: int, past: Cache | None = None
) -> list[Taught]:
    """Return what the model says of every row's labelled tokens.

    Args:
        base: base model, with an adapter attached or not.
        ids: (rows, T) token ids, padded on the right.
        labels: (rows, T) token ids, IGNORE where a token does not count.
        count: k, the likeliest tokens that are kept.
        past: keys and values of what all rows begin with; it is changed.
    """
    ids, inside = ids.to(base.device), labels.to(base.device)[:, 1:] != IGNORE  # (rows, T - 1)
    read = base.model.model(input_ids=ids, past_key_values=past, use_cache=past is not None)
    hidden = read.last_hidden_state[:, :-1]  # (rows, T - 1, H)
    parts = []
    for rows in hidden[inside].split(CHUNK):
        logits = (rows @ base.model.lm_head.weight.mT).float()  # (chunk, V)
        logits = soft_capped(logits, final_cap(base))
        likely = logits.topk(count).indices  # (chunk, k)
        parts.append(Taught(likely.int().cpu(), coarse(logits, likely).cpu()))
    whole, lengths = Taught.joined(parts), inside.sum(1).tolist()
    pairs = zip(whole.ids.split(lengths), whole.logs.split(lengths), strict=True)
    return [Taught(*pair) for pair in pairs]
