"""Lightning module: a batch goes in, losses come out; only the network is trained and saved."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import lightning
import torch
from torch import Tensor

from hypernet.generation.parametrizer import OVERLAP, HypernetParametrizer
from hypernet.network.checkpoint import Checkpoint, check_tensors, continued
from hypernet.network.config import NetworkConfig
from hypernet.network.encoder import Encoder
from hypernet.network.heads import build_head, needs_background
from hypernet.network.rows import Rows, attached_rows
from hypernet.training.batches import ANSWER, COMPLETION, Batch, beside_others
from hypernet.training.datamodule import ENDLESS
from hypernet.training.losses import TrainedAdapters, token_nll, weight_regression
from hypernet.training.schedule import Clock, adamw, require_finite_gradients, warmup_cosine
from hypernet.training.scores import score_network
from prag_core.adapters.adapter import Adapter
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.chunking import CHUNK_TOKENS, chunk_document
from prag_core.corpus.documents import Document
from prag_core.model.attach import attached
from prag_core.model.base_model import EMBEDDED_NAME, BaseModel, load_base_model
from prag_core.model.hardware import release_freed_memory
from prag_core.model.packing import Packed, packed_states
from prag_core.model.padding import pad
from prag_core.model.prompts import prompt_id
from prag_core.model.token_loss import final_cap, kl_to_teacher, mean_by_owner, soft_capped
from prag_core.model.wordings import find_wording
from prag_core.pipeline.rag import ParametricRAG
from prag_core.training.initial import load_reader
from prag_core.training.stacked_lora import short_attention

CALIBRATION_DOCUMENTS, BACKGROUND_DOCUMENTS = 64, 512
STEPS_A_RELEASE = 10  # of memory that is free
DEFAULT_NETWORK = NetworkConfig()


class HypernetModule(lightning.LightningModule):
    """Trains a head through the frozen base model."""

    def __init__(
        self,
        base_model: str = EMBEDDED_NAME,
        network: NetworkConfig = DEFAULT_NETWORK,
        learning_rate: float = 1e-3,
        warmup_steps: int = 100,
        max_hours: float = 0.0,
        weight_decay: float = 0.0,
        answer_weight: float = 1.0,
        completion_weight: float = 0.3,
        unrelated_weight: float = 0.3,
        teacher_weight: float = 0.0,
        teacher: str = "",
        regression_weight: float = 0.0,
        imitation_weight: float = 0.0,
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
            max_hours: time of the training, validations and earlier runs that it goes on from
                included; the cosine ends with it. 0: `trainer.max_steps` alone ends it.
            weight_decay: of AdamW, on matrices.
            answer_weight: weight of the answers' NLL.
            completion_weight: weight of the completions' NLL.
            unrelated_weight: weight of the KL to the base model on what documents do not answer.
            teacher_weight: weight of the KL to the model that reads the passage (needs
                `batch.passages`).
            teacher: PEFT folder of the LoRA that this model has (see `prag reader`); `auto`: the
                one that is shipped for the base model; empty: none.
            regression_weight: weight of the distance to adapters trained for the same documents
                (DyPRAG: 100; steps of single documents only); needs trained_store.
            imitation_weight: weight of the KL to the model with these adapters, summed over a
                document's targets (DyPRAG: 0.01; likewise).
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
        self.answer_weight, self.completion_weight = answer_weight, completion_weight
        self.unrelated_weight, self.imitation_weight = unrelated_weight, imitation_weight
        self.clock, self.used = Clock(3600 * max_hours), 0.0  # share of its time
        self.teacher_weight, self.teacher, self.weights = teacher_weight, teacher, weights
        self.store, self.score_documents = store, score_documents
        self.regression_weight, self.trained_store = regression_weight, trained_store
        self.reader: Adapter | None = None
        self.problems: list[str] = []  # of documents that were to be predicted
        self.base: BaseModel | None = None  # no nn.Module: neither trained nor saved
        self.network: torch.nn.Module | None = None
        self.untrained, self.source = False, "training"
        # Of the weights that it started from: their prompt, and what they were not trained on.
        self.made_for, self.held_out_before = "", None

    def configure_model(self) -> None:
        """Load the base model and build the network, once."""
        if self.network is not None:
            return
        if self.base is None:
            # Not a buffer of this module, which Lightning would move, train and save.
            device = str(self.trainer.strategy.root_device)  # with DDP, of this process
            self.base = load_base_model(self.base_model, self.dtype_name, device)
        inputs, hidden = self.base.module_shape("down_proj")
        if self.weights is None:
            depth = len(self.base.model.get_submodule("model.layers"))
            self.network_config = self.network_config.fitted(depth, hidden)
            self.network = build_head(self.network_config, inputs, hidden)
            self.untrained = True
        else:
            start = continued(self.weights, self.network_config, self.base)
            self.network, self.source = start.network, start.hash
            self.network_config, self.made_for = start.config, start.prompt
            self.held_out_before = {*start.training.get("held_out", ())}
        config = self.network_config
        self.encoder = Encoder(self.base, config.layers, config.reads_to_the_end)

    def setup(self, stage: str) -> None:
        """Refuse ranks that the head cannot have, and what cannot be trained."""
        batch = self.trainer.datamodule.batch
        self.network_config.check_ranks(batch.ranks)
        if stage == "fit":
            self._require_trainable()
            if self.teacher and not self.teacher_weight:
                raise ValueError(
                    f"got teacher {self.teacher!r} with teacher_weight 0, with which nothing is "
                    "learned from it, expected more: set model.teacher_weight"
                )
            batch.require_rows(
                unrelated=self.unrelated_weight,
                teacher=self.teacher_weight,
                regression=self.regression_weight,
                imitation=self.imitation_weight,
            )

    def _require_trainable(self) -> None:
        """Raise ValueError for losses or documents that the head cannot be trained with."""
        if self.network_config.head == "ridge" and self._imitates:
            raise ValueError(
                "got regression_weight or imitation_weight for the head ridge, whose rows are a "
                "document's tokens, expected 0: trained adapters have another rank"
            )
        longest, most = self.trainer.datamodule.max_document_tokens, self.network_config.max_tokens
        if longest > most or most <= OVERLAP:
            raise ValueError(
                f"got data.max_document_tokens {longest} and model.network.max_tokens {most}, "
                "expected the first at most the second, at which adapters' documents are cut, and "
                f"the second above {OVERLAP}, which their parts have in common: correct them"
            )

    def on_fit_start(self) -> None:
        """Load the adapters that are learned from: the teacher's, and trained ones."""
        if self._imitates:
            layers = self.network_config.layers
            self.trained = TrainedAdapters(self.trained_store, self.base, layers)
        self.reader = load_reader(self.teacher, self.base)
        made_for = self.reader.metadata.get("prompt", "") if self.reader else ""
        if made_for not in ("", self.prompt):
            warnings.warn(
                f"got a teacher that was trained in the prompt {made_for}, which is asked in "
                f"{self.prompt}: set data.batch.prompt",
                stacklevel=2,
            )

    def on_validation_start(self) -> None:
        """Refuse to score a network that was not trained, or without questions."""
        if self.trainer.state.fn == "fit":
            return
        if self.untrained or needs_background(self.network):
            raise ValueError(
                "got no weights to score, expected trained ones, with a background where "
                "model.network has one: set --model.weights or --ckpt_path"
            )
        if self.made_for not in ("", self.prompt):
            warnings.warn(
                f"got weights made for prompt {self.made_for}, which are asked in {self.prompt}: "
                "set data.batch.prompt",
                stacklevel=2,
            )
        others = {*self.trainer.datamodule.held_out} - (self.held_out_before or set())
        if self.held_out_before and others:
            warnings.warn(
                f"got {len(others)} articles to measure on that these weights did not hold out, "
                f"such as {min(others)!r}: they may have been trained on them; use the data of "
                "their training",
                stacklevel=2,
            )
        if self.score_documents:
            self.sample = self.trainer.datamodule.sample(self.score_documents)

    on_test_start = on_validation_start

    def on_train_start(self) -> None:
        """Calibrate a new network on training documents, or what is new in it."""
        data = self.trainer.datamodule
        if self.untrained:  # a resumed or continued network keeps its constants
            self.calibrate(data.calibration_ids(CALIBRATION_DOCUMENTS))
        if needs_background(self.network):
            rows = [self.encoder.frame(row) for row in data.calibration_ids(BACKGROUND_DOCUMENTS)]
            self.network.set_background(self.encoder.second_moment(rows))
        self.untrained = False
        self.clock.run()
        self._look_at_clock()

    def on_train_batch_end(self, outputs: object, batch: Batch, index: int) -> None:
        """End the training, with a last validation, when its time is used."""
        if index % STEPS_A_RELEASE == 0:
            release_freed_memory()
        self._look_at_clock()
        if self.used >= 1:
            self.trainer.should_stop = True

    def _look_at_clock(self) -> None:
        # One clock for all processes: they learn at one rate, and end after the same step.
        if self.clock.limit:
            self.used = self.trainer.strategy.broadcast(self.clock.share)

    def calibrate(self, rows: list[list[int]]) -> None:
        """Set the network's constants from the activations on these documents."""
        framed, device = [self.encoder.frame(row) for row in rows], self.base.device
        ids, lengths = pad(framed, self.base.tokenizer.pad_token_id)
        self.network.calibrate(*self.encoder.statistics(ids.to(device), lengths.to(device)))

    @property
    def prompt(self) -> str:
        """Id of the prompt that the data ask questions in."""
        wording = find_wording(self.trainer.datamodule.batch.prompt)
        return prompt_id(wording, tokenizer=self.base.tokenizer)

    @property
    def held_out(self) -> list[str]:
        """Articles that neither this training nor that of the weights it began with drew.

        Empty where these weights do not name theirs.
        """
        names = self.trainer.datamodule.held_out
        before = self.held_out_before
        return names if before is None else [name for name in names if name in before]

    @property
    def _imitates(self) -> bool:
        return bool(self.regression_weight or self.imitation_weight)

    def generate_rows(self, batch: Batch) -> Rows:
        """Encode the batch's documents and return the rows of its groups."""
        encoding = self.encoder(batch["documents"], batch["lengths"])
        return self.network(encoding, batch["group"], batch["rank"])

    def hidden_states(self, packed: Packed, rows: Rows | None) -> Tensor:
        """Return the last hidden states (B * S, H), with or without generated rows."""
        length = packed.ids.shape[1]
        with attached_rows(self.encoder.linears, rows), short_attention(self.base, length):
            return packed_states(self.base, packed)

    def logits(self, states: Tensor, positions: Tensor) -> Tensor:
        """Return logits (P, V) at flat positions (P,)."""
        # At the positions alone: logits of all would be V / H times as large as the states.
        logits = self.base.model.get_output_embeddings()(states[positions])
        return soft_capped(logits, final_cap(self.base))

    @torch.no_grad()
    def base_logits(self, packed: Packed, positions: Tensor) -> Tensor:
        """Return logits (P, V) of the base model without any adapter."""
        return self.logits(self.hidden_states(packed, None), positions)

    def teacher_logits(self, batch: Batch, adapter: Adapter | None = None) -> Tensor:
        """Return logits (P, V) of the model that reads the passages, with or without adapter."""
        with attached(self.base, adapter):
            return self.base_logits(batch["teacher"], batch["teacher_positions"])

    def ask(self, batch: Batch, rows: Rows | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden states, the targets' logits (P, V), and their mean NLL by kind (2,)."""
        states = self.hidden_states(batch["rows"], rows)
        logits = self.logits(states, batch["positions"])
        nll = mean_by_owner(token_nll(logits, batch["targets"]), batch["kinds"], 2)
        return states, logits, nll

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the weighted sum of the losses."""
        rows = self.generate_rows(batch)
        states, logits, nll = self.ask(batch, rows)
        losses = {  # (weight, value)
            "answer_nll": (self.answer_weight, nll[ANSWER]),
            "completion_nll": (self.completion_weight, nll[COMPLETION]),
        }
        # A loss of weight 0 is not computed: most cost a pass of the base model.
        if self.unrelated_weight and "plain" in batch:
            losses["unrelated_kl"] = self.unrelated_weight, self._unrelated_kl(batch, states)
        if self.teacher_weight and "teacher" in batch:
            teacher = self.teacher_logits(batch, self.reader)
            kl = kl_to_teacher(logits[batch["taught"]], teacher).mean()
            losses["teacher_kl"] = self.teacher_weight, kl
        if self._imitates and batch["group"] == 1:
            losses |= self._imitation(batch, rows, logits)
        # From 0: a step may have nothing that any loss of a weight is about.
        loss = sum((w * value for w, value in losses.values() if w), 0.0 * nll.sum())
        self.log_dict({f"train/{k}": v.detach() for k, (_, v) in losses.items()}, batch_size=1)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=1)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before gradients that are no numbers spoil the weights."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # it skips such steps
            require_finite_gradients(self.network, self.global_step)

    def _unrelated_kl(self, batch: Batch, states: Tensor) -> Tensor:
        plain = self.base_logits(batch["plain_rows"], batch["plain"])
        return kl_to_teacher(self.logits(states, batch["unrelated"]), plain).mean()

    def _imitation(self, batch: Batch, rows: Rows, logits: Tensor) -> dict[str, tuple]:
        """Return the distance to trained adapters, and the KL to the model that has them.

        Both are means over the documents that have one; without any there is nothing to learn.
        """
        trained, present = self.trained.rows(batch["document_ids"], rows)
        if not present.any():
            return {}
        distance = weight_regression(rows, trained)[present].mean()
        with torch.no_grad():
            teacher = self.logits(self.hidden_states(batch["rows"], trained), batch["positions"])
        height, width = batch["rows"].ids.shape
        owner = batch["positions"] // (width * (height // len(present)))  # (P,), a document each
        kl = kl_to_teacher(logits, teacher)[present[owner]].sum() / present.sum()
        return {
            "regression": (self.regression_weight, distance),
            "imitation_kl": (self.imitation_weight, kl),
        }

    def validation_step(self, batch: Batch, index: int, dataloader_idx: int = 0) -> None:
        """Log NLL with the document's adapter, of each rank too, another's, and none; a group's.

        Also the accuracy inside of an answer's words, and the KL on what a document does not
        answer; outside of training, the reading model's NLL.
        """
        # Encoded once: adapters of every rank are made of the same keys.
        encoding = self.encoder(batch["documents"], batch["lengths"])
        rows = self.network(encoding, batch["group"], batch["rank"])
        if dataloader_idx:  # the second loader has the groups
            self._log_nll(f"group{batch['group']}", batch, rows)
            return
        for rank in sorted({*self.trainer.datamodule.batch.ranks} - {0}):
            self._log_nll(f"rank{rank}", batch, self.network(encoding, batch["group"], rank))
        self._log_nll("gold", batch, rows)
        # Rolled by one: each document is asked with its neighbour's adapter.
        others = Rows(rows.a.roll(1, 0), rows.b.roll(1, 0))
        self._log_nll("shuffled", beside_others(batch), others)
        self._log_nll("closed_book", batch, None)
        if "teacher" in batch:
            nll = token_nll(self.teacher_logits(batch), batch["targets"][batch["taught"]])
            self._log({"in_context_nll": nll.mean()})

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Outside of training, also answer the held-out questions: containment by condition."""
        if self.trainer.state.fn == "fit" or not self.score_documents:
            return
        conditions = ("closed_book", "in_context", "gold", "shuffled")
        with TemporaryDirectory() as folder:  # these weights come once
            report = score_network(self.parametrizer(), self.sample, conditions, folder)
        for name, cell in report.conditions.items():
            self.log(f"val/{name}_containment", cell.metrics["containment"].mean)

    on_test_epoch_end = on_validation_epoch_end

    def parametrizer(self) -> HypernetParametrizer:
        """Return a parametrizer of the network as it is."""
        # Without another note of its training: it goes on.
        note = {"prompt": self.made_for or self.prompt}
        checkpoint = Checkpoint(self.network, self.network_config, self.source, note)
        return HypernetParametrizer(self.base, checkpoint)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int):
        """Move tensors; documents (in `predict`) stay as they are."""
        if isinstance(batch, list):  # Lightning would look for tensors in frozen records
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_predict_start(self) -> None:
        """Refuse weights that are not exported (a store is keyed by them), or lack a background."""
        if self.source == "training":
            raise ValueError(
                "got no exported weights to predict with, expected them: set --model.weights, e.g. "
                "smollm2-135m-ridge, without --ckpt_path (`hypernet export` makes them of it)"
            )
        if needs_background(self.network):
            raise ValueError(
                f"got weights {self.weights} without a background, expected one, as "
                "model.network.background asks for it: set it to 0, or train weights that have it"
            )

    def predict_step(self, batch: list[Document], index: int) -> int:
        """Put documents and adapters into the store; return how many adapters there are in it.

        A long document becomes chunks, as `prag parametrize` makes them. A record of a document
        that the store has stays as it is.

        What no adapter can be made of is said at the end.
        """
        made = self.parametrizer()
        # Without Lightning's autocast, as `prag parametrize` makes them: the closed form is exact.
        exact = torch.autocast(self.base.device.type, enabled=False)
        with AdapterStore(self.store) as store, exact:
            # Without the documents of earlier batches, which need no index here.
            rag = ParametricRAG(self.base, parametrizer=made, store=store, documents=())
            documents = self._cut(batch, store)
            try:
                rag.add_documents(documents)
            except ValueError as error:  # the others of the batch have theirs
                self.problems.append(str(error))
            added = [d for d in documents if d.id in rag.documents and not _is_kept(d, store)]
            store.put_records("document", {d.id: asdict(d) for d in added})
            return len(store)

    def on_predict_end(self) -> None:
        """Raise ValueError for documents that no adapter could be made of, batch by batch."""
        if self.problems:
            raise ValueError("\n".join(self.problems))

    def _cut(self, documents: list[Document], store: AdapterStore) -> list[Document]:
        """Cut long documents into chunks; what the store holds whole stays whole."""
        sizes = self.base.tokenizer, CHUNK_TOKENS
        parts = ([d] if _is_kept(d, store) else chunk_document(d, *sizes) for d in documents)
        return [document for part in parts for document in part]

    def _log_nll(self, name: str, batch: Batch, rows: Rows | None) -> None:
        states, logits, nll = self.ask(batch, rows)
        for kind, key in ((ANSWER, f"{name}_nll"), (COMPLETION, f"{name}_completion_nll")):
            self._log({key: nll[kind]}, bool((batch["kinds"] == kind).any()))
        # Pieces of an answer that go on with a word, given those before: do names come out whole?
        right = (logits.argmax(-1) == batch["targets"])[batch["inner"]]  # (pieces,)
        self._log({f"{name}_inner_accuracy": right.sum() / max(1, len(right))}, len(right) > 0)
        if name == "gold" and "plain" in batch:
            self._log({"unrelated_kl": self._unrelated_kl(batch, states)})

    def _log(self, values: dict[str, Tensor], measured: bool = True) -> None:
        # What no batch had anything of is nan.
        named = {f"val/{name}": value for name, value in values.items()}
        # One name whichever loader it comes from: `best_checkpoint` monitors val/gold_nll.
        self.log_dict(named, add_dataloader_idx=False, batch_size=int(measured), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with warm-up and cosine."""
        optimizer = adamw(self.network, self.learning_rate, self.weight_decay)
        # Not Lightning's estimate: it would draw the batches before a checkpoint says where to go
        # on. Without a number of steps (-1), time ends the training.
        total = self.trainer.max_steps if self.trainer.max_steps > 0 else ENDLESS
        batches = self.trainer.limit_train_batches  # of an epoch; a float is a share of them all
        if (self.trainer.max_epochs or 0) > 0 and isinstance(batches, int):
            steps = batches // self.trainer.accumulate_grad_batches
            total = min(total, self.trainer.max_epochs * max(1, steps))

        def factor(step: int) -> float:
            return warmup_cosine(step, self.warmup_steps, total, self.used)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what the weights belong to."""
        checkpoint["network_config"] = asdict(self.network_config)
        checkpoint["base_model"], checkpoint["prompt"] = self.base.name, self.prompt
        checkpoint["held_out"] = self.held_out
        checkpoint["base_fingerprint"] = self.base.fingerprint
        checkpoint["seconds"] = self.clock.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network or base model; to train on, of other data.

        Raises:
            ValueError: settings that differ from those of the checkpoint, or other tensors.
        """
        self.configure_model()
        self.made_for, self.source = checkpoint.get("prompt", ""), "training"
        self.held_out_before = {*checkpoint.get("held_out", ())}
        # Before the tensors: a setting tells more than a shape. What it does not name was off.
        named = asdict(NetworkConfig()) | checkpoint.get("network_config", {})
        for key, found, value in (
            ("network_config", named, asdict(self.network_config)),
            ("base_fingerprint", checkpoint.get("base_fingerprint"), self.base.fingerprint),
        ):
            if found != value:
                raise ValueError(
                    f"got a checkpoint with {key} {found}, expected {value} as in "
                    "the configuration: use the YAML that it was trained with"
                )
        if "held_out" in checkpoint and self.trainer.state.fn == "fit":
            self._require_same_data(checkpoint)
        check_tensors("the checkpoint", checkpoint["state_dict"], self.state_dict())
        if "loops" in checkpoint:
            _begin_step_again(checkpoint, self.trainer.accumulate_grad_batches)
        self.clock.before = checkpoint.get("seconds", 0.0)
        self.untrained = False

    def _require_same_data(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError where the data ask in another prompt, or hold out other articles."""
        held_out = {*checkpoint["held_out"]}
        other = "prompt" if checkpoint["prompt"] != self.prompt else ""
        if held_out - {*self.trainer.datamodule.held_out}:
            other = "held_out"
        if other:
            raise ValueError(
                f"got data with another {other} than the checkpoint was trained with, expected "
                "the same: use its YAML, or export it and set model.weights"
            )


def _begin_step_again(checkpoint: dict[str, Any], accumulated: int) -> None:
    """Count a checkpoint's batches to its last step, behind which the data go on.

    Within a step it lacks the gradients of that step's first batches.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    begun = progress["total"]["ready"] - checkpoint["global_step"] * accumulated
    if begun > 0:
        for counts in (progress["total"], progress["current"]):
            counts |= dict.fromkeys(counts, counts["ready"] - begun)


def _is_kept(document: Document, store: AdapterStore) -> bool:
    return store.get_record("document", document.id) is not None
