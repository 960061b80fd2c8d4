"""Baselines on stock PEFT, in a process of their own: JSON lines of tasks in, of times out.

Run as `python -m prag_core.speed.peft_baseline MODEL_FOLDER`; `PeftProcess` in measurement.py does.
The model is loaded with transformers alone and memory comes from malloc as it is: `load_base_model`
changes malloc for its whole process, which a user of PEFT does not have.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, logging

SLOT, MERGED = "slot", "merged"  # the adapter that keeps the model wrapped, and the sum


class PeftBaseline:
    """PEFT over a base model, in each dtype that a task asks for."""

    def __init__(self, folder: str) -> None:
        """Take base models from this folder."""
        self.folder = folder
        self.models: dict[str, torch.nn.Module] = {}  # by dtype

    def train(
        self, dtype: str, adapter: str, sequences: list[list[int]], length: int, rate: float
    ) -> dict:
        """Train one document's adapter: AdamW, one sequence a step, loss on all tokens.

        Args:
            dtype: of the base model; PEFT itself keeps the adapter in float32.
            adapter: PEFT folder of the adapter to start from.
            sequences: token ids, one list a step.
            length: pad each to so many tokens, with a mask; 0 does not pad.
            rate: learning rate of AdamW.

        Returns:
            seconds of all, loading and unloading included, and the loss of each step.
        """
        base = self._base(dtype)  # loading it does not count
        start = time.perf_counter()
        model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
        losses = []
        for ids in sequences:
            optimizer.zero_grad()
            loss = model(**_batch(ids, length)).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        self.models[dtype] = model.unload()
        return {"seconds": time.perf_counter() - start, "losses": losses}

    @torch.no_grad()
    def answer(
        self, dtype: str, adapters: list[str], ids: list[int], ends: list[int], max_new_tokens: int
    ) -> dict:
        """Load PEFT folders, sum them with "cat", answer one prompt, and delete them again.

        A slot that is already loaded keeps the model wrapped (wrapping and deleting are not
        counted).

        Args:
            dtype: of the base model.
            adapters: PEFT folders.
            ids: token ids of the prompt.
            ends: token ids that end an answer.
            max_new_tokens: longest answer.

        Returns:
            load_seconds, generate_seconds, and the new token ids; no tokens are asked for when
            max_new_tokens is 0.
        """
        model = PeftModel.from_pretrained(self._base(dtype), adapters[0], adapter_name=SLOT)
        model.eval()
        names = [f"document{i}" for i in range(len(adapters))]
        start = time.perf_counter()
        for name, folder in zip(names, adapters, strict=True):
            model.load_adapter(folder, adapter_name=name)
        model.add_weighted_adapter(names, [1.0] * len(names), MERGED, combination_type="cat")
        model.set_adapter(MERGED)
        loaded = time.perf_counter()
        tokens = []  # the part `merge` asks for none
        if max_new_tokens:
            prompt = torch.tensor([ids])  # (1, T)
            output = model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0],
            )  # fmt: skip
            tokens = output[0, len(ids) :].tolist()  # without the prompt
        ended = time.perf_counter()
        for name in (MERGED, *names):  # else the next answer's would be added to them
            model.delete_adapter(name)
        self.models[dtype] = model.unload()
        times = {"load_seconds": loaded - start, "generate_seconds": ended - loaded}
        return times | {"tokens": tokens}

    def _base(self, dtype: str) -> torch.nn.Module:
        if dtype not in self.models:
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=getattr(torch, dtype))
            self.models[dtype] = model.eval().requires_grad_(False)
        return self.models[dtype]


def _batch(ids: list[int], length: int) -> dict[str, Tensor]:
    """Ids, labels and mask of one sequence, (1, T), padded on the right."""
    padding = [0] * (length - len(ids))
    mask = [1] * len(ids) + [0] * len(padding)
    labels = [*ids, *[-100] * len(padding)]
    rows = {"input_ids": [*ids, *padding], "labels": labels, "attention_mask": mask}
    return {name: torch.tensor([row]) for name, row in rows.items()}


def main() -> None:
    """Read tasks {"task", "threads", ...} line by line and write one reply a line."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no reply
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    baseline = PeftBaseline(sys.argv[1])
    tasks = {"train": baseline.train, "answer": baseline.answer}
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request.pop("threads"))
        print(json.dumps(tasks[request.pop("task")](**request)), file=replies, flush=True)


if __name__ == "__main__":
    main()
