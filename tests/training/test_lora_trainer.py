"""Trained path: batch-trained adapters equal those trained one by one, and those of PEFT."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
from torch.nn.functional import cross_entropy

from prag_core.adapters.adapter import AdapterSpec
from prag_core.adapters.merge import merge
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import from_peft, to_peft
from prag_core.model.attach import attached
from prag_core.model.wordings import WORDINGS
from prag_core.training.lora_trainer import PAPER, LoraTrainer, paper_options
from prag_core.training.options import LoraTrainingOptions
from prag_core.training.sequences import build_sequences
from tests.fixtures.tiny import random_adapter

AUGMENTER = SimpleNamespace(fingerprint="fixed")
FAST = paper_options(learning_rate=3e-3)


def augmented(number: int, pairs: int = 3, rewrites: int = 1, words: int = 4):
    """A document of its own length, with its own pairs."""
    document = Document(f"Person {number} lives in Tarn. " + f"w{number} " * words, f"P{number}")
    return AugmentedDocument(
        document,
        tuple(f"In Tarn lives person {number}, version {i}." for i in range(rewrites)),
        tuple(QAPair(f"What is {i} of {number}?", f"Value {number * i}") for i in range(pairs)),
    )


UNEVEN = [
    augmented(0),
    augmented(1, words=30),
    augmented(2, pairs=1),
    augmented(3, pairs=0, rewrites=0),
    augmented(4, words=0),
    augmented(5, pairs=5),
    augmented(6, pairs=0),
]


def assert_same(ours, theirs, tolerance: float = 1e-5) -> None:
    assert ours.spec == theirs.spec
    for path, pair in ours.tensors.items():
        for mine, other in zip(pair, theirs.tensors[path], strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"scheme": "recall"},
        {"epochs": 3},
        {"scheme": "recall", "epochs": 2, "sequences_per_step": 2, "loss": "answer"},
        {"scheme": "recall", "epochs": 3, "lr_scheduler_type": "linear"},
        {"scheme": "recall", "epochs": 4, "held_out": 0.34, "lr_scheduler_type": "cosine"},
        {"scheme": "recall", "loss": "answer", "continuations": True, "distillation": 0.7},
        {
            "scheme": "recall",
            "max_steps": 5,
            "sequences_per_step": 2,
            "lr_scheduler_type": "cosine",
        },
        {"scheme": "recall", "loss": "answer", "max_steps": 3, "distillation": 0.7},
        {"weight_decay": 0.1, "modules": ("down_proj",), "layers": (1,), "rank": 3},
    ],
)
def test_trained_together_equals_one_by_one(tiny_base, change):
    trainer = LoraTrainer(tiny_base, AUGMENTER, replace(FAST, **change))
    together = trainer.train(UNEVEN)
    for document, (adapter, loss) in zip(UNEVEN, together, strict=True):
        ((alone, expected),) = trainer.train([document])
        assert adapter.metadata["document_id"] == document.document.id
        assert_same(adapter, alone)
        assert loss == pytest.approx(expected, abs=1e-4)
    first, second = (together[i][0].tensors[trainer.spec.paths()[0]][1] for i in (0, 1))
    assert (first - second).abs().max() > 1e-3  # the documents differ, and so do their adapters


def test_documents_per_batch_changes_nothing(tiny_base):
    expected = LoraTrainer(tiny_base, AUGMENTER, FAST).train(UNEVEN)
    for change in ({"documents_per_batch": 1}, {"documents_per_batch": 5}, {"tokens_per_batch": 1}):
        options = replace(FAST, **change)
        trainer = LoraTrainer(tiny_base, AUGMENTER, options)
        assert trainer.fingerprint == LoraTrainer(tiny_base, AUGMENTER, FAST).fingerprint
        for (ours, _), (theirs, _) in zip(trainer.train(UNEVEN), expected, strict=True):
            assert_same(ours, theirs)


def test_padding_changes_nothing(tiny_base):
    short, long = augmented(0, words=0), augmented(1, words=80)
    trainer = LoraTrainer(tiny_base, AUGMENTER, FAST)
    (padded, _), _ = trainer.train([short, long])
    assert_same(padded, trainer.train([short])[0][0])


@pytest.mark.parametrize("scheme", ["paper", "recall"])
def test_equals_a_peft_training_loop(tiny_base, scheme, tmp_path):
    options = replace(FAST, scheme=scheme)
    trainer = LoraTrainer(tiny_base, AUGMENTER, options)
    ((ours, our_loss),) = trainer.train([UNEVEN[0]])
    start = replace(ours, tensors=trainer.start.tensors)
    to_peft(start, tmp_path, "tiny")
    model = peft.PeftModel.from_pretrained(
        copy.deepcopy(tiny_base.model), tmp_path, is_trainable=True
    )
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.01
    )
    wording = trainer.wording
    sequences = build_sequences(tiny_base.tokenizer, UNEVEN[0], scheme, 3000, wording)
    assert len(sequences) == 5
    for sequence in sequences:
        ids = torch.tensor([sequence.ids])
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert our_loss == pytest.approx(loss.item(), abs=1e-5)
    theirs = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    assert len(theirs) == 12
    for path, (a, b) in ours.tensors.items():
        for letter, tensor in (("A", a), ("B", b)):
            expected = theirs[f"base_model.model.{path}.lora_{letter}.default.weight"]
            torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-5)


def test_answer_loss_counts_the_answer_alone(tiny_base):
    document = augmented(0, pairs=1)
    options = replace(FAST, scheme="paper", loss="answer", sequences_per_step=2)
    ((_, loss),) = LoraTrainer(tiny_base, AUGMENTER, options).train([document])
    losses = []
    for sequence in build_sequences(
        tiny_base.tokenizer, document, "paper", 3000, WORDINGS[options.prompt]
    ):
        logits = tiny_base.model(input_ids=torch.tensor([sequence.ids])).logits[0]
        answer = torch.tensor(sequence.ids[sequence.answer_start :])
        losses.append(cross_entropy(logits[sequence.answer_start - 1 : -1], answer))
    assert loss == pytest.approx(torch.stack(losses).mean().item(), abs=1e-4)


@pytest.mark.parametrize("kind", ["forward", "reverse"])
@pytest.mark.parametrize("has_teacher", [False, True])
def test_distilled_loss_is_the_distance_to_the_model_that_reads(
    tiny_base, tiny_spec, kind, has_teacher
):
    """Of the first step, in which an adapter's B is zero: the base model beside itself."""
    teacher = random_adapter(tiny_spec, tiny_base, 3) if has_teacher else None
    document = AugmentedDocument(augmented(0).document, (), (QAPair("What?", "Tarn"),))
    options = replace(FAST, scheme="recall", loss="answer", sequences_per_step=2, epochs=1)
    # All tokens but one are kept: the others are that one, and nothing is rounded.
    kept = len(tiny_base.tokenizer) - 1
    options = replace(options, prompt="short", distillation=0.7, distillation_kl=kind)
    options = replace(options, distillation_top_k=kept)
    trainer = LoraTrainer(tiny_base, AUGMENTER, options, teacher=teacher)
    ((_, loss),) = trainer.train([document])
    untaught = LoraTrainer(tiny_base, AUGMENTER, options).fingerprint
    assert (trainer.fingerprint == untaught) == (teacher is None)
    tokenizer, passage = tiny_base.tokenizer, f"Passage 1: P0: {document.document.text}"
    total, count = 0.0, 0
    how = ("recall", 3000, WORDINGS[options.prompt])
    for sequence in build_sequences(tokenizer, document, *how, reading=512):
        assert passage in tokenizer.decode(sequence.reading)
        assert passage not in tokenizer.decode(sequence.ids[: sequence.answer_start])
        answer = sequence.ids[sequence.answer_start :]
        both = []
        for prompt, adapter in (
            (sequence.ids[: sequence.answer_start], None), (sequence.reading, teacher),
        ):  # fmt: skip
            with attached(tiny_base, adapter):
                logits = tiny_base.model(torch.tensor([(*prompt, *answer)])).logits
            both.append(logits[0, len(prompt) - 1 : -1])
        alone, read = both
        p, q = read.log_softmax(-1), alone.log_softmax(-1)
        p, q = (p, q) if kind == "forward" else (q, p)
        total += 0.7 * (p.exp() * (p - q)).sum() + 0.3 * cross_entropy(
            alone, torch.tensor(answer), reduction="sum"
        )
        count += len(answer)
    assert loss == pytest.approx((total / count).item(), rel=1e-3)


def test_training_lowers_the_loss_and_leaves_the_base(tiny_base):
    ids = torch.randint(5, 250, (1, 7))
    before = tiny_base.model(input_ids=ids).logits
    once = LoraTrainer(tiny_base, AUGMENTER, FAST).train([UNEVEN[0]])[0]
    often = LoraTrainer(tiny_base, AUGMENTER, replace(FAST, epochs=10)).train([UNEVEN[0]])[0]
    assert often[1] < 0.9 * once[1]
    assert torch.equal(tiny_base.model(input_ids=ids).logits, before)
    with attached(tiny_base, often[0]):
        assert not torch.equal(tiny_base.model(input_ids=ids).logits, before)


def test_parametrize_augments_and_keeps_the_order(tiny_base):
    known = {item.document.id: item for item in UNEVEN}
    augmenter = SimpleNamespace(
        fingerprint="known", augment=lambda documents: [known[d.id] for d in documents]
    )
    options = paper_options(documents_per_batch=2, dtype="bfloat16")
    trainer = LoraTrainer(tiny_base, augmenter, options)
    documents = [item.document for item in reversed(UNEVEN)]
    made = trainer.parametrize(documents)
    assert [adapter.metadata["document_id"] for adapter in made] == [d.id for d in documents]
    assert all(adapter.spec == trainer.spec for adapter in made)
    assert {adapter.metadata["prompt"] for adapter in made} == {WORDINGS["paper"].id}
    assert {t.dtype for t in made[0].tensors[trainer.spec.paths()[0]]} == {torch.bfloat16}
    assert trainer.parametrize([]) == []


def test_long_documents_are_cut_to_the_context(tiny_base):
    document = augmented(0, words=400)  # beyond the 512 tokens of the tiny model
    trainer = LoraTrainer(tiny_base, AUGMENTER, FAST)
    assert max(len(s.ids) for s in trainer._sequences(document)) == 512
    assert trainer.train([document])[0][1] > 0


def test_initial_adapter_is_used(tiny_base):
    trainer = LoraTrainer(tiny_base, AUGMENTER, FAST)
    assert all(not b.any() for _, b in trainer.start.tensors.values())
    init = random_adapter(replace(trainer.spec, dtype="bfloat16"), tiny_base)
    warm = LoraTrainer(tiny_base, AUGMENTER, replace(FAST, learning_rate=1e-12), init)
    ((made, _),) = warm.train([UNEVEN[0]])
    assert_same(made, replace(init.to(dtype=torch.float32), spec=made.spec), 1e-6)
    assert warm.fingerprint != trainer.fingerprint
    again = LoraTrainer(tiny_base, AUGMENTER, replace(FAST, learning_rate=1e-12), init)
    assert again.fingerprint == warm.fingerprint


@pytest.fixture
def shared(tiny_base):
    """A trainer whose documents share rows of another rank and scale, and these rows."""
    spec = LoraTrainer(tiny_base, AUGMENTER, FAST).spec
    init = random_adapter(replace(spec, rank=3, alpha=6), tiny_base, seed=5)
    options = replace(FAST, init="warm", init_shared=True)
    return LoraTrainer(tiny_base, AUGMENTER, options, init), init


def test_shared_rows_are_not_trained_and_stand_behind_the_documents_own(tiny_base, shared):
    trainer, init = shared
    together = [adapter for adapter, _ in trainer.train(UNEVEN[:2])]
    for document, adapter in zip(UNEVEN[:2], together, strict=True):
        ((alone, _),) = trainer.train([document])
        assert_same(adapter, alone)
        assert (adapter.shared_rows, adapter.rank, adapter.spec.rank) == (3, 5, 2)
        for path, (a, b) in init.tensors.items():
            own, (shared_a, shared_b) = adapter.split(path)
            assert torch.equal(shared_a, a)
            torch.testing.assert_close(16 * shared_b, 2 * b)  # of one scale with the others
            assert own[1].abs().max() > 0
    free = LoraTrainer(tiny_base, AUGMENTER, FAST)
    assert free.fingerprint != trainer.fingerprint
    ((bare, _),) = free.train(UNEVEN[:1])
    path = trainer.spec.paths()[0]
    own = together[0].split(path)[0][1]
    assert (own - bare.tensors[path][1]).abs().max() > 1e-4  # learned beside the shared rows


def test_first_loss_is_that_of_the_base_model_with_the_shared_rows(tiny_base, shared):
    trainer, init = shared
    document = augmented(0, pairs=0, rewrites=0)  # one sequence, one step
    ((_, loss),) = trainer.train([document])
    ((sequence,),) = [trainer._sequences(document)]
    ids = torch.tensor([sequence.ids])
    with attached(tiny_base, init):
        expected = tiny_base.model(input_ids=ids, labels=ids).loss
    assert loss == pytest.approx(expected.item(), abs=1e-4)


def test_peft_reads_an_export_of_shared_rows_and_of_its_parts(tiny_base, shared, tmp_path):
    trainer, _ = shared
    first, second = (adapter for adapter, _ in trainer.train(UNEVEN[:2]))
    ids = torch.randint(5, 250, (1, 9))
    to_peft(first, tmp_path / "whole", "tiny")
    model = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_base.model), tmp_path / "whole")
    with attached(tiny_base, first):
        expected = tiny_base.model(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert "count once" in (tmp_path / "whole" / "prag_adapter.json").read_text()
    assert from_peft(tmp_path / "whole", tiny_base).shared_rows == 3
    # PEFT's own sum of the parts is our merge.
    parts = {"shared": first.part("shared"), "one": first.part("own"), "two": second.part("own")}
    model = None
    for name, part in parts.items():
        folder = to_peft(part, tmp_path / name, "tiny")
        if model is None:
            base = copy.deepcopy(tiny_base.model)
            model = peft.PeftModel.from_pretrained(base, folder, adapter_name=name)
        else:
            model.load_adapter(folder, adapter_name=name)
    model.add_weighted_adapter([*parts], [1.0] * 3, "sum", combination_type="cat")
    model.set_adapter("sum")
    with attached(tiny_base, merge([first, second])):
        expected = tiny_base.model(ids).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change", [{"rank": 3}, {"alpha": 5}, {"layers": (0,)}, {"base_model": "other"}]
)
def test_initial_adapter_of_another_spec_is_refused(tiny_base, change):
    spec = replace(LoraTrainer(tiny_base, AUGMENTER, FAST).spec, **change)
    with pytest.raises(ValueError, match=r"got an initial adapter of AdapterSpec.*train it with"):
        LoraTrainer(tiny_base, AUGMENTER, FAST, random_adapter(spec, tiny_base))


def test_an_adapter_that_is_named_but_not_given_is_refused(tiny_base):
    with pytest.raises(ValueError, match=r"got training.init 'warm'.*leave training.init out"):
        LoraTrainer(tiny_base, AUGMENTER, replace(FAST, init="warm"))
    taught = LoraTrainingOptions(teacher="folder")
    with pytest.raises(ValueError, match=r"got training.teacher .*leave training.teacher out"):
        LoraTrainer(tiny_base, AUGMENTER, taught)


def test_warm_up_is_trained_on_pairs_alone_and_starts_documents(tiny_base):
    pairs = [QAPair(f"Who is {i}?", f"Person {i}") for i in range(10)]
    cold = LoraTrainer(tiny_base, AUGMENTER, FAST)
    init = cold.train_warmup(pairs)
    warm = LoraTrainer(tiny_base, AUGMENTER, FAST, init)
    assert warm.train([UNEVEN[0]])[0][1] != cold.train([UNEVEN[0]])[0][1]


def test_global_adapter_learns_from_every_document(tiny_base):
    documents = UNEVEN[:3]
    trainer = LoraTrainer(tiny_base, AUGMENTER, FAST)
    whole = trainer.train_global(documents)
    assert whole.spec == trainer.spec
    assert_same(whole, trainer.train_global(documents), 0)
    path = trainer.spec.paths()[0]
    for left_out in range(3):
        rest = [d for i, d in enumerate(documents) if i != left_out]
        other = trainer.train_global(rest)
        assert (whole.tensors[path][1] - other.tensors[path][1]).abs().max() > 1e-4


def test_fingerprint_covers_settings_and_augmenter(tiny_base):
    first = LoraTrainer(tiny_base, AUGMENTER, FAST).fingerprint
    for change in ({"epochs": 2}, {"learning_rate": 1e-3}, {"scheme": "recall"}, {"seed": 1}):
        assert LoraTrainer(tiny_base, AUGMENTER, replace(FAST, **change)).fingerprint != first
    other = SimpleNamespace(fingerprint="other")
    assert LoraTrainer(tiny_base, other, FAST).fingerprint != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "got rank 0, expected a rank of 1 or more"),
        ({"modules": ("q_proj",)}, r"got modules \['q_proj'\], expected a choice of"),
        ({"layers": (0, 2)}, "got layer 2, expected layers from 0 to 1"),
        ({"layers": (-1,)}, r"got layers \[-1\]"),
        ({"dtype": "int4"}, "got dtype 'int4'"),
        ({"scheme": "all"}, r"got scheme 'all', expected one of \['paper', 'recall'\]"),
        ({"loss": "none"}, r"got loss 'none', expected one of \['all', 'answer'\]"),
        ({"lr_scheduler_type": "step"}, "got lr_scheduler_type 'step', expected one of"),
        ({"distillation": 0.5}, "got distillation 0.5 with scheme paper and loss all"),
        ({"distillation": 2, "scheme": "recall", "loss": "answer"}, "expected a share from 0 to 1"),
        ({"teacher": "reader"}, "got teacher 'reader' with distillation 0, expected more"),
        ({"distillation_kl": "both"}, "got distillation_kl 'both', expected one of"),
        ({"distillation_top_k": 0}, "got distillation_top_k 0, expected 1 or more"),
        ({"held_out": 0.6}, "got held_out 0.6, expected a share from 0 to 0.5"),
        ({"patience": 0}, "got patience 0, expected 1 or more"),
        ({"epochs": 0}, "got epochs 0, expected 1 or more"),
        ({"sequences_per_step": 0}, "got sequences_per_step 0"),
        ({"documents_per_batch": 0}, "got documents_per_batch 0"),
        ({"max_tokens": 1}, "got max_tokens 1, expected 2 or more"),
        ({"learning_rate": -1.0}, "got learning_rate -1.0, expected a positive number, or 0"),
    ],
)
def test_options_are_refused(tiny_base, change, message):
    with pytest.raises(ValueError, match=message):
        LoraTrainer(tiny_base, AUGMENTER, paper_options(**change))


def test_paper_options():
    shown = (PAPER.rank, PAPER.alpha, PAPER.learning_rate, PAPER.epochs, PAPER.max_tokens)
    assert shown == (2, 32, 3e-4, 1, 3000)
    assert PAPER.weight_decay == inspect.signature(torch.optim.AdamW).parameters[
        "weight_decay"
    ].default  # fmt: skip
    assert AdapterSpec("b", PAPER.rank, PAPER.alpha, layers=(0,)).scale == 16
