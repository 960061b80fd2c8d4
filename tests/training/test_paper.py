"""PRAG's procedure (Su et al., 2025, and its code) for each of its sets and any template given."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import peft
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.formats.peft_folder import to_peft
from prag_core.model.prompts import question_prompt
from prag_core.model.wordings import Wording, find_wording
from prag_core.training.lora_trainer import PAPER, LoraTrainer
from prag_core.training.options import LoraTrainingOptions
from prag_core.training.sequences import build_sequences
from tests.fixtures.paths import CONFIGS
from tests.fixtures.tiny import CHAT_TEMPLATE, byte_tokenizer

CONFIG = yaml.safe_load((CONFIGS / "benchmark_paper.yaml").read_text())
SETS = {spec["name"]: spec for spec in CONFIG["question_sets"]}
TEMPLATES = ("Read {passages} and say: {question}", "{question}\n{passages}\n(Be short.)")
SHORT = ["the north.", "1867.", "Ida Brandt."]
FULL = ["Tarn lies in the north.", "The mill was built in 1867.", "Ida Brandt built it."]
AUGMENTED = AugmentedDocument(
    Document("Tarn lies north of Oss.", "TITLE"),
    ("North of Oss is Tarn.",),
    (
        QAPair("Where is Tarn", "the north", "Tarn lies in the north."),
        QAPair(" When was the mill built ?", "1867.", "The mill was built in 1867"),
        QAPair("Who built it?", " Ida Brandt", "Ida Brandt built it."),
    ),
)
QUESTIONS = ["Where is Tarn?", "When was the mill built?", "Who built it?"]
# What each is about: the first two with the text and its rewrite, the last alone.
ORDER = [(0, "Tarn lies north of Oss."), (0, "North of Oss is Tarn."),
         (1, "Tarn lies north of Oss."), (1, "North of Oss is Tarn."), (2, "")]  # fmt: skip
# What the published configurations of a set say: chain of thought, epochs, tokens of an answer.
PUBLISHED = {
    "2wikimultihopqa": (True, 1, 128),
    "hotpotqa": (True, 1, 128),
    "popqa": (False, 2, 20),
    "complexwebquestions": (False, 1, 20),
}


def given_wording(name: str, template: str) -> Wording:
    """The wording of a set with another template and lead."""
    wording = find_wording(SETS[name]["prompt"])
    return replace(wording, name="given", template=template, lead="So:")


def set_options(name: str, **changes) -> LoraTrainingOptions:
    """The training options of a set."""
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in CONFIG["training"].items()}
    options |= {"epochs": SETS[name]["epochs"], "prompt": SETS[name]["prompt"]}
    return LoraTrainingOptions(**options | changes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_settings_of_each_set(name):
    cot, epochs, tokens = PUBLISHED[name]
    spec, wording = SETS[name], find_wording(SETS[name]["prompt"])
    assert bool(wording.conclusion) == cot and wording.ends == ".,\n"
    assert (spec["epochs"], spec["max_new_tokens"], spec["k"]) == (epochs, tokens, 3)
    assert set_options(name) == replace(PAPER, epochs=epochs, prompt=spec["prompt"])
    augmentation, answering = CONFIG["augmentation"], CONFIG["answering"]
    assert (augmentation["rewrites"], augmentation["qa_pairs"]) == (1, 3)
    assert answering == {"merge_weights": "ones"} and CONFIG["generation"] == {"stop": []}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_sequences_of_each_set(name, template):
    """Five texts, to the letter: prompt, lead and answer sentence; no end token behind it."""
    tokenizer, answers = byte_tokenizer(), FULL if PUBLISHED[name][0] else SHORT
    expected = []
    for number, text in ORDER:
        shown = f"Passage 1: {text}" if text else ""
        user = template.replace("{passages}", shown).replace("{question}", QUESTIONS[number])
        expected.append(f"<u>{user}<e><a>So: {answers[number]}")
    sequences = build_sequences(
        tokenizer, AUGMENTED, "paper", PAPER.max_tokens, given_wording(name, template)
    )
    assert [tokenizer.decode(s.ids) for s in sequences] == expected
    begins = [tokenizer.decode(s.ids[s.answer_start :]) for s in sequences]
    assert begins == [f" {answers[number]}" for number, _ in ORDER]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_question_is_asked_as_in_training(name):
    """One template with and without passages; what training has behind the lead is answered."""
    tokenizer, wording = byte_tokenizer(), given_wording(name, TEMPLATES[0])
    passages = [Document("Tarn lies north of Oss.", "TITLE"), Document("Oss.", "TITLE")]
    shown = question_prompt(tokenizer, "Where is Tarn ?", passages, wording)
    bare = question_prompt(tokenizer, "Where is Tarn", (), wording)
    text = "Passage 1: Tarn lies north of Oss.\nPassage 2: Oss."
    assert shown == f"<u>Read {text} and say: Where is Tarn?<e><a>So:"
    assert bare == shown.replace(text, "")
    for sequence, (number, text) in zip(
        build_sequences(tokenizer, AUGMENTED, "paper", 3000, wording), ORDER, strict=True
    ):
        about = [Document(text)] if text else []
        prompt = question_prompt(tokenizer, QUESTIONS[number], about, wording)
        assert tokenizer.decode(sequence.ids[: sequence.answer_start]) == prompt


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("popqa", " Tarn, in Oss.", "Tarn"),
        ("popqa", "\n Tarn\nQuestion", "Tarn"),
        ("complexwebquestions", "1.5 million", "1"),
        ("hotpotqa", "Oss. So the answer is Tarn, Oss. So the answer is Oss.", "Tarn"),
        ("2wikimultihopqa", "Ida died. Thus the answer is\n4 May, 1971", "4 May"),
        ("2wikimultihopqa", "Tarn, then Oss", "Tarn"),
    ],
)
def test_scoring_cut(name, text, answer):
    assert find_wording(SETS[name]["prompt"]).answer(text) == answer


def subword_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose words begin with their space, trained on the texts of this file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "<e>", "<u>", "<a>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [*FULL, *SHORT, *QUESTIONS, *(f"The answer is {answer}" for answer in SHORT)]
    tokenizer.train_from_iterator(texts * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<e>",
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_tokens_are_those_of_the_answer_sentence_in_one_piece(name):
    """The published code tokenises lead and answer together, behind the chat format's tokens."""
    tokenizer, wording = subword_tokenizer(), find_wording(SETS[name]["prompt"])
    sequences = build_sequences(tokenizer, AUGMENTED, "paper", 3000, wording)
    answers = FULL if PUBLISHED[name][0] else SHORT
    for sequence, (number, text) in zip(sequences, ORDER, strict=True):
        shown = f"Passage 1: {text}" if text else ""
        turn = {"role": "user", "content": wording.fill(QUESTIONS[number], shown)}
        ids = tokenizer.apply_chat_template([turn], add_generation_prompt=True, return_dict=False)
        sentence = f"{wording.lead} {answers[number]}"
        ids += tokenizer.encode(sentence, add_special_tokens=False)
        assert list(sequence.ids) == ids
        assert len(sequence.ids) < len(tokenizer.decode(ids))  # words are tokens


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_of_each_set_equals_a_plain_loop(name, tiny_base, tmp_path):
    """AdamW as torch has it, one sequence a step, in order in every epoch, all tokens, padded."""
    rate, epochs, wording = 1e-2, PUBLISHED[name][1], given_wording(name, TEMPLATES[0])
    options = set_options(name, learning_rate=rate, prompt=wording)
    trainer = LoraTrainer(tiny_base, SimpleNamespace(fingerprint="fixed"), options)
    ((ours, _),) = trainer.train([AUGMENTED])
    to_peft(replace(ours, tensors=trainer.start.tensors), tmp_path, "tiny")
    model = peft.PeftModel.from_pretrained(
        copy.deepcopy(tiny_base.model), tmp_path, is_trainable=True
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    rows = build_sequences(tiny_base.tokenizer, AUGMENTED, "paper", 512, wording)
    for row in [*rows] * epochs:
        padding = 512 - len(row.ids)
        optimizer.zero_grad()
        loss = model(
            input_ids=torch.tensor([[*row.ids, *[0] * padding]]),
            attention_mask=torch.tensor([[1] * len(row.ids) + [0] * padding]),
            labels=torch.tensor([[*row.ids, *[-100] * padding]]),
        ).loss
        loss.backward()
        optimizer.step()
    theirs = dict(model.named_parameters())
    for path, (a, b) in ours.tensors.items():
        for letter, tensor in (("A", a), ("B", b)):
            expected = theirs[f"base_model.model.{path}.lora_{letter}.default.weight"].detach()
            torch.testing.assert_close(tensor, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_warm_up_ends_with_the_end_token_one_pair_a_step(name, tiny_base, monkeypatch):
    steps = []

    def record(base, stack, documents, options):
        steps.append((documents[0], options))
        yield 1, 1
        return [0.0]

    monkeypatch.setattr("prag_core.training.lora_trainer.fit_steps", record)
    wording = given_wording(name, TEMPLATES[0])
    options = set_options(name, prompt=wording)
    trainer = LoraTrainer(tiny_base, SimpleNamespace(fingerprint="fixed"), options)
    pairs = [QAPair(f"Who is {i}", f"P{i}", f"It is P{i}.") for i in range(9)]
    trainer.train_warmup(pairs)
    ((sequences, used),) = steps
    texts = [tiny_base.tokenizer.decode(s.ids) for s in sequences]
    answers = [f"It is P{i}." if PUBLISHED[name][0] else f"P{i}." for i in range(9)]
    expected = [
        f"<u>Read  and say: Who is {i}?<e><a>So: {answer}<e>" for i, answer in enumerate(answers)
    ]
    assert sorted(texts) == expected and texts != expected  # shuffled
    assert used.sequences_per_step == 1
