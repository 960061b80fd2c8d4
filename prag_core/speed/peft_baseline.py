"""Baselines on stock PEFT, one function each: an adapter's training, and an answer from several.

They run in a process of their own (see `measurement.peft_process`). The model is loaded with
transformers alone and memory comes from malloc as it is: `load_base_model` changes malloc for its
whole process, which a user of PEFT does not have.
"""

from __future__ import annotations

import time
import warnings
from functools import cache

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, logging

SLOT, MERGED = "slot", "merged"  # the adapter that keeps the model wrapped, and the sum


def prepare(threads: int) -> None:
    """Set up the process: so many threads, and quiet."""
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def train(
    folder: str, dtype: str, adapter: str, sequences: list[list[int]], length: int, rate: float
) -> dict:
    """Train one document's adapter: AdamW, one sequence a step, loss on all tokens.

    Args:
        folder: of the base model.
        dtype: of the base model; PEFT itself keeps the adapter in float32.
        adapter: PEFT folder of the adapter to start from.
        sequences: token ids, one list a step.
        length: pad each to so many tokens, with a mask; 0 does not pad.
        rate: learning rate of AdamW.

    Returns:
        seconds of all, loading and unloading included, and the loss of each step.
    """
    base = _base(folder, dtype)  # loading it does not count
    start = time.perf_counter()
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate)
    losses = []
    for ids in sequences:
        optimizer.zero_grad()
        loss = model(**_batch(ids, length)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.unload()  # the base model is as it was
    return {"seconds": time.perf_counter() - start, "losses": losses}


@torch.no_grad()
def answer(
    folder: str, dtype: str, adapters: list[str], ids: list[int], ends: list[int], limit: int
) -> dict:
    """Load PEFT folders, sum them with "cat", answer one prompt, and delete them again.

    A slot that is already loaded keeps the model wrapped (wrapping and deleting are not
    counted).

    Args:
        folder: of the base model.
        dtype: of the base model.
        adapters: PEFT folders.
        ids: token ids of the prompt.
        ends: token ids that end an answer.
        limit: tokens of the longest answer.

    Returns:
        load_seconds, generate_seconds, and the new token ids; no tokens are asked for when limit
        is 0.
    """
    model = PeftModel.from_pretrained(_base(folder, dtype), adapters[0], adapter_name=SLOT)
    model.eval()
    names = [f"document{i}" for i in range(len(adapters))]
    start = time.perf_counter()
    for name, path in zip(names, adapters, strict=True):
        model.load_adapter(path, adapter_name=name)
    model.add_weighted_adapter(names, [1.0] * len(names), MERGED, combination_type="cat")
    model.set_adapter(MERGED)
    loaded = time.perf_counter()
    tokens = []  # the part `merge` asks for none
    if limit:
        prompt = torch.tensor([ids])  # (1, T)
        output = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            max_new_tokens=limit, eos_token_id=ends, pad_token_id=ends[0],
        )  # fmt: skip
        tokens = output[0, len(ids) :].tolist()  # without the prompt
    ended = time.perf_counter()
    for name in (MERGED, *names):  # else the next answer's would be added to them
        model.delete_adapter(name)
    model.unload()
    times = {"load_seconds": loaded - start, "generate_seconds": ended - loaded}
    return times | {"tokens": tokens}


@cache
def _base(folder: str, dtype: str) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(False)


def _batch(ids: list[int], length: int) -> dict[str, Tensor]:
    """Ids, labels and mask of one sequence, (1, T), padded on the right."""
    padding = [0] * (length - len(ids))
    mask = [1] * len(ids) + [0] * len(padding)
    labels = [*ids, *[-100] * len(padding)]
    rows = {"input_ids": [*ids, *padding], "labels": labels, "attention_mask": mask}
    return {name: torch.tensor([row]) for name, row in rows.items()}
