"""Lightning module: a batch goes in, losses come out; only the network is trained and saved."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import lightning
import torch
from torch import Tensor

from hypernet.attach_rows import attached_rows
from hypernet.batches import ANSWER, COMPLETION, Batch
from hypernet.encoder import Encoder, pad
from hypernet.losses import kl_to_teacher, mean_by_kind, token_nll
from hypernet.network import NetworkConfig, Rows, build_head
from prag_core.models import EMBEDDED_NAME, BaseModel, load_base_model

CALIBRATION_DOCUMENTS = 64
DEFAULT_NETWORK = NetworkConfig()


class HypernetModule(lightning.LightningModule):
    """Trains a head through the frozen base model."""

    strict_loading = False  # checkpoints hold the network alone

    def __init__(
        self,
        base_model: str = EMBEDDED_NAME,
        network: NetworkConfig = DEFAULT_NETWORK,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        weight_decay: float = 0.0,
        completion_weight: float = 0.3,
        unrelated_weight: float = 0.3,
        teacher_weight: float = 0.0,
        dtype: str = "auto",
    ) -> None:
        """Describe the training.

        Args:
            base_model: see `prag_core.models.load_base_model`.
            network: head and size.
            learning_rate: highest rate of AdamW; cosine to a tenth after the warm-up.
            warmup_steps: linear warm-up.
            weight_decay: of AdamW, on matrices.
            completion_weight: weight of the completions' NLL (the answers' is 1).
            unrelated_weight: weight of the KL to the base model on what documents do not answer.
            teacher_weight: weight of the KL to the model that reads the passage (needs
                `batch.passages`).
            dtype: of the base model.
        """
        super().__init__()
        self.base_model, self.network_config = base_model, network
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.weight_decay, self.dtype_name = weight_decay, dtype
        self.completion_weight, self.unrelated_weight = completion_weight, unrelated_weight
        self.teacher_weight = teacher_weight
        self.base: BaseModel | None = None  # no nn.Module: neither trained nor saved
        self.network: torch.nn.Module | None = None

    def configure_model(self) -> None:
        """Load the base model and build the network, once."""
        if self.network is not None:
            return
        if self.base is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self.base = load_base_model(self.base_model, self.dtype_name, device)
        self.encoder = Encoder(self.base, self.network_config.layers)
        inputs, hidden = self.base.module_shape("down_proj")
        self.network = build_head(self.network_config, inputs, hidden)

    def on_train_start(self) -> None:
        """Calibrate a new network on training documents."""
        if self.trainer.global_step == 0:
            self.calibrate(self.trainer.datamodule.calibration_ids(CALIBRATION_DOCUMENTS))

    def calibrate(self, rows: list[list[int]]) -> None:
        """Set the network's constants from the activations on these documents."""
        ids, lengths = pad(
            [self.encoder.frame(row) for row in rows], self.base.tokenizer.pad_token_id
        )
        device = self.base.device
        self.network.calibrate(*self.encoder.statistics(ids.to(device), lengths.to(device)))

    def generate_rows(self, batch: Batch, group: int) -> Rows:
        """Encode the batch's documents and return rows of groups of `group`."""
        encoding = self.encoder(batch["documents"], batch["lengths"])
        return self.network(encoding, group, batch["most_rows"] or None)

    def hidden_states(self, ids: Tensor, rows: Rows | None) -> Tensor:
        """Return the last hidden states (rows * S, H), with or without generated rows."""
        with attached_rows(self.encoder.linears, rows):
            states = self.base.model.get_submodule("model")(input_ids=ids, use_cache=False)
        return states.last_hidden_state.flatten(0, 1)

    def logits(self, states: Tensor, positions: Tensor) -> Tensor:
        """Return logits (P, V) at flat positions (P,)."""
        return self.base.model.get_output_embeddings()(states[positions])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the weighted sum of the losses."""
        rows = self.generate_rows(batch, batch["group"])
        states = self.hidden_states(batch["rows"], rows)
        logits = self.logits(states, batch["positions"])
        nll = mean_by_kind(token_nll(logits, batch["targets"]), batch["kinds"], 2)
        loss = nll[ANSWER] + self.completion_weight * nll[COMPLETION]
        logs = {"answer_nll": nll[ANSWER], "completion_nll": nll[COMPLETION]}
        if self.unrelated_weight and "plain" in batch:
            logs["unrelated_kl"] = self._unrelated_kl(batch, states)
            loss = loss + self.unrelated_weight * logs["unrelated_kl"]
        if self.teacher_weight and "teacher" in batch:
            logs["teacher_kl"] = self._teacher_kl(batch, logits)
            loss = loss + self.teacher_weight * logs["teacher_kl"]
        self.log_dict({f"train/{k}": v.detach() for k, v in logs.items()}, batch_size=1)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def _unrelated_kl(self, batch: Batch, states: Tensor) -> Tensor:
        with torch.no_grad():
            plain = self.hidden_states(batch["rows"][batch["plain_rows"]], None)
            teacher = self.logits(plain, batch["plain"])
        return kl_to_teacher(self.logits(states, batch["unrelated"]), teacher).mean()

    def _teacher_kl(self, batch: Batch, logits: Tensor) -> Tensor:
        with torch.no_grad():
            states = self.hidden_states(batch["teacher"], None)
            teacher = self.logits(states, batch["teacher_positions"])
        return kl_to_teacher(logits[batch["taught"]], teacher).mean()

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Log NLL with the document's adapter, with another's, and without; a group's as well."""
        group = batch["group"]
        rows = self.generate_rows(batch, group)
        if dataloader_idx:
            self._log_nll(f"group{group}", batch, rows)
            return
        self._log_nll("gold", batch, rows)
        self._log_nll("shuffled", batch, Rows(rows.a.roll(1, 0), rows.b.roll(1, 0), rows.shared))
        self._log_nll("closed_book", batch, None)

    test_step = validation_step

    def _log_nll(self, name: str, batch: Batch, rows: Rows | None) -> None:
        states = self.hidden_states(batch["rows"], rows)
        logits = self.logits(states, batch["positions"])
        nll = mean_by_kind(token_nll(logits, batch["targets"]), batch["kinds"], 2)
        keys = {f"val/{name}_nll": nll[ANSWER], f"val/{name}_completion_nll": nll[COMPLETION]}
        self.log_dict(keys, add_dataloader_idx=False, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine; scalars per layer learn ten times faster."""
        fast = {id(p) for p in self.network.fast_parameters()}
        groups = [
            {
                "params": [p for p in self.network.parameters() if id(p) not in fast],
                "lr": self.learning_rate,
                "weight_decay": self.weight_decay,
            },
            {
                "params": self.network.fast_parameters(),
                "lr": 10 * self.learning_rate,
                "weight_decay": 0.0,
            },
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        total = max(1, int(self.trainer.estimated_stepping_batches))

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            done = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
            return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the weights belong to."""
        checkpoint["network_config"] = asdict(self.network_config)
        checkpoint["base_fingerprint"] = self.base.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network or base model.

        Raises:
            ValueError: settings that differ from those of the checkpoint.
        """
        self.configure_model()
        mine = {"network_config": asdict(self.network_config)}
        mine["base_fingerprint"] = self.base.fingerprint
        for key, value in mine.items():
            if checkpoint.get(key) != value:
                raise ValueError(
                    f"got a checkpoint with {key} {checkpoint.get(key)}, expected {value} as in "
                    "the configuration: use the YAML that it was trained with"
                )

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Return the network's tensors alone."""
        return {f"network.{k}": v for k, v in self.network.state_dict().items()}
