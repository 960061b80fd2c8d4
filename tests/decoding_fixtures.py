"""Prompts, options and adapters of the tests of attaching, decoding and generating."""

from __future__ import annotations

import torch

from prag_core.attach import attached
from prag_core.decoding_rows import GenerationOptions

IDS = torch.randint(5, 250, (3, 9), generator=torch.Generator().manual_seed(0))
GREEDY = GenerationOptions(max_new_tokens=12, stop=())
PROMPTS = ["Where is Tarn?", "Who?", "Why does the mill of Oss stand still in May?", "ü 東京 😀"]


def logits(base, ids=IDS, adapters=None) -> torch.Tensor:
    with torch.no_grad(), attached(base, adapters) as model:
        return model(input_ids=ids).logits
