"""Learning rate of the trained path: a base model goes in, its adapters' rate comes out."""

from __future__ import annotations

from prag_core.model.base_model import BaseModel

# Chosen on SQuAD train (README.md), by the base model's fingerprint.
CHOSEN = {
    "7eabd0522b90b520": 2e-3,  # smollm2-135m
    "1b99e1b7b17961eb": 5e-4,  # qwen2.5-coder-0.5b
}


def learning_rate(base: BaseModel) -> float:
    """Return the learning rate that a base model's adapters are trained with where none is given.

    Where none was chosen for the base model, it is the rule of Schulman and Thinking Machines Lab
    ("LoRA Without Regret", 2025; tinker-docs.thinkingmachines.ai), for LoRA of alpha 32:
    5e-4 * (2000 / hidden size) ** p, where p is 0.0775 for Qwen, 0.781 for Llama and here others.
    """
    config = base.model.config
    power = 0.0775 if config.model_type.startswith("qwen") else 0.781
    return CHOSEN.get(base.fingerprint) or 5e-4 * (2000 / config.hidden_size) ** power
