"""Callbacks of a training run: the newest weights as files, and a checkpoint to go on from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from hypernet.network.checkpoint import WEIGHTS, save_checkpoint
from hypernet.training.module import HypernetModule
from prag_core.files import write_json


class ExportNetwork(lightning.Callback):
    """Write config.json and model.safetensors after every validation and at the end."""

    def __init__(self, folder: str = "runs/hypernet/export") -> None:
        """Name the folder; it always holds the newest weights."""
        self.folder, self.trained = folder, False

    def on_train_batch_end(self, *_) -> None:
        """Note that there is something to write."""
        self.trained = True

    def on_validation_end(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        """Write the newest weights."""
        # A sanity check comes before calibration: its weights are no network yet.
        if trainer.state.fn == "fit" and trainer.is_global_zero and not trainer.sanity_checking:
            self._write(trainer, module)

    def on_fit_end(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        """Write the last weights; where nothing was trained, what is there stays as it is."""
        missing = not (Path(self.folder) / WEIGHTS).is_file()
        if trainer.is_global_zero and (self.trained or missing):
            self._write(trainer, module)

    def _write(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        training = {"steps": trainer.global_step, "base_model": module.base_model}
        training |= {"prompt": module.prompt, "held_out": module.held_out}
        # The last validation, so that a folder says how good it is.
        training |= {
            key: round(float(value), 4)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/") and math.isfinite(value)
        }
        folder = Path(self.folder)
        save_checkpoint(folder, module.network, module.network_config, module.base, training)


CURVES = {"own": "val/gold_nll", "another's": "val/shuffled_nll", "none": "val/closed_book_nll"}


class Curve(lightning.Callback):
    """Keep the validations of a training, over all of its runs, in curve.json.

    A point has step, documents seen, seconds used, and the NLL a token of held-out answers with the
    document's own adapter, another's, and none.
    """

    def __init__(self, folder: str) -> None:
        """Name the folder."""
        self.path, self.points = Path(folder) / "curve.json", []

    def state_dict(self) -> dict:
        """Return the points: a run that goes on from a checkpoint has those of that time."""
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict) -> None:
        """Take the points of a checkpoint."""
        self.points = state_dict["points"]

    def on_validation_end(self, trainer: lightning.Trainer, module: HypernetModule) -> None:
        """Add a point and write the file."""
        values = trainer.callback_metrics
        training = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not training or "val/gold_nll" not in values:
            return
        step, batch = trainer.global_step, trainer.datamodule.batch
        batches = step * trainer.accumulate_grad_batches * trainer.world_size
        point = {
            "step": step,
            "documents": batches * batch.documents,
            "seconds": round(module.clock.seconds, 1),
        }
        point |= {name: round(float(values[key]), 4) for name, key in CURVES.items()}
        # A run that ends at a validation may have one more at the same step.
        self.points = [p for p in self.points if p["step"] < step] + [point]
        if trainer.is_global_zero:
            write_json(self.path, self.points)


class LastCheckpoint(Checkpoint):
    """Keep last.ckpt, the newest state, to go on from; ModelCheckpoint keeps the best."""

    def __init__(self, dirpath: str, every_n_steps: int = 50) -> None:
        """Name the folder and the rhythm.

        Args:
            dirpath: folder.
            every_n_steps: steps after which it is written; also at the end of a run.
        """
        self.path, self.every_n_steps = Path(dirpath) / "last.ckpt", every_n_steps
        self.written = -1  # step

    def on_validation_end(self, trainer: lightning.Trainer, *_) -> None:
        """Write it with the validation's point (see `Curve`)."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._write(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_) -> None:
        """Write it every few steps."""
        if trainer.global_step and trainer.global_step % self.every_n_steps == 0:
            self.on_train_end(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_) -> None:
        """Write it, once a step."""
        if self.written != trainer.global_step:
            self._write(trainer)

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, module: HypernetModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell ModelCheckpoint, which forgets a best file elsewhere, that its folder was moved."""
        folder = Path(trainer.ckpt_path).resolve().parent
        for callback in trainer.checkpoint_callbacks:
            state = checkpoint["callbacks"].get(callback.state_key)
            if state and isinstance(callback, ModelCheckpoint) and folder == Path(callback.dirpath):
                here = _in_folder(state, folder)
                if Path(here["best_model_path"]).is_file():
                    state |= here

    def _write(self, trainer: lightning.Trainer) -> None:
        # In its folder, then renamed: Lightning would copy it over the old one, across file systems
        # byte by byte, and whoever is killed meanwhile has neither.
        self.written, fresh = trainer.global_step, self.path.with_suffix(".new")
        trainer.save_checkpoint(fresh)  # by all processes
        if trainer.is_global_zero:
            fresh.replace(self.path)


def _in_folder(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what names files in ModelCheckpoint's state, with files of the same names here."""
    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    moved = {name: str(folder / Path(state[name]).name) if state[name] else "" for name in names}
    scores = {str(folder / Path(path).name): x for path, x in state["best_k_models"].items()}
    return {**moved, "best_k_models": scores, "dirpath": str(folder)}
