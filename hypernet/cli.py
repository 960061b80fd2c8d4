"""Command line: `python -m hypernet fit | validate | test | predict --config FILE`.

Beside them: `export` writes a training checkpoint's weights, `needle_set` writes long texts with
facts hidden in them, to train on or to ask for, `ablate` trains variants of a configuration for the
same time and compares them. `prag evaluate --path generated` asks a question set with the weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from pickle import UnpicklingError

import torch
from jsonargparse import auto_cli
from lightning.pytorch.cli import LightningCLI

from hypernet.network.checkpoint import check_tensors, network_config, save_checkpoint
from hypernet.network.heads import build_head
from hypernet.training.ablation import ablate
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.module import HypernetModule
from hypernet.training.needles import needle_set
from prag_core.model.base_model import EMBEDDED_NAME, load_base_model
from prag_core.model.hardware import is_out_of_memory


class HypernetCLI(LightningCLI):
    """LightningCLI that gives the data module the base model."""

    def before_instantiate_classes(self) -> None:
        """Let float32 matrix products use TF32 where there is a GPU."""
        torch.set_float32_matmul_precision("high")

    def instantiate_classes(self) -> None:
        """Build trainer, model and data; the data are tokenised with the model's tokenizer."""
        super().instantiate_classes()
        self.model.trainer = self.trainer
        self.model.configure_model()
        if self.subcommand != "predict":  # that needs no training data
            self.datamodule.load(self.model.base)


def export(checkpoint: str, folder: str, base_model: str = EMBEDDED_NAME) -> None:
    """Write config.json and model.safetensors from a training checkpoint.

    Args:
        checkpoint: .ckpt file of `fit`.
        folder: where to write.
        base_model: the base model it was trained on.
    """
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"got no file at {checkpoint}, expected a .ckpt file of `fit`")
    try:
        record = torch.load(checkpoint, map_location="cpu", weights_only=True)
        config = network_config(checkpoint, record["network_config"])
        state, fingerprint = record["state_dict"], record["base_fingerprint"]
    except (UnpicklingError, EOFError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"got {checkpoint}, which cannot be read ({type(error).__name__}: {reason}), expected "
            "a .ckpt file of `hypernet fit`: name another, e.g. the best beside last.ckpt"
        ) from error
    base = load_base_model(base_model, device="cpu")
    if base.fingerprint != fingerprint:
        raise ValueError(
            f"got base model {base_model} ({base.fingerprint}), expected the one that "
            f"{checkpoint} was trained on ({fingerprint}): name it in --base_model"
        )
    head = build_head(config, *base.module_shape("down_proj"))
    tensors = {key.removeprefix("network."): v for key, v in state.items()}
    check_tensors(checkpoint, tensors, head.state_dict())
    head.load_state_dict(tensors)
    save_checkpoint(folder, head, config, base, {"steps": record["global_step"]})
    print(f"wrote {folder}")


MEMORY_HINT = (
    "got a batch that exceeds memory, expected one that fits: lower data.batch.documents (with "
    "trainer.accumulate_grad_batches for as large a step), data.batch.questions or "
    "data.max_document_tokens; go on from the last checkpoint with --ckpt_path"
)
COMMANDS = {"ablate": ablate, "export": export, "needle_set": needle_set}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for bad input, 1 where memory ran out)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in COMMANDS:
            auto_cli(COMMANDS[arguments[0]], args=arguments[1:])
            return 0
        HypernetCLI(
            HypernetModule,
            HypernetDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"use_distributed_sampler": False},  # a step's batch knows its rank
            args=arguments,
        )
    except (ValueError, OSError) as error:
        print(f"hypernet: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print(f"hypernet: {str(error).splitlines()[0]}\n{MEMORY_HINT}", file=sys.stderr)
        return 1
    return 0
