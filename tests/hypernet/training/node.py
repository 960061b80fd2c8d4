"""One of two nodes that train a tiny network together: `python -m tests.hypernet.training.node`.

NODE_RANK, MASTER_ADDR and MASTER_PORT come from the environment, as on a cluster. The losses of
every step and the weights after the last go to the folder that is named.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from safetensors.torch import save_file

from hypernet.training.batches import BatchBuilder, BatchConfig
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.module import HypernetModule
from tests.fixtures.hypernetworks import CONFIG, write_question_set
from tests.fixtures.tiny import tiny_model

STEPS, NODES = 3, 2
BATCH = BatchConfig(documents=2, groups=(1, 2), questions=1, completions=1, unrelated=1)


@dataclass(frozen=True)
class InTurn(torch.utils.data.Dataset):
    """The batches of all nodes, step by step, for one process that accumulates gradients."""

    builder: BatchBuilder

    def __len__(self) -> int:
        return STEPS * NODES

    def __getitem__(self, index: int):
        return self.builder.build(*divmod(index, NODES))


class Losses(lightning.Callback):
    """Keeps the loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.values.append(trainer.callback_metrics["train/loss"].item())  # of this process


def train(folder: Path, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Train for a few steps; returns the losses of its batches, and the weights."""
    torch.manual_seed(0)
    base = tiny_model()
    module = HypernetModule(network=CONFIG, learning_rate=2e-2, warmup_steps=2)
    module.base = base
    torch.manual_seed(0)
    module.configure_model()
    data = HypernetDataModule([str(write_question_set(folder))], validation_articles=2, batch=BATCH)
    data.load(base)
    if not options:
        options = {"accumulate_grad_batches": NODES}
        builder = data._builder(data.training, data._shares(), data.batch)
        data.train_dataloader = lambda: data._loader(InTurn(builder))
    losses = Losses()
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=STEPS, logger=False, callbacks=[losses],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        enable_checkpointing=False, default_root_dir=folder, gradient_clip_val=1.0,
        use_distributed_sampler=False, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return torch.tensor(losses.values), dict(module.network.state_dict())


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    losses, weights = train(folder / "data", num_nodes=NODES, strategy="ddp")
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    save_file(weights | {"losses": losses}, folder / "node.safetensors")
