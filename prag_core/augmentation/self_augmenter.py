"""Self-augmentation: a model is asked for rewrites, and for question-answer pairs as JSON.

And for reasoning, given questions with their documents and answers: pairs with a full answer, what
the warm-up of a wording with chain of thought is trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress

from prag_core.adapters.adapter import fingerprint
from prag_core.augmentation.answer_spans import find_details
from prag_core.augmentation.augmented import (
    AugmentedDocument,
    QAPair,
    add_pairs,
    check_counts,
    titled,
)
from prag_core.corpus.answer_scores import score_answer
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import QuestionSet
from prag_core.corpus.questions import Question
from prag_core.corpus.text_tokens import text_ids
from prag_core.model.base_model import BaseModel
from prag_core.model.generate import generate
from prag_core.model.options import GenerationOptions
from prag_core.model.prefix import Prefix
from prag_core.model.prompts import chat, prompt_ids, question_prompt
from prag_core.model.wordings import Wording

# Both prompts after Su et al. (2025), in our words; full answers are for wordings with reasoning.
REWRITE = (
    "Rewrite the passage below in different words and with different sentences. Keep every name, "
    "number, date and fact. Write only the new passage.\n\n{passage}"
)
# Braces are doubled twice: for the f-string and for `format`.
QA_EXAMPLE = "Which river flows through the town of Halvik?"
QA_PAIRS = (
    "Write {count} different questions that the passage below answers, each with its answer: a "
    "short phrase copied from the passage, and a full sentence. Write only a JSON list in this "
    f'form:\n[{{{{"question": "{QA_EXAMPLE}", "answer": "the Orne", '
    '"full_answer": "The river that flows through Halvik is the Orne."}}]\n\n'
    "Passage:\n{passage}"
)
PAIR_TOKENS = 96  # JSON around a question, a short answer and a sentence
VERSION = 3  # of the checks below; part of the fingerprint, so that old records are written anew
DETAIL_SHARE = 0.7  # of names, dates and numbers that a rewrite must keep
# What a token limit cut off ends elsewhere.
SENTENCE_END = re.compile(r"[.!?…。！？।؟۔][\"'”’»)\]]*$")


class SelfAugmenter:
    """Ask a model for rewrites and for question-answer pairs as JSON (Su et al., 2025).

    What does not parse is asked again with sampling, hotter each time. A document that never
    parses keeps the pairs that came, and says so in `error`.

    Args:
        base: the model that writes; it need not be the one that the adapters are for.
        rewrites: n, rewrites a document.
        qa_pairs: m, question-answer pairs a document.
        retries: how often a document is asked again.
        batch_size: documents asked together.

    Raises:
        ValueError: a number of rewrites or pairs below 0.
    """

    def __init__(
        self,
        base: BaseModel,
        rewrites: int = 1,
        qa_pairs: int = 3,
        retries: int = 3,
        batch_size: int = 16,
    ) -> None:
        check_counts(rewrites, qa_pairs)
        self.base, self.rewrites, self.qa_pairs = base, rewrites, qa_pairs
        self.retries, self.batch_size = retries, batch_size
        self.fingerprint = fingerprint(
            ["self", VERSION, base.fingerprint, rewrites, qa_pairs, retries, REWRITE, QA_PAIRS]
        )

    def augment(self, documents: Sequence[Document]) -> list[AugmentedDocument]:
        """Augment each document; see the class for what happens to one that fails."""
        rewrites = ask_rewrites(self.base, documents, self.rewrites, self.batch_size)
        pairs: list[tuple[QAPair, ...]] = [()] * len(documents)
        pending = list(range(len(documents))) if self.qa_pairs else []
        for attempt in range(self.retries + 1):
            if not pending:
                break
            # The first attempt is greedy. A list ends the answer, or the code block that chat
            # models open.
            sampling = {"temperature": 0.4 * attempt, "top_p": 0.95, "seed": attempt}
            options = GenerationOptions(
                # Half of the context at most: the passage needs room, too.
                min(PAIR_TOKENS * self.qa_pairs, self.base.context_length // 2),
                stop=("```\n", "]\n"),
                batch_size=self.batch_size,
                **sampling,
            )
            passages = [titled(documents[i].title, documents[i].text) for i in pending]
            requests = [QA_PAIRS.format(count=self.qa_pairs, passage=text) for text in passages]
            prompts = [chat(self.base.tokenizer, request) for request in requests]
            for i, text in zip(pending, generate_fitting(self.base, prompts, options), strict=True):
                # Attempts add up: what came before is kept, and only what is missing asked for.
                pairs[i] = add_pairs(pairs[i], parse_qa_pairs(text or ""))[: self.qa_pairs]
            pending = [i for i in pending if len(pairs[i]) < self.qa_pairs]
        return [
            AugmentedDocument(document, tuple(filter(None, texts)), row, self._error(texts, row))
            for document, texts, row in zip(documents, rewrites, pairs, strict=True)
        ]

    def _error(self, rewrites: Sequence[str], pairs: Sequence[QAPair]) -> str:
        count, attempts = len(pairs), self.retries + 1
        problems = {
            f"got {count} question-answer pairs in {attempts} attempts, expected {self.qa_pairs}":
                count < self.qa_pairs,
            "got no rewrite that keeps the facts (or it exceeds the context)": not all(rewrites),
        }  # fmt: skip
        return "; ".join(text for text, is_so in problems.items() if is_so)


def generate_fitting(
    base: BaseModel,
    prompts: Sequence[str],
    options: GenerationOptions | Sequence[GenerationOptions],
    prefixes: Sequence[Prefix] | None = None,
) -> list[str | None]:
    """Generate for the prompts that fit the model's context; None for the others.

    `options` are of all prompts or one a prompt; `prefixes`, one a prompt, are what is known
    already of their beginnings.
    """
    each = [options] * len(prompts) if isinstance(options, GenerationOptions) else options
    lengths = [len(prompt_ids(base.tokenizer, prompt)) for prompt in prompts]
    sizes = [n + row.max_new_tokens for n, row in zip(lengths, each, strict=True)]
    fitting = [i for i, size in enumerate(sizes) if size <= base.context_length]
    # Checked here, because `generate` refuses a whole batch for one prompt that is too long.
    known = prefixes and [prefixes[i] for i in fitting]
    chosen = [prompts[i] for i in fitting], None, [each[i] for i in fitting]
    texts = generate(base, *chosen, known)
    by_place = dict(zip(fitting, texts, strict=True))
    return [by_place.get(i) for i in range(len(prompts))]


def ask_rewrites(
    base: BaseModel, documents: Sequence[Document], count: int, batch_size: int = 16
) -> list[list[str]]:
    """Ask for `count` rewrites of each document: the first greedy, the others sampled.

    Returns:
        `count` texts a document, "" where the model wrote none that `keeps_details`.
    """
    rewrites: list[list[str]] = [[] for _ in documents]
    texts = [titled(document.title, document.text) for document in documents]
    prompts = [chat(base.tokenizer, REWRITE.format(passage=text)) for text in texts]
    # A quarter more than the text has, and room for the prompt in the context.
    most = max(1, base.context_length // 2)
    limits = [min(max(32, len(ids) * 5 // 4), most) for ids in text_ids(base.tokenizer, texts)]
    for number in range(count):
        sampling = {"temperature": 0.7 if number else 0.0, "top_p": 0.95, "seed": number}
        ends = {"stop": (), "batch_size": batch_size}
        # A limit a document: what is written does not depend on who is asked about beside it.
        options = [GenerationOptions(tokens, **ends, **sampling) for tokens in limits]
        answers = generate_fitting(base, prompts, options)
        for row, document, answer in zip(rewrites, documents, answers, strict=True):
            text = " ".join((answer or "").split())
            row.append(text if keeps_details(document.text, text) else "")
    return rewrites


def parse_qa_pairs(text: str) -> tuple[QAPair, ...]:
    """Read question-answer pairs out of a model's JSON, also where the list is cut off or wrapped.

    Every `{...}` that is an object with a question and an answer counts, whatever it stands in, but
    no repetition of the prompt's example; anything else is passed over.
    """
    # Object by object: a list that max_new_tokens cut off is no JSON as a whole.
    pairs: tuple[QAPair, ...] = ()
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        item, end, behind = None, start + 1, 0
        with suppress(json.JSONDecodeError):
            item, behind = decoder.raw_decode(text, start)
        if isinstance(item, dict):
            keys = ("question", "answer", "full_answer")
            pair = QAPair(*(_text(item.get(key)) for key in keys))
            if pair.question and pair.answer and pair.question != QA_EXAMPLE:
                pairs, end = add_pairs(pairs, [pair]), behind
        start = text.find("{", end)
    return pairs


def _text(value: object) -> str:
    """Return a value of JSON as text; a model also answers with lists and numbers."""
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value).strip()


def ends_sentence(text: str) -> bool:
    """Say whether a text ends as a sentence does: what was cut off does not."""
    return SENTENCE_END.search(text.strip()) is not None


def keeps_details(text: str, rewrite: str) -> bool:
    """Say whether a rewrite is whole and long enough, keeps names and numbers, and invents none."""
    length = len(rewrite.split()) / max(1, len(text.split()))
    details = find_details(text)
    repeated = sum(detail in rewrite.lower() for detail in details)
    # Names may be written in other ways; a number that the text does not have is an invention.
    numbers = {d for d in find_details(rewrite) if any(map(str.isdigit, d))}
    return (
        0.6 <= length <= 1.5  # neither a summary nor an essay
        and repeated >= DETAIL_SHARE * len(details)
        and all(number in text.lower() for number in numbers)
        and rewrite.strip() != text.strip()
        # Not cut off; a text may be of a kind that ends in no such sign.
        and (ends_sentence(rewrite) or not ends_sentence(text))
    )


HINT = "The right answer is {answer}."  # shown as the last passage
REASONING_TOKENS = 128  # as long as answers with reasoning may be


def write_reasoning(
    base: BaseModel, loaded: QuestionSet, questions: Sequence[Question], wording: Wording
) -> list[QAPair]:
    """Let the model reason from the gold documents to the answer, which it is told.

    Args:
        base: the model that writes.
        loaded: holds the questions' documents.
        questions: with golden answers.
        wording: that the reasoning is for; it has a conclusion.

    Returns:
        A pair for every question whose reasoning ends with a golden answer; the others are left
        out.
    """
    prompts = []
    for question in questions:
        hint = Document(HINT.format(answer=question.golden_answers[0]))
        passages = [*(loaded.documents_by_id[i] for i in question.gold_ids), hint]
        prompts.append(question_prompt(base.tokenizer, question.question, passages, wording))
    texts = generate_fitting(base, prompts, GenerationOptions(REASONING_TOKENS))
    return [
        QAPair(question.question, question.golden_answers[0], text)
        for question, text in zip(questions, texts, strict=True)
        if text and wording.conclusion in text
        and score_answer(wording.answer(text), question.golden_answers).exact_match
    ]  # fmt: skip
