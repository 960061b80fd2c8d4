"""Training: settings go in; Lightning fits, validates, tests or predicts.

Every option is a parameter of the module, the data module, the trainer or a callback, and may stand
in YAML files: `--config` may be given several times, the later file wins.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment

from hypernet.training.callbacks import Curve, ExportNetwork, LastCheckpoint
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.module import HypernetModule

OUTPUT = "runs/hypernet"
# Of the trainer: a step's batch knows its process, so that no sampler has to share it out.
TRAINER = {"use_distributed_sampler": False}
# ModelCheckpoint of the least held-out loss; a run that goes on replaces its file.
BEST = {"filename": "best", "monitor": "val/gold_nll", "enable_version_counter": False}


def run_trainer(arguments: Sequence[str]) -> None:
    """Run one of Lightning's commands; its name (fit, validate, test, predict) comes first."""
    try:
        HypernetCLI(arguments)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # which Lightning makes of Ctrl-C
            raise error.__context__ from None
        raise


class HypernetCLI(LightningCLI):
    """LightningCLI with one folder for all of a run, which gives the data the base model."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """Parse the options of one command, build everything, and run it."""
        self.name = arguments[0]
        super().__init__(
            HypernetModule,
            HypernetDataModule,
            # Of `fit` alone: the others would replace the only record of how weights were trained.
            save_config_callback=SaveConfigCallback if self.name == "fit" else None,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER,
            parser_kwargs={"prog": "hypernet"},
            args=list(arguments),
        )

    def subcommands(self) -> dict[str, set[str]]:
        """Return the command alone: a parser of each would take seconds to build."""
        return {self.name: super().subcommands()[self.name]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `output`, `logger` and the callbacks, whose folders are inside of `output`."""
        parser.add_argument("--output", default=OUTPUT, help="folder: logs, checkpoints, export")
        parser.add_argument(
            "--logger",
            type=Literal["csv", "wandb"],
            default="csv",
            help="metrics.csv in a folder version_N, or Weights & Biases offline, with no account",
        )
        # Callbacks of every run: their options stand at the top level of a YAML.
        parser.add_lightning_class_args(ExportNetwork, "export")
        parser.add_lightning_class_args(Curve, "curve")
        parser.add_lightning_class_args(ModelCheckpoint, "best_checkpoint")
        # After the two, whose state it keeps.
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.set_defaults({f"best_checkpoint.{name}": value for name, value in BEST.items()})
        # All folders follow from one, so that a run is moved or repeated by one option.
        parser.link_arguments("output", "trainer.default_root_dir")
        parser.link_arguments("output", "export.folder", _export_folder)
        parser.link_arguments("output", "curve.folder")
        for callback in ("last_checkpoint", "best_checkpoint"):
            parser.link_arguments("output", f"{callback}.dirpath", _checkpoint_folder)

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Parse without Lightning's warning that the arguments are those of the process."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Let a training's float32 matrix products use TF32 where there is a GPU."""
        if self.name == "fit":
            torch.set_float32_matmul_precision("high")

    def instantiate_trainer(self, **settings) -> Trainer:
        """Build the trainer, with the logger that was named unless `trainer.logger` is one."""
        config = self.config_init[self.name]
        if config.trainer.logger is None:
            settings["logger"] = _build_logger(config.logger, config.output)
        return super().instantiate_trainer(**settings)

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; the data are tokenised with the model's tokenizer."""
        self._require_no_other_run()
        super().instantiate_classes()
        # Lightning would load the base model after the data; here its tokenizer is needed first.
        self.model.trainer = self.trainer
        self.model.configure_model()
        if self.name != "predict":  # that needs no training data
            self.datamodule.load(self.model.base)

    def _require_no_other_run(self) -> None:
        """Raise ValueError where the output has a run that this one would replace."""
        config = self.config[self.name]
        last = Path(_checkpoint_folder(config.output)) / "last.ckpt"
        if self.name != "fit" or not last.exists():
            return
        if not _goes_on(Path(config.output), config.ckpt_path):
            foreign = f", and checkpoint {config.ckpt_path} of another" if config.ckpt_path else ""
            raise ValueError(
                f"got output {config.output}, which holds a run{foreign}, expected another folder "
                f"(--output), or to go on with it: --ckpt_path {last}"
            )


def _goes_on(output: Path, checkpoint: str | None) -> bool:
    """Say whether `fit` goes on with the run in `output`, not with another one's checkpoint."""
    if checkpoint:
        path = Path(checkpoint)
        # No file: a word of Lightning's for one of this run ("last"), or refused by it.
        word = not path.exists() and "://" not in checkpoint
        return word or output.resolve() in path.resolve().parents
    # Slurm queued it again: Lightning goes on from what it saved then.
    again = SLURMEnvironment.detect() and int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    return again and any(output.glob("hpc_ckpt_*"))


def _export_folder(output: str) -> str:
    return str(Path(output) / "export")


def _checkpoint_folder(output: str) -> str:
    return str(Path(output) / "checkpoints")


def _build_logger(name: str, output: str) -> Logger:
    if name == "csv":
        return CSVLogger(output, name="")
    return WandbLogger(project="prag-hypernet", save_dir=output, offline=True)
