"""Command line: `python -m hypernet fit | validate | test | predict --config FILE`."""

from __future__ import annotations

from pathlib import Path

import lightning
import torch
from lightning.pytorch.cli import LightningCLI

from hypernet.checkpoint import save_checkpoint
from hypernet.datamodule import HypernetDataModule
from hypernet.module import HypernetModule


class ExportNetwork(lightning.Callback):
    """Write config.json and model.safetensors after every validation and at the end."""

    def __init__(self, folder: str = "runs/hypernet/export") -> None:
        """Name the folder; it always holds the newest weights."""
        self.folder = folder

    def on_validation_end(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        """Write the newest weights."""
        if trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.sanity_checking:
            self._write(trainer, module)

    def on_fit_end(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        """Write the last weights."""
        if trainer.is_global_zero:
            self._write(trainer, module)

    def _write(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        training = {"steps": trainer.global_step, "base_model": module.base_model}
        training |= {
            key: round(float(value), 4)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/")
        }
        folder = Path(self.folder)
        save_checkpoint(folder, module.network, module.network_config, module.base, training)


class HypernetCLI(LightningCLI):
    """LightningCLI that gives the data module the base model."""

    def before_instantiate_classes(self) -> None:
        """Let float32 matrix products use TF32 where there is a GPU."""
        torch.set_float32_matmul_precision("high")

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; the data are tokenised with the model's tokenizer."""
        super().instantiate_classes()
        self.model.configure_model()
        self.datamodule.load(self.model.base)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    HypernetCLI(
        HypernetModule,
        HypernetDataModule,
        save_config_kwargs={"overwrite": True},
        args=arguments,
    )
