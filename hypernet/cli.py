"""Command line: `hypernet COMMAND ...`; the commands with a line each are in COMMANDS.

Arguments go in, an exit status comes out. `fit`, `validate`, `test` and `predict` are Lightning's
(commands/training.py); of the others every option is a parameter of the command's function. Only
the command that was asked for is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hypernet
from prag_core.cli import Command, load_function, run_function, run_program

# Lightning's commands share one function: the module, data and trainer classes are their options.
TRAINER = "hypernet.commands.training:run_trainer"
COMMANDS = {
    "fit": Command(
        TRAINER,
        "Train a network, or go on from a checkpoint (--ckpt_path).",
        stopped="where OUTPUT/checkpoints/last.ckpt is there, go on with it (--ckpt_path)",
    ),
    "validate": Command(TRAINER, "Measure the held-out loss, and answer held-out questions."),
    "test": Command(TRAINER, "The same as validate, under Lightning's other name."),
    "predict": Command(TRAINER, "Put the adapters of a folder of documents into a store."),
    "export": Command(
        "hypernet.commands.export:export",
        "Write config.json and model.safetensors from a training checkpoint.",
    ),
    "needle_set": Command(
        "hypernet.training.needles:needle_set",
        "Write a question set: texts of a corpus with invented facts hidden in them.",
    ),
    "joint_set": Command(
        "hypernet.training.joint_questions:joint_set",
        "Write a question set whose questions take two documents each.",
    ),
    "ablate": Command(
        "hypernet.training.ablation:ablate",
        "Train variants of a configuration for the same time and set them side by side.",
    ),
}
MEMORY_HINT = (
    "got a batch that exceeds memory, expected one that fits: lower data.batch.documents (with "
    "trainer.accumulate_grad_batches for as large a step), data.batch.questions or "
    "data.max_document_tokens; go on from the last checkpoint with --ckpt_path"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (see `run_command`)."""
    words = list(sys.argv[1:] if arguments is None else arguments)  # the command's name first

    def run(name: str) -> None:
        if COMMANDS[name].place == TRAINER:  # parses by itself, and reports errors as we do
            try:
                trainer = load_function(TRAINER)
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"got no {error.name}, expected the packages of training: pip install "
                    "'prag[train]'"
                ) from error
            trainer(words)
        else:  # as of `prag`: a signature is the command line
            run_function(f"hypernet {name}", COMMANDS[name], words[1:])

    return run_program("hypernet", hypernet.__doc__, COMMANDS, words, run, MEMORY_HINT)
