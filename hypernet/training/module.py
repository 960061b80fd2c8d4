"""Lightning module: a batch goes in, losses come out; only the network is trained and saved."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from torch import Tensor

from hypernet.generation.parametrizer import HypernetParametrizer, store_adapters
from hypernet.network.checkpoint import Checkpoint, check_tensors, continued
from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoder
from hypernet.network.heads import build_head, needs_background
from hypernet.network.rows import Rows
from hypernet.training.attach_rows import attached_rows
from hypernet.training.batch_rows import ANSWER, COMPLETION, Batch
from hypernet.training.losses import kl_to_teacher, mean_by_kind, token_nll
from hypernet.training.regression import TrainedAdapters
from hypernet.training.schedule import adamw, require_finite_gradients, warmup_cosine
from hypernet.training.scores import score_network
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.model.base_model import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.model.padding import pad
from prag_core.training.stacked_lora import short_attention

CALIBRATION_DOCUMENTS, BACKGROUND_DOCUMENTS = 64, 512
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
        regression_weight: float = 0.0,
        trained_store: str = "",
        dtype: str = "auto",
        weights: str | None = None,
        store: str = "runs/hypernet/store",
        score_documents: int = 50,
    ) -> None:
        """Describe the training.

        Args:
            base_model: see `prag_core.model.base_model.load_base_model`.
            network: head and size.
            learning_rate: highest rate of AdamW; cosine to a tenth after the warm-up.
            warmup_steps: linear warm-up.
            weight_decay: of AdamW, on matrices.
            completion_weight: weight of the completions' NLL (the answers' is 1).
            unrelated_weight: weight of the KL to the base model on what documents do not answer.
            teacher_weight: weight of the KL to the model that reads the passage (needs
                `batch.passages`).
            regression_weight: weight of the distance to adapters trained for the same documents
                (DyPRAG; steps of single documents only); needs trained_store.
            trained_store: store of trained adapters (`prag parametrize`), found by document.
            dtype: of the base model.
            weights: exported checkpoint to start from, to validate or to predict with.
            store: folder that `predict` puts adapters into.
            score_documents: held-out documents whose questions `validate` and `test` answer; 0:
                none.
        """
        super().__init__()
        self.base_model, self.network_config = base_model, network
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.weight_decay, self.dtype_name = weight_decay, dtype
        self.completion_weight, self.unrelated_weight = completion_weight, unrelated_weight
        self.teacher_weight, self.weights = teacher_weight, weights
        self.store, self.score_documents = store, score_documents
        self.regression_weight, self.trained_store = regression_weight, trained_store
        self.base: BaseModel | None = None  # no nn.Module: neither trained nor saved
        self.network: torch.nn.Module | None = None
        self.untrained, self.source = False, "training"

    def configure_model(self) -> None:
        """Load the base model and build the network, once."""
        if self.network is not None:
            return
        if self.base is None:
            device = str(self.trainer.strategy.root_device)  # with DDP, of this process
            self.base = load_base_model(self.base_model, self.dtype_name, device)
        self.encoder = Encoder(self.base, self.network_config.layers)
        if self.regression_weight:
            layers = self.network_config.layers
            self.trained = TrainedAdapters(self.trained_store, self.base, layers)
        if self.weights is None:
            inputs, hidden = self.base.module_shape("down_proj")
            self.network = build_head(self.network_config, inputs, hidden)
            self.untrained = True
            return
        self.network, self.source = continued(self.weights, self.network_config, self.base)

    def setup(self, stage: str) -> None:
        """Refuse ranks that the head cannot have, and losses that no row would have."""
        batch = self.trainer.datamodule.batch
        self.network_config.check_ranks(batch.ranks)
        if stage == "fit":
            batch.require_rows(self.unrelated_weight, self.teacher_weight, self.regression_weight)

    def on_validation_start(self) -> None:
        """Refuse to score a network that was not trained, or without questions."""
        if self.trainer.state.fn == "fit":
            return
        if self.untrained or needs_background(self.network):
            raise ValueError(
                "got no weights to score, expected trained ones, with a background where "
                "model.network has one: set --model.weights or --ckpt_path"
            )
        if self.score_documents:
            self.sample = self.trainer.datamodule.sample(self.score_documents)

    on_test_start = on_validation_start

    def on_train_start(self) -> None:
        """Calibrate a new network on training documents, or what is new in it."""
        data = self.trainer.datamodule
        if self.untrained:
            self.calibrate(data.calibration_ids(CALIBRATION_DOCUMENTS))
        if needs_background(self.network):
            rows = [self.encoder.frame(row) for row in data.calibration_ids(BACKGROUND_DOCUMENTS)]
            self.network.set_background(self.encoder.second_moment(rows))
        self.untrained = False

    def calibrate(self, rows: list[list[int]]) -> None:
        """Set the network's constants from the activations on these documents."""
        framed, device = [self.encoder.frame(row) for row in rows], self.base.device
        ids, lengths = pad(framed, self.base.tokenizer.pad_token_id)
        self.network.calibrate(*self.encoder.statistics(ids.to(device), lengths.to(device)))

    def generate_rows(self, batch: Batch) -> Rows:
        """Encode the batch's documents and return the rows of its groups."""
        encoding = self.encoder(batch["documents"], batch["lengths"])
        return self.network(encoding, batch["group"], batch["rank"])

    def hidden_states(self, ids: Tensor, rows: Rows | None) -> Tensor:
        """Return the last hidden states (rows * S, H), with or without generated rows."""
        with attached_rows(self.encoder.linears, rows), short_attention(self.base, ids.shape[1]):
            states = self.base.model.get_submodule("model")(input_ids=ids, use_cache=False)
        return states.last_hidden_state.flatten(0, 1)

    def logits(self, states: Tensor, positions: Tensor) -> Tensor:
        """Return logits (P, V) at flat positions (P,)."""
        return self.base.model.get_output_embeddings()(states[positions])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the weighted sum of the losses."""
        rows = self.generate_rows(batch)
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
        if self.regression_weight and batch["group"] == 1:
            logs["regression"] = self.trained.loss(batch["document_ids"], rows)
            loss = loss + self.regression_weight * logs["regression"]
        self.log_dict({f"train/{k}": v.detach() for k, v in logs.items()}, batch_size=1)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before gradients that are no numbers spoil the weights."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # it skips such steps
            require_finite_gradients(self.network, self.global_step)

    def _unrelated_kl(self, batch: Batch, states: Tensor) -> Tensor:
        with torch.no_grad():
            plain = self.hidden_states(batch["rows"][batch["plain_rows"]], None)
            teacher = self.logits(plain, batch["plain"])
        return kl_to_teacher(self.logits(states, batch["unrelated"]), teacher).mean()

    def _teacher_kl(self, batch: Batch, logits: Tensor) -> Tensor:
        with torch.no_grad():
            teacher = self._teacher_logits(batch)
        return kl_to_teacher(logits[batch["taught"]], teacher).mean()

    def _teacher_logits(self, batch: Batch) -> Tensor:
        """Return logits of the answers' positions from the model that reads the passage."""
        states = self.hidden_states(batch["teacher"], None)
        return self.logits(states, batch["teacher_positions"])

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Log NLL with the document's adapter, of each rank too, another's, and none; a group's.

        Also the KL on what a document does not answer; outside of training, the reading model's.
        """
        encoding = self.encoder(batch["documents"], batch["lengths"])
        rows = self.network(encoding, batch["group"], batch["rank"])
        if dataloader_idx:
            self._log_nll(f"group{batch['group']}", batch, rows)
            return
        for rank in sorted({*self.trainer.datamodule.batch.ranks} - {0}):
            self._log_nll(f"rank{rank}", batch, self.network(encoding, batch["group"], rank))
        self._log_nll("gold", batch, rows)
        self._log_nll("shuffled", batch, Rows(rows.a.roll(1, 0), rows.b.roll(1, 0), rows.shared))
        self._log_nll("closed_book", batch, None)
        if "teacher" in batch:
            targets = batch["targets"][batch["taught"]]
            keys = {"val/in_context_nll": token_nll(self._teacher_logits(batch), targets).mean()}
            self.log_dict(keys, add_dataloader_idx=False, batch_size=1, sync_dist=True)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Outside of training, also answer the held-out questions: containment by condition."""
        if self.trainer.state.fn == "fit" or not self.score_documents:
            return
        conditions = ("closed_book", "in_context", "gold", "shuffled")
        with TemporaryDirectory() as folder:  # these weights come once
            report = score_network(self.parametrizer(), self.sample, conditions, folder)
        values = {
            f"val/{name}_containment": cell.metrics["containment"].mean
            for name, cell in report.conditions.items()
        }
        self.log_dict(values)

    on_test_epoch_end = on_validation_epoch_end

    def parametrizer(self) -> HypernetParametrizer:
        """Return a parametrizer of the network as it is."""
        checkpoint = Checkpoint(self.network, self.network_config, self.source, {})
        return HypernetParametrizer(self.base, checkpoint)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Move tensors; documents (in `predict`) stay as they are."""
        if isinstance(batch, list):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def predict_step(self, batch: list[Document], index: int) -> int:
        """Put documents and adapters into the store; return how many adapters were made.

        Raises:
            ValueError: no exported weights (a store is keyed by them).
        """
        if self.weights is None:
            raise ValueError(
                "got no weights to predict with, expected an exported checkpoint: set "
                "--model.weights, e.g. smollm2-135m-ridge"
            )
        with AdapterStore(self.store) as store:
            return store_adapters(self.parametrizer(), batch, store)

    def _log_nll(self, name: str, batch: Batch, rows: Rows | None) -> None:
        states = self.hidden_states(batch["rows"], rows)
        logits = self.logits(states, batch["positions"])
        nll = mean_by_kind(token_nll(logits, batch["targets"]), batch["kinds"], 2)
        keys = {f"val/{name}_nll": nll[ANSWER], f"val/{name}_completion_nll": nll[COMPLETION]}
        if name == "gold" and "plain" in batch:
            keys["val/unrelated_kl"] = self._unrelated_kl(batch, states)
        self.log_dict(keys, add_dataloader_idx=False, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine."""
        optimizer = adamw(self.network, self.learning_rate, self.weight_decay)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        factor = partial(warmup_cosine, warmup=self.warmup_steps, total=total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the weights belong to."""
        checkpoint["network_config"] = asdict(self.network_config)
        checkpoint["base_model"] = self.base.name
        checkpoint["base_fingerprint"] = self.base.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network or base model.

        Raises:
            ValueError: settings that differ from those of the checkpoint, or other tensors.
        """
        self.configure_model()
        mine = asdict(self.network_config), self.base.fingerprint
        for key, value in zip(("network_config", "base_fingerprint"), mine, strict=True):
            if checkpoint.get(key) != value:
                raise ValueError(
                    f"got a checkpoint with {key} {checkpoint.get(key)}, expected {value} as in "
                    "the configuration: use the YAML that it was trained with"
                )
        check_tensors("the checkpoint", checkpoint["state_dict"], self.state_dict())
        self.untrained = False

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """Return the network's tensors alone."""
        return {f"network.{k}": v for k, v in self.network.state_dict().items()}
