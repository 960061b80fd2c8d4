"""Training sequences: an augmented document goes in, token ids with the answer's start come out.

So do documents' texts and questions with their answers, to be scored (see `loop.mean_nll`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from prag_core.augmentation.answer_spans import split_sentences
from prag_core.augmentation.augmented import AugmentedDocument, QAPair
from prag_core.corpus.documents import Document
from prag_core.corpus.question_sets import Question
from prag_core.corpus.text_tokens import ids_behind, plain, text_ids
from prag_core.model.base_model import BaseModel, start_token
from prag_core.model.prompts import chat, format_passages, prompt_ids, question_prompt
from prag_core.model.token_loss import Taught
from prag_core.model.wordings import DEFAULT, Wording

# Also what the hypernetwork's recitations ask: both paths learn the text under one request.
RECITE = "Write down what you know about {title}."
TEXT_TOKENS = 512  # of a document that are scored


@dataclass(frozen=True)
class TrainingSequence:
    """A prompt and its answer.

    Attributes:
        ids: token ids (T,) of both.
        answer_start: where the answer begins.
        reading: the prompt with the whole document in it, where one learns from whoever reads that.
        taught: what the latter says of the answer's tokens.
    """

    ids: tuple[int, ...]
    answer_start: int
    reading: tuple[int, ...] = ()
    taught: Taught | None = None


def build_sequences(
    tokenizer: PreTrainedTokenizerBase,
    augmented: AugmentedDocument,
    scheme: str,
    max_tokens: int,
    wording: Wording = DEFAULT,
    continuations: bool = False,
    reading: int = 0,
    ended: bool | None = None,
) -> list[TrainingSequence]:
    """Write the sequences that one document is trained on.

    `paper` (Su et al., 2025, and its code; README.md beside this file): the first half of the
    question-answer pairs (rounded up) with the passage and with each rewrite, the others without
    passage; with 1 rewrite and 3 pairs these are 5. They end with the answer, not with the
    end-of-sequence token. `recall`: every pair without passage, as it will be asked, and the text
    and its rewrites as a recitation; with `continuations` also its sentences and facts, one by one
    (see `continued`). A document without pairs is trained on its text; one without
    text (the warm-up), on its pairs without passage.

    With `reading`, the tokens that whoever reads the text has room for, every sequence of `recall`
    also has the prompt with the text, unless prompt and answer are longer. `ended` says whether
    pairs end with the end-of-sequence token; as above when None.

    In a wording with reasoning the answer is the full one, where the pair has it.

    Raises:
        ValueError: neither text nor pairs.
    """
    document, pairs = augmented.document, augmented.qa_pairs
    texts = [text for text in (document.text, *augmented.rewrites) if text.strip()]
    if not texts and not pairs:
        raise ValueError(
            f"got a document without text and question-answer pairs ({document.id}), expected "
            "one of both: leave it out of the corpus"
        )
    if ended is None:  # of Su et al. only the warm-up learns to stop
        ended = scheme != "paper" or not texts
    # What a teacher reads: the text, whichever rewrite or fact of it is trained on.
    shown = [Document(document.text, document.title)] if reading and texts else []
    sequences = []
    for pair, passages in pairs_with_passages(augmented, scheme, texts):
        prompt, read = (
            question_prompt(tokenizer, pair.question, given, wording) for given in (passages, shown)
        )
        answer = trained_answer(pair, wording)
        sequences.append(encode(tokenizer, prompt, answer, ended, read if shown else ""))
    prompt, read = (chat(tokenizer, recitation_request(document, given)) for given in ((), shown))
    steps = [("", text, True) for text in texts if scheme == "recall" or not pairs]
    if scheme == "recall" and continuations:
        steps += continued(augmented)
    for context, text, ends in steps:
        begun, begun_read = (start + plain(tokenizer, context) for start in (prompt, read))
        sequences.append(encode(tokenizer, begun, text, ends, begun_read if shown else ""))
    return [cut(sequence, max_tokens, reading) for sequence in sequences]


def continued(augmented: AugmentedDocument) -> list[tuple[str, str, bool]]:
    """Return how the text goes on, sentence by sentence, and its facts, each by itself.

    Returns:
        Context, what is trained behind it, and whether that ends: the sentence before, and the
        next one; the title, and what a fact says of it. They do not end: the text goes on.
    """
    title, sentences = augmented.document.title, split_sentences(augmented.document.text)
    steps = [(before, sentence, False) for before, sentence in pairwise(sentences)]
    for fact in augmented.facts:
        about = title and fact.startswith(f"{title} ")
        steps.append((title, fact[len(title) + 1 :], False) if about else ("", fact, False))
    return steps


def pairs_with_passages(
    augmented: AugmentedDocument, scheme: str, texts: Sequence[str]
) -> list[tuple[QAPair, tuple[Document, ...]]]:
    """List every pair as often as it is asked, with the passage that it is asked with.

    Args:
        augmented: the document.
        scheme: see `build_sequences`.
        texts: its own and the rewrites.
    """
    pairs, title = augmented.qa_pairs, augmented.document.title
    # The first half, so that a document of one pair has it with the passage.
    half = (len(pairs) + 1) // 2 if scheme == "paper" and texts else 0
    shown = [(pair, (Document(text, title),)) for pair in pairs[:half] for text in texts]
    return [*shown, *((pair, ()) for pair in pairs[half:])]


def hold_out(
    augmented: AugmentedDocument, share: float
) -> tuple[AugmentedDocument, tuple[QAPair, ...]]:
    """Part a share of the question-answer pairs from a document: every n-th one, n = 1 / share."""
    if not share:
        return augmented, ()
    every, pairs = round(1 / share), augmented.qa_pairs
    kept = tuple(pair for number, pair in enumerate(pairs, 1) if number % every)
    return replace(augmented, qa_pairs=kept), pairs[every - 1 :: every]


def trained_answer(pair: QAPair, wording: Wording) -> str:
    """Return what stands behind the lead in training."""
    answer = (wording.conclusion and pair.full_answer) or pair.answer
    return answer.strip().removesuffix(".") + "." if wording.punctuated else answer


def recitation_request(document: Document, passages: Sequence[Document] = ()) -> str:
    """Ask for a document's text; `passages` are shown before."""
    request = RECITE.format(title=document.title or "the document")
    return f"{format_passages(passages)}\n{request}" if passages else request


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    answer: str,
    ended: bool = True,
    reading: str = "",
) -> TrainingSequence:
    """Tokenise prompt and answer; `ended` with the end-of-sequence token.

    `reading` is the prompt of whoever reads the document. Behind a lead ("Answer:") the answer
    begins with its space, as a text that goes on; not behind a control token or a line break, with
    which chat formats begin a turn.
    """
    head = prompt_ids(tokenizer, prompt)
    begins = prompt[-1:].isspace() or (head and head[-1] in tokenizer.added_tokens_decoder)
    # Apart, so that no token spans both and the answer's start is exact.
    tail = ids_behind(tokenizer, prompt[-1:], plain(tokenizer, ("" if begins else " ") + answer))
    end = (tokenizer.eos_token_id,) if ended else ()
    read = tuple(prompt_ids(tokenizer, reading)) if reading else ()
    return TrainingSequence((*head, *tail, *end), len(head), read)


def cut(sequence: TrainingSequence, max_tokens: int, context: int = 0) -> TrainingSequence:
    """Keep the last `max_tokens` (2 or more): what goes first is the front of the passage.

    Of an answer that is longer itself, all tokens but the first are still predicted.

    The reader's prompt goes where the context has no room for it and the answer: whoever does not
    see the whole document teaches what it does not know.
    """
    excess = max(len(sequence.ids) - max_tokens, 0)
    ids, start = sequence.ids[excess:], max(sequence.answer_start - excess, 1)
    fits = len(sequence.reading) + len(ids) - start <= context
    return TrainingSequence(ids, start, sequence.reading if fits else ())


def text_sequences(base: BaseModel, documents: Sequence[Document]) -> list[TrainingSequence]:
    """Return the documents' texts behind a start token, which is not scored."""
    tokenizer = base.tokenizer
    start = start_token(tokenizer)
    texts = text_ids(tokenizer, (d.text for d in documents))
    return [TrainingSequence((start, *ids[: TEXT_TOKENS - 1]), 1) for ids in texts]


def answer_sequences(
    base: BaseModel,
    questions: Sequence[Question],
    passages: Sequence[Sequence[Document]],
    wording: Wording = DEFAULT,
) -> list[TrainingSequence]:
    """Return prompt and first golden answer of every question, without the end token."""
    sequences = []
    for question, documents in zip(questions, passages, strict=True):
        prompt = question_prompt(base.tokenizer, question.question, documents, wording)
        # The end token is format: it would dominate the loss of a short answer.
        answer = question.golden_answers[0]
        sequences.append(encode(base.tokenizer, prompt, answer, ended=False))
    return sequences
