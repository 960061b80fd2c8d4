"""The background of a ridge memory: general text that it leaves alone, against dense algebra."""

from __future__ import annotations

from dataclasses import replace

import lightning
import pytest
import torch

from hypernet.generation.parametrizer import HypernetParametrizer
from hypernet.network.checkpoint import Checkpoint, continued, load_checkpoint, save_checkpoint
from hypernet.network.encoder import Encoder
from hypernet.network.heads import needs_background
from hypernet.training.batches import BatchConfig
from hypernet.training.datamodule import HypernetDataModule
from hypernet.training.module import HypernetModule
from prag_core.adapters.low_rank import reduce_rank
from prag_core.adapters.merge import merge
from prag_core.corpus.documents import Document
from prag_core.model.padding import pad
from tests.fixtures.hypernetworks import CONFIG, DOCUMENTS, network, write_question_set

WITH = replace(CONFIG, background=8, background_weight=30.0)
GENERAL = ["The fox is in the wood.", "She went to town in May.", "Ten men sat at one table."]


def frames(base, texts=GENERAL):
    return [Encoder(base, CONFIG.layers).frame(base.tokenizer(t).input_ids) for t in texts]


def tokens(base):
    return Encoder(base, CONFIG.layers).tokens(*pad(frames(base), 0))


def moment(base):
    return Encoder(base, CONFIG.layers).second_moment(frames(base), batch_size=2)


def head_of(base, config=WITH):
    head = network(base, config)
    if config.background:
        head.set_background(moment(base))
    return head


def adapters(base, config=WITH, documents=DOCUMENTS):
    made = HypernetParametrizer(base, Checkpoint(head_of(base, config), config, "x", {}),
                                dtype="float32")  # fmt: skip
    return made.parametrize(documents)


def update(adapter, path):
    a, b = adapter.tensors[path]
    return b.double() @ a.double()


def whitened(head, keys, layer):
    """Whitened keys K of one layer (R, I), in float64."""
    return keys.double() * head.whitening[layer].double() / keys.shape[-1] ** 0.5


def test_background_is_the_second_moment_of_general_text(tiny_base):
    config = replace(WITH, background=64)  # all directions of the tiny model's keys
    head = head_of(tiny_base, config)
    keys = whitened(head, tokens(tiny_base)[0], 0)
    eye = torch.eye(64, dtype=torch.float64)
    expected = torch.linalg.inv(eye + 30.0 * keys.T @ keys / len(keys))
    found = eye - (head.background[0].double().T @ head.background[0].double())
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_memory_equals_least_squares_that_maps_general_text_to_zero(tiny_base):
    head = head_of(tiny_base)
    encoder = Encoder(tiny_base, CONFIG.layers)
    rows = [encoder.frame(tiny_base.tokenizer(f"{d.title}: {d.text}").input_ids) for d in DOCUMENTS]
    encoding = encoder(*pad(rows[:1], 0))
    a = head(encoding).a[0, 0, : -CONFIG.shared_rows].detach()
    keys = whitened(head, encoding.keys[0, 0] * encoding.mask[0][:, None], 0)
    # |W K' - V|^2 + lambda tr(W (1 + mu C_k) W'), C_k from the kept directions
    n = head.background[0].double()
    eye = torch.eye(keys.shape[1], dtype=torch.float64)
    inverse = torch.linalg.inv(eye - n.T @ n)
    strength = head.log_ridge[0].exp().double().detach()
    scale = head.whitening[0].double() / keys.shape[1] ** 0.5
    expected = keys @ torch.linalg.inv(keys.T @ keys + strength * inverse) * scale
    torch.testing.assert_close(a.double(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.5)])
@pytest.mark.parametrize("count", [2, 6])  # 6 documents have more rows than outputs
def test_merge_solves_again_with_the_background(tiny_base, count, weights):
    weights = [*weights, *[1.0] * (count - 2)]
    head, encoder = head_of(tiny_base), Encoder(tiny_base, CONFIG.layers)
    single = adapters(tiny_base)[:count]
    merged = merge(single, weights)
    n = head.background[0].double()
    metric = torch.eye(n.shape[1], dtype=torch.float64) - n.T @ n
    keys, values = [], []
    path = merged.spec.paths()[0]
    for document, adapter, weight in zip(DOCUMENTS, single, weights, strict=False):
        ids = encoder.frame(tiny_base.tokenizer(f"{document.title}: {document.text}").input_ids)
        encoding = encoder(*pad([ids], 0))
        keys.append(whitened(head, encoding.keys[0, 0][encoding.mask[0]], 0) * weight)
        values.append(adapter.tensors[path][1][:, : -CONFIG.shared_rows].double() * weight)
    k, v = torch.cat(keys), torch.cat(values, 1)
    strength = head.log_ridge[0].exp().double().detach()
    system = k @ metric @ k.T + strength * torch.eye(len(k), dtype=torch.float64)
    scale = head.whitening[0].double() / k.shape[1] ** 0.5
    shared = CONFIG.shared_rows
    a, b = (x.double() for x in single[0].tensors[path])
    expected = v @ torch.linalg.solve(system, k @ metric) * scale + b[:, -shared:] @ a[-shared:]
    error = (update(merged, path) - expected).norm() / expected.norm()
    assert error < 0.02  # Gram matrices are stored in half precision


def test_merge_in_steps_equals_one_merge(tiny_base):
    documents = [Document(text) for text in ("Ana ran.", "Bob sat.", "Cy sang.")]
    single = adapters(tiny_base, documents=documents)  # fewer rows than outputs
    path = single[0].spec.paths()[0]
    steps, once = merge([merge(single[:2]), single[2]]), merge(single)
    error = (update(steps, path) - update(once, path)).norm() / update(once, path).norm()
    assert error < 0.02


def test_general_text_moves_less(tiny_base):
    path = adapters(tiny_base)[0].spec.paths()[0]
    seen, shared = tokens(tiny_base)[0].double(), CONFIG.shared_rows

    def moved(config):
        a, b = adapters(tiny_base, config)[0].tensors[path]
        return (seen @ a[:-shared].double().T @ b[:, :-shared].double().T).norm()

    assert moved(replace(WITH, background=32)) < 0.7 * moved(CONFIG)


def test_rank_keeps_the_response(tiny_base):
    adapter = adapters(tiny_base)[0]
    small = reduce_rank(adapter, adapter.rank - 1)
    path = adapter.spec.paths()[0]
    error = (update(small, path) - update(adapter, path)).norm() / update(adapter, path).norm()
    assert small.rank < adapter.rank and error < 0.1


def test_weights_without_a_background_can_be_trained_on_with_one(tiny_base, tmp_path):
    save_checkpoint(tmp_path, network(tiny_base), CONFIG, tiny_base)
    head = continued(str(tmp_path), WITH, tiny_base).network
    assert needs_background(head)
    head.set_background(moment(tiny_base))
    assert not needs_background(head)
    save_checkpoint(tmp_path / "new", head, WITH, tiny_base)
    again = load_checkpoint(tmp_path / "new", tiny_base)
    assert again.config == WITH and not needs_background(again.network)
    with pytest.raises(ValueError, match="got network settings"):
        continued(str(tmp_path / "new"), CONFIG, tiny_base)


def test_bad_backgrounds_are_refused(tiny_base):
    with pytest.raises(ValueError, match="got background 8 of weight 0"):
        replace(WITH, background_weight=0.0)
    with pytest.raises(ValueError, match="settings of the ridge head"):
        replace(WITH, head="perceiver")
    with pytest.raises(ValueError, match="got background 65 and keys of 64 dimensions"):
        network(tiny_base, replace(WITH, background=65))


def test_salience_counts_tokens_in_the_least_squares(tiny_base):
    config = replace(WITH, salience=True)
    head = head_of(tiny_base, config)
    with torch.no_grad():
        head.salience.weight.normal_(std=2.0)
    encoder = Encoder(tiny_base, CONFIG.layers)
    ids = encoder.frame(tiny_base.tokenizer(DOCUMENTS[0].text).input_ids)
    encoding = encoder(*pad([ids], 0))
    counts = head._counts(encoding, head.reader(encoding))
    assert counts.std() > 0.05
    rows = head(encoding)
    n, shared = head.background[0].double(), CONFIG.shared_rows
    metric = torch.eye(n.shape[1], dtype=torch.float64) - n.T @ n
    keys = whitened(head, encoding.keys[0, 0] * counts[0, 0], 0)
    system = keys @ metric @ keys.T
    system += head.log_ridge[0].exp().double() * torch.eye(len(keys), dtype=torch.float64)
    scale = head.whitening[0].double() / keys.shape[1] ** 0.5
    expected = torch.linalg.solve(system, keys @ metric) * scale
    torch.testing.assert_close(
        rows.a[0, 0, :-shared].double(), expected, atol=1e-4, rtol=1e-3, check_dtype=False
    )
    rows.a.square().sum().backward()  # through the solve
    assert head.salience.weight.grad.any() and head.log_ridge.grad.any()


@pytest.mark.parametrize("new", [{"salience": True}, {"key_rank": 4}])
def test_what_is_learned_anew_changes_nothing_at_first(tiny_base, tmp_path, new):
    save_checkpoint(tmp_path, network(tiny_base), CONFIG, tiny_base)
    head = continued(str(tmp_path), replace(CONFIG, **new), tiny_base).network
    plain = continued(str(tmp_path), CONFIG, tiny_base).network
    encoder = Encoder(tiny_base, CONFIG.layers)
    encoding = encoder(*pad([encoder.frame(tiny_base.tokenizer("Ana ran.").input_ids)], 0))
    torch.testing.assert_close(head(encoding).a, plain(encoding).a)
    torch.testing.assert_close(head(encoding).b, plain(encoding).b)


@pytest.mark.parametrize("background", [0, WITH.background])
def test_learned_keys_are_solved_and_kept_as_the_frozen_ones(tiny_base, background):
    head = head_of(tiny_base, replace(WITH, key_rank=4, background=background, salience=True))
    with torch.no_grad():
        head.key_up.normal_()
    encoder = Encoder(tiny_base, CONFIG.layers)
    texts = (tiny_base.tokenizer(d.text).input_ids for d in DOCUMENTS[:2])
    encoding = encoder(*pad([encoder.frame(ids) for ids in texts], 0))
    keys, _ = head.pairs(encoding)
    frozen = encoding.keys.float() * encoding.mask[:, None, :, None]
    assert (keys - frozen).norm() > 0.1 * frozen.norm()
    assert not keys[1, :, ~encoding.mask[1]].any()  # padding
    rows = head(encoding)
    for number, (a, _, memory) in enumerate(head.export(encoding)):
        mask = encoding.mask[number]
        own = a[:, : -CONFIG.shared_rows]
        torch.testing.assert_close(
            own, rows.a[number][:, : len(mask)][:, mask], atol=1e-4, rtol=1e-3
        )
        solved = head._solved_keys(keys[number][:, mask])
        for module in range(len(own)):
            recovered = memory.keys(own[module], module)
            torch.testing.assert_close(recovered, solved[module], atol=2e-2, rtol=2e-2)
    (rows.a @ encoding.keys.float().mT).square().sum().backward()  # through the solve
    assert head.key_up.grad.any() and head.key_down.grad.any() and head.log_ridge.grad.any()


def test_training_sets_the_background_once(tiny_base, tmp_path):
    save_checkpoint(tmp_path / "old", network(tiny_base), CONFIG, tiny_base)
    data = HypernetDataModule(
        [str(write_question_set(tmp_path / "set"))], validation_articles=2,
        batch=BatchConfig(documents=4, groups=(1,), questions=1, completions=1, unrelated=1),
    )  # fmt: skip

    def fit(weights, steps):
        module = HypernetModule(network=WITH, weights=str(weights), learning_rate=1e-5)
        module.base = tiny_base
        module.configure_model()
        data.load(tiny_base)
        before = module.network.background.clone()
        trainer = lightning.Trainer(
            accelerator="cpu", max_steps=steps, logger=False, limit_val_batches=0,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        return module, before

    module, before = fit(tmp_path / "old", 1)
    assert not before.any() and module.network.background.any()
    save_checkpoint(tmp_path / "new", module.network, WITH, tiny_base, dtype=torch.float32)
    again, before = fit(tmp_path / "new", 1)
    assert torch.equal(again.network.background, before)  # what the weights came with stays
    untouched = HypernetModule(network=WITH, weights=str(tmp_path / "old"))
    untouched.base = tiny_base
    untouched.trainer = module.trainer
    untouched.configure_model()
    module.trainer.state.fn = "validate"
    with pytest.raises(ValueError, match="got no weights to score"):
        untouched.on_validation_start()
