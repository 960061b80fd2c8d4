"""Training: a tiny model memorises, a resumed run equals an uninterrupted one, data are split."""

from __future__ import annotations

import json
import math
from copy import deepcopy
from dataclasses import asdict, replace
from types import SimpleNamespace

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hypernet.network.checkpoint import save_checkpoint
from hypernet.network.rows import Rows
from hypernet.training.batches import ANSWER, COMPLETION, BatchBuilder, BatchConfig
from hypernet.training.callbacks import Curve, LastCheckpoint
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.losses import token_nll
from hypernet.training.module import HypernetModule
from hypernet.training.schedule import adamw
from hypernet.training.sources import Item, held_out_articles
from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.store import AdapterStore
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import to_peft
from prag_core.model.packing import Packed
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network, write_question_set
from tests.fixtures.tiny import random_adapter

BATCH = BatchConfig(documents=4, groups=(1, 2), questions=1, completions=1, unrelated=1)


def parts(base, folder, **options):
    """Module and data module on the tiny model, data loaded."""
    torch.manual_seed(0)
    settings = {"network": CONFIG, "learning_rate": 2e-2, "warmup_steps": 2} | options
    module = HypernetModule(**settings)
    module.base = base
    module.configure_model()
    data = HypernetDataModule([str(write_question_set(folder))], validation_articles=2, batch=BATCH)
    data.load(base)
    return module, data


def fit(module, data, folder, steps, resume=None, **settings):
    checkpoint = ModelCheckpoint(folder, monitor="val/gold_nll", save_top_k=-1)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, callbacks=[checkpoint],
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
        val_check_interval=3, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        default_root_dir=folder, gradient_clip_val=1.0, **settings,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=resume)


def nll(module, batch, rows) -> float:
    states = module.hidden_states(batch["rows"], rows)
    logits = module.logits(states, batch["positions"])
    return torch.nn.functional.cross_entropy(logits, batch["targets"]).item()


def test_tiny_model_memorises(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path, unrelated_weight=0.0)
    module.calibrate(data.calibration_ids(6))
    builder = data._builder(data.training, [1.0], BatchConfig(4, (1,), 1, 0, 0))
    optimizer = torch.optim.Adam(module.network.parameters(), 1e-2)
    module.log_dict = module.log = lambda *args, **kwargs: None
    for step in range(60):
        optimizer.zero_grad()
        module.training_step(builder.build(step), step).backward()
        optimizer.step()
    items = data.training[0]
    chosen = BatchBuilder(tiny_base.tokenizer, [items[:1]], [1.0], BatchConfig(1, (1,), 1, 0, 0))
    other = BatchBuilder(tiny_base.tokenizer, [items[1:2]], [1.0], BatchConfig(1, (1,), 1, 0, 0))
    batch = chosen.build(0)
    with torch.no_grad():
        gold = nll(module, batch, module.generate_rows(batch))
        shuffled = nll(module, batch, module.generate_rows(other.build(0)))
    assert gold < shuffled - 0.1


@pytest.mark.parametrize(("accumulated", "step"), [(1, 3), (2, 1)])  # after batch 3 of either
def test_resumed_run_equals_an_uninterrupted_one(tiny_base, tmp_path, accumulated, step):
    settings = {"accumulate_grad_batches": accumulated}
    whole, data = parts(tiny_base, tmp_path / "data")
    fit(whole, data, tmp_path / "whole", 6, **settings)
    again, data = parts(tiny_base, tmp_path / "data")
    last = tmp_path / "whole" / f"epoch=0-step={step}.ckpt"
    fit(again, data, tmp_path / "again", 6, resume=last, **settings)
    pairs = zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    for value, other in pairs:
        torch.testing.assert_close(other, value)


@pytest.mark.parametrize("steps", [1000, -1])
def test_time_ends_a_run_that_goes_on_with_what_it_used(tiny_base, tmp_path, monkeypatch, steps):
    now = iter(range(0, 10**6, 10))  # ten seconds pass at every look at the clock
    monkeypatch.setattr("hypernet.training.schedule.time.monotonic", lambda: float(next(now)))
    module, data = parts(tiny_base, tmp_path / "data", max_hours=100 / 3600)
    last = LastCheckpoint(str(tmp_path), 1)

    def run(module, resume=None):
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, logger=False,
            callbacks=[Curve(str(tmp_path)), last],
            enable_progress_bar=False, enable_model_summary=False, limit_val_batches=1,
            val_check_interval=1000, check_val_every_n_epoch=None, num_sanity_val_steps=0,
            default_root_dir=tmp_path, enable_checkpointing=True,
        )  # fmt: skip
        trainer.fit(module, datamodule=data, ckpt_path=resume)
        return json.loads((tmp_path / "curve.json").read_text())

    (point,) = run(module)  # a last validation, though none was due
    assert point["seconds"] >= 100 and 0 < point["step"] < 10
    assert point["documents"] == 4 * point["step"]
    assert min(point[name] for name in ("own", "another's", "none")) > 0
    again, data = parts(tiny_base, tmp_path / "data", max_hours=100 / 3600)
    first, second = run(again, str(tmp_path / "last.ckpt"))
    assert first == point and second["step"] == point["step"] + 1  # its time was used


def test_documents_longer_than_what_is_encoded_at_once_are_refused(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path)
    module.trainer, data.max_document_tokens = SimpleNamespace(datamodule=data), 385
    with pytest.raises(ValueError, match=r"got data.max_document_tokens 385"):
        module.setup("fit")
    module.setup("validate")
    data.max_document_tokens, module.network_config = 32, replace(CONFIG, max_tokens=32)
    with pytest.raises(ValueError, match="and the second above 32, which their parts have in"):
        module.setup("fit")


def test_a_document_is_never_another_one(tiny_base, tmp_path):
    """Where few are of a length, and one stands twice in a batch."""
    module, data = parts(tiny_base, tmp_path)
    module.trainer, logged = SimpleNamespace(datamodule=data), {}
    module.log_dict = lambda values, batch_size, **_: logged.update(
        {name: (float(value), batch_size) for name, value in values.items()}
    )
    config = BatchConfig(documents=3, groups=(1,), questions=1, completions=0, unrelated=0)

    def validated(items):
        batch = BatchBuilder(tiny_base.tokenizer, [items], [1.0], config).build(0)
        module.validation_step(batch, 0)
        return batch

    with torch.no_grad():
        validated(data.training[0][:1])
        assert logged["val/gold_nll"][1] == 1 and logged["val/shuffled_nll"][1] == 0
        batch = validated(data.training[0][:2])
        rows, ids = module.generate_rows(batch), batch["document_ids"]
        states = module.hidden_states(batch["rows"], Rows(rows.a.roll(1, 0), rows.b.roll(1, 0)))
    losses = token_nll(module.logits(states, batch["positions"]), batch["targets"])
    owner = batch["positions"] // batch["rows"].ids.shape[1]
    apart = torch.tensor([number for number in range(3) if ids[number] != ids[number - 1]])
    assert len(apart) == 2
    expected = losses[torch.isin(owner, apart)].mean()
    assert logged["val/shuffled_nll"] == (pytest.approx(float(expected)), 1)


def test_what_is_held_out_is_what_no_training_of_the_weights_drew(tiny_base, tmp_path):
    names = parts(tiny_base, tmp_path / "data")[1].held_out
    assert len(names) == 2
    for notes, expected in (({"held_out": names[:1]}, names[:1]), ({}, [])):
        folder = tmp_path / f"weights{len(notes)}"
        save_checkpoint(folder, network(tiny_base), CONFIG, tiny_base, notes)
        module, data = parts(tiny_base, tmp_path / "data", weights=str(folder))
        fit(module, data, tmp_path / f"run{len(notes)}", 1)
        assert module.held_out == expected


def test_what_no_batch_asks_has_no_loss(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path)
    data.batch = replace(BATCH, completions=0)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=1,
    )  # fmt: skip
    module.untrained = False
    (logged, *_) = trainer.validate(module, datamodule=data, verbose=False)
    assert math.isnan(logged["val/gold_completion_nll"]) and logged["val/gold_nll"] > 0
    module.made_for = "turns-123456"
    with pytest.warns(UserWarning, match="got weights made for prompt turns-123456, which are"):
        trainer.validate(module, datamodule=data, verbose=False)


def test_checkpoint_of_other_settings_is_refused(tiny_base, tmp_path):
    module, _ = parts(tiny_base, tmp_path)
    with pytest.raises(ValueError, match="got a checkpoint with network_config"):
        module.on_load_checkpoint({"network_config": {"width": 1}})


def test_checkpoint_with_a_missing_tensor_is_refused(tiny_base, tmp_path):
    module, _ = parts(tiny_base, tmp_path)
    settings = asdict(module.network_config), tiny_base.fingerprint
    record = dict(zip(("network_config", "base_fingerprint"), settings, strict=True))
    record["state_dict"] = module.state_dict()
    del record["network_config"]["key_rank"]  # written before there was such a setting
    module.on_load_checkpoint(record)
    del record["state_dict"]["network.gate.bias"]
    with pytest.raises(ValueError, match=r"missing, foreign or misshapen tensors \['network.gate"):
        module.on_load_checkpoint(record)


def test_weights_and_another_network_contradict(tiny_base, tmp_path):
    save_checkpoint(tmp_path, network(tiny_base), CONFIG, tiny_base)
    module = HypernetModule(network=replace(CONFIG, width=32), weights=str(tmp_path))
    module.base = tiny_base
    with pytest.raises(ValueError, match="or leave out"):
        module.configure_model()


def test_without_an_adapter_nothing_unrelated_changes(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path)
    batch = data._builder(data.training, [1.0], BATCH).build(0)
    with torch.no_grad():
        plain = module.hidden_states(batch["rows"], None)
        attached = module.hidden_states(batch["rows"], module.generate_rows(batch))
        assert module._unrelated_kl(batch, plain).abs() < 1e-5
        assert module._unrelated_kl(batch, attached) > 1e-4


def test_only_the_network_is_saved(tiny_base, tmp_path):
    module, _ = parts(tiny_base, tmp_path)
    assert all(key.startswith("network.") for key in module.state_dict())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_batches_depend_on_seed_and_step_alone(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    first, second = (data._builder(data.training, [1.0], BATCH) for _ in range(2))
    first.build(0)
    assert first.build(5)["document_ids"] == second.build(5)["document_ids"]
    for key, value in first.build(5).items():
        if key == "document_ids":
            continue
        other = second.build(5)[key]
        for x, y in zip(
            *((v if isinstance(v, Packed) else [v]) for v in (value, other)), strict=True
        ):
            assert torch.equal(torch.as_tensor(x), torch.as_tensor(y))
    assert first.build(5)["document_ids"] != first.build(6)["document_ids"]


def test_targets_are_the_answers(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    config = BatchConfig(documents=2, groups=(1,), questions=1, completions=0, unrelated=0)
    batch = data._builder(data.training, [1.0], config).build(0)
    # A target is a child of the token that predicts it.
    packed, width = batch["rows"], batch["rows"].ids.shape[1]
    for position, target in zip(batch["positions"], batch["targets"], strict=True):
        row, place = divmod(int(position), width)
        below = packed.seen[row, :, place] & (packed.depths[row] == packed.depths[row, place] + 1)
        assert target in packed.ids[row][below]
    text = tiny_base.tokenizer.decode(batch["targets"])
    answers = text.split("<e>")[:2]
    assert set(answers) <= {f" {pair[1]}" for item in data.training[0] for pair in item.pairs}


def test_recitations_ask_for_the_text_by_its_title(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    config = BatchConfig(documents=1, groups=(1,), questions=0, completions=0, recitations=1)
    builder = data._builder(data.training, [1.0], config)
    batch = builder.build(0)
    (item,) = (x for x in data.training[0] if [x.document.id] == batch["document_ids"])
    assert batch["targets"].tolist() == list(item.text_ids[:48])
    assert item.document.title in tiny_base.tokenizer.decode(batch["rows"].ids[0])
    assert (batch["kinds"] == COMPLETION).all()


def test_weights_mix_sets_and_corpora(tiny_base, tmp_path):
    folders = [str(write_question_set(tmp_path / name)) for name in "ab"]
    text = '{"title": "%s", "text": "One two three four five six seven eight nine."}\n'
    for name in "cd":
        (tmp_path / f"{name}.jsonl").write_text(text % name)
    corpora = [str(tmp_path / f"{name}.jsonl") for name in "cd"]
    data = HypernetDataModule(
        folders, corpora, weights=(0, 0, 0, 1), batch=BATCH, validation_articles=1
    )
    data.load(tiny_base)
    chosen = data.train_dataloader().dataset[0]["document_ids"]
    assert set(chosen) == {data.training[3][0].document.id}
    data.weights = ()
    assert data._shares() == pytest.approx([0.375, 0.375, 0.125, 0.125])
    with pytest.raises(ValueError, match="got 1 weights, expected 4"):
        HypernetDataModule(folders, corpora, weights=(1,))


def test_rows_of_one_kind_change_no_others(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    both, alone = (
        data._builder(data.training, [1.0], replace(BATCH, groups=(1,), **options)).build(3)
        for options in ({}, {"completions": 0, "unrelated": 0, "passages": True})
    )
    assert both["document_ids"] == alone["document_ids"]
    assert torch.equal(both["documents"], alone["documents"])
    assert torch.equal(both["targets"][both["kinds"] == ANSWER], alone["targets"])


def test_processes_draw_different_batches_of_a_step(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    builder = data._builder(data.training, [1.0], BATCH)
    first, second = (builder.build(0, rank)["rows"].ids for rank in (0, 1))
    assert first.shape != second.shape or not torch.equal(first, second)


def test_the_teacher_reads_with_its_adapter(tiny_base, tiny_spec, tmp_path):
    reader = random_adapter(tiny_spec, tiny_base)
    bare, data = parts(tiny_base, tmp_path)
    batch = data._builder(data.training, [1.0], replace(BATCH, passages=True)).build(0)
    before, logits = bare.teacher_logits(batch), bare.teacher_logits(batch, reader)
    assert (logits - before).abs().max() > 1e-2
    torch.testing.assert_close(before, bare.teacher_logits(batch))
    bare.base = replace(tiny_base, model=deepcopy(tiny_base.model))
    for path, (a, b) in reader.tensors.items():
        weight = bare.base.model.get_submodule(path).weight
        weight.data += reader.spec.alpha / reader.spec.rank * (b @ a).to(weight)
    torch.testing.assert_close(logits, bare.teacher_logits(batch), atol=1e-4, rtol=1e-4)


def test_a_fit_learns_from_its_teacher(tiny_base, tiny_spec, tmp_path, recwarn):
    reader = random_adapter(tiny_spec, tiny_base)
    reader.metadata["prompt"] = "another"
    to_peft(reader, tmp_path / "reader", "tiny")
    losses = []
    for teacher in ("", str(tmp_path / "reader")):
        module, data = parts(tiny_base, tmp_path, teacher=teacher, teacher_weight=1.0)
        data.batch = replace(BATCH, passages=True)
        fit(module, data, tmp_path / f"fit{len(losses)}", 1)
        losses.append(float(module.trainer.callback_metrics["train/teacher_kl"]))
    assert losses[0] != losses[1]
    assert any("trained in the prompt another" in str(warning.message) for warning in recwarn)


def test_a_teacher_without_weight_is_refused(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path, teacher="reader")
    with pytest.raises(ValueError, match="got teacher 'reader' with teacher_weight 0"):
        fit(module, data, tmp_path, 1)


def test_articles_are_split(tiny_base, tmp_path):
    _, data = parts(tiny_base, tmp_path)
    kept = {item.document.title for item in data.training[0]}
    held = {item.document.title for item in data.validation}
    assert len(held) == 2 and not kept & held
    assert held_out_articles("abcdef", 2, 0) == held_out_articles("fedcba", 2, 0)


def test_corpora_get_questions_by_rule(tiny_base, tmp_path):
    text = "The mill of Oss was built by Ida Brandt in 1871. It stands still in May."
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"title": "Mill", "text": text}) + "\n")
    data = HypernetDataModule(corpora=[str(tmp_path)], corpus_pairs=2, max_document_tokens=512)
    data.load(tiny_base)
    (item,) = data.training[0]
    assert len(item.facts) >= 2
    assert all(answer in text and ways[0].endswith("?") for ways, answer in item.facts)


def test_a_step_without_anything_to_learn_changes_nothing(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path, answer_weight=0, completion_weight=0)
    module.log_dict = module.log = lambda *args, **kwargs: None
    batch = data._builder(data.training, [1.0], replace(BATCH, unrelated=0)).build(0)
    loss = module.training_step(batch, 0)
    loss.backward()
    assert loss == 0 and not module.network.next_weight.grad.any()


def test_logits_are_capped_as_the_model_caps_them(family_base):
    module = HypernetModule()
    module.base = family_base
    states = 1e4 * torch.randn(3, family_base.model.config.hidden_size)
    logits = module.logits(states, torch.arange(3))
    cap = getattr(family_base.model.config, "final_logit_softcapping", None)
    largest = logits.abs().max()
    assert largest <= cap if cap else largest > 100


def test_biases_and_gains_do_not_decay(tiny_base, tmp_path):
    module, _ = parts(tiny_base, tmp_path)
    names = {id(parameter): name for name, parameter in module.network.named_parameters()}
    whole = [
        names[id(p)] for g in adamw(module.network, 1e-3, 0.0).param_groups for p in g["params"]
    ]
    kept, fast, decayed = adamw(module.network, 1e-3, 0.1).param_groups
    found = {names[id(p)]: group["weight_decay"] for group in (kept, fast, decayed)
             for p in group["params"]}  # fmt: skip
    assert sorted(found) == sorted(whole) == sorted(names.values())
    assert found["next_weight"] == 0.1 == found["shared_b"]
    assert not any(decay for name, decay in found.items() if "bias" in name or "norm" in name)


def test_ranks_are_checked():
    with pytest.raises(ValueError, match="expected groups of 1"):
        replace(BATCH, ranks=(0, 64), groups=(2,))
    with pytest.raises(ValueError, match="got whitening 'none' with head 'perceiver'"):
        replace(CONFIG, head="perceiver", whitening="none")
    with pytest.raises(ValueError, match=r"got ranks \[\], expected some"):
        BatchConfig(ranks=())
    with pytest.raises(ValueError, match="got rank 1, expected 2 or more"):
        CONFIG.check_ranks((0, 1))
    with pytest.raises(ValueError, match="its rank is"):
        replace(CONFIG, head="perceiver").check_ranks((0, 16))


def test_losses_without_rows_are_refused():
    names = ("unrelated", "teacher", "regression", "imitation")
    BATCH.require_rows(unrelated=0.3, teacher=0.0, regression=1.0, imitation=0.01)
    for name in names:
        weights = dict.fromkeys(names, 0.0) | {name: 0.3}
        with pytest.raises(ValueError, match=f"got model.{name}.* and nothing that it applies to"):
            replace(BATCH, unrelated=0, groups=(2,)).require_rows(**weights)


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_base, tmp_path):
    module, data = parts(tiny_base, tmp_path / "data")
    module.learning_rate = float("nan")
    with pytest.raises(ValueError, match="got gradients that are not finite in step 1, expected"):
        fit(module, data, tmp_path / "run", 4)


def test_group_sizes_must_divide():
    with pytest.raises(ValueError, match="expected group sizes that divide"):
        BatchConfig(documents=8, groups=(3,))


def test_trained_adapters_are_imitated(tiny_base, tmp_path):
    settings = {"regression_weight": 100.0, "imitation_weight": 0.01}
    module, _ = parts(tiny_base, tmp_path, **settings)  # without a store: to validate or predict
    with pytest.raises(FileNotFoundError, match="got no adapter store at ''"):
        module.on_fit_start()
    documents = DOCUMENTS[:4]
    spec = AdapterSpec(tiny_base.fingerprint, 4, 8, ("down_proj",), (0, 1))
    with AdapterStore(tmp_path / "trained") as store:
        for number, document in enumerate(documents):
            store.put(f"{document.id}-x", random_adapter(spec, tiny_base, seed=number))
    config = replace(CONFIG, head="last_token_mlp")
    settings |= {"trained_store": str(tmp_path / "trained"), "network": config}
    module, data = parts(tiny_base, tmp_path, **settings)
    module.trainer = SimpleNamespace(datamodule=data)
    module.on_fit_start()
    items = [item for pool in (*data.training, data.validation) for item in pool]
    data.training, known = [items], {document.id for document in documents}
    builder = data._builder([items], [1.0], BatchConfig(len(items), (1,), 1, 0, 0))
    batch, logged = builder.build(0), {}
    module.log_dict = lambda values, **options: logged.update(values)
    module.log = lambda *args, **kwargs: None

    # A perfect imitation: no distance, and the model says the same.
    rows, present = module.trained.rows(batch["document_ids"], module.generate_rows(batch))
    assert [x in known for x in batch["document_ids"]] == present.tolist() and not present.all()
    assert rows.b[~present].abs().max() == 0 < rows.b[present].abs().max()
    _, logits, _ = module.ask(batch, rows)
    perfect = module._imitation(batch, rows, logits)
    assert [float(value) for _, value in perfect.values()] == pytest.approx([0, 0], abs=1e-5)

    # Weights of 1e-7, as published, learn from the distance.
    optimizer, distances = torch.optim.Adam(module.network.parameters(), 1e-2), []
    for step in range(30):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
        distances.append(float(logged["train/regression"]))
    assert distances[-1] < 0.2 * distances[0]
    assert logged["train/imitation_kl"] > 0


def test_trained_adapters_of_another_rank_are_refused(tiny_base, tmp_path):
    spec = AdapterSpec(tiny_base.fingerprint, 2, 4, ("down_proj",), (0, 1))
    with AdapterStore(tmp_path / "trained") as store:
        for document in DOCUMENTS:
            store.put(f"{document.id}-x", random_adapter(spec, tiny_base))
    store = str(tmp_path / "trained")
    settings = {"regression_weight": 1.0, "trained_store": store}
    module, data = parts(tiny_base, tmp_path, **settings)
    module.trainer = SimpleNamespace(datamodule=data)
    with pytest.raises(ValueError, match="for the head ridge, whose rows are a document's tokens"):
        module.setup("fit")
    module.setup("validate")  # what is measured is the network alone
    module.on_fit_start()
    batch = data._builder(data.training, [1.0], BATCH).build(0)
    with pytest.raises(ValueError, match=r"rank 2 .* expected rank 4 .*of this rank"):
        module.trained.rows(
            batch["document_ids"], Rows(torch.ones(4, 2, 4, 128), torch.ones(4, 2, 4, 64))
        )


def test_a_corpus_on_disk_gives_the_batches_of_one_in_memory(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setenv("PRAG_CACHE", str(tmp_path / "cache"))
    lines = [
        json.dumps({"title": f"T{i}", "text": f"Mill {i} of Oss was built in {1800 + i}." * 2})
        for i in range(30)
    ]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join([*lines, json.dumps({"title": "long", "text": "x" * 900})]))
    questions = str(write_question_set(tmp_path / "set"))
    made = []
    for on_disk in (False, True):
        data = HypernetDataModule(
            [questions], [str(corpus)], batch=BATCH, corpus_pairs=1, corpus_on_disk=on_disk,
            validation_articles=1, corpus_share=0.5,
        )  # fmt: skip
        data.load(tiny_base)
        made.append(data)
    assert len(made[1].training[1]) == 30  # without the one that is too long
    assert made[0].calibration_ids(8) == made[1].calibration_ids(8)
    loaders = [iter(data.train_dataloader()) for data in made]
    seen = set()
    for _ in range(6):
        memory, disk = (next(loader) for loader in loaders)
        assert memory["document_ids"] == disk["document_ids"]
        assert torch.equal(memory["rows"].ids, disk["rows"].ids)
        seen |= set(memory["document_ids"])
    assert seen & {Document(r["text"], r["title"]).id for r in map(json.loads, lines)}
    corpus.write_text("\n".join(lines[:5]))  # a changed file is read anew
    made[1].load(tiny_base)
    assert len(made[1].training[1]) == 5


def test_any_family_learns_adapters_that_carry_their_own_document(family_base, tmp_path):
    names = [a + b for a in ("An", "Bo", "Cy", "De", "El", "Fa") for b in ("ra", "li", "so", "mu")]
    things = ["red", "tin", "oak", "jam", "fog", "sun", "pie", "ink"]
    folder = tmp_path / "set"
    folder.mkdir()
    corpus, questions = [], []
    for number, name in enumerate(names):
        thing = things[number % len(things)]
        corpus.append({"id": str(number), "title": name, "text": f"{name} likes {thing}."})
        question = {"id": str(number), "question": f"What does {name} like?"}
        questions.append(question | {"golden_answers": [thing], "gold_ids": [str(number)]})
    for kind, records in (("corpus", corpus), ("questions", questions)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{kind}.jsonl").write_text(lines, encoding="utf-8")
    torch.manual_seed(0)
    module = HypernetModule(learning_rate=1e-2, unrelated_weight=0.0)  # sizes by the model's shape
    module.base = family_base
    module.configure_model()
    data = HypernetDataModule([str(folder)], validation_articles=8, batch=BATCH)
    data.load(family_base)
    module.calibrate(data.calibration_ids(8))
    optimizer = torch.optim.Adam(module.network.parameters(), 1e-2)
    builder = data._builder(data.training, [1.0], BatchConfig(8, (1,), 1, 1, 0, 0))
    module.log_dict = module.log = lambda *args, **kwargs: None
    for step in range(20):
        optimizer.zero_grad()
        module.training_step(builder.build(step), step).backward()
        optimizer.step()
    batch = data._builder([data.validation], [1.0], BatchConfig(8, (1,), 1, 0, 0, 0)).build(0)
    with torch.no_grad():
        rows = module.generate_rows(batch)
        other = Rows(rows.a.roll(1, 0), rows.b.roll(1, 0))
        assert nll(module, batch, rows) < nll(module, batch, other) - 0.1


def test_pieces_inside_of_words_are_those_behind_no_space(tiny_base):
    tokenizer = tiny_base.tokenizer
    item = Item(Document("Ana", "Ana likes red."), (), tuple(range(9)), (("Who?", "Al Bo"),))
    batch = BatchBuilder(tokenizer, [[item]], [1.0], BatchConfig(1, (1,), 1, 0, 0, 0)).build(0)
    assert tokenizer.decode(batch["targets"]) == " Al Bo<e>"
    assert tokenizer.decode(batch["targets"][batch["inner"]]) == "AlBo"
