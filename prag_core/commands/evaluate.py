"""Evaluate: a question set goes in; every condition's scores, with intervals, come out."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from pathlib import Path

from rich.console import Console

from prag_core.corpus.question_sets import QuestionSet, chunk_question_set, load_question_set
from prag_core.evaluation.conditions import (
    EvaluationOptions,
    parse_condition,
    require_no_passages,
)
from prag_core.evaluation.retrieval import retrieval_scores
from prag_core.files import write_json
from prag_core.pipeline.setup import Setup


def evaluate_set(
    question_set: str,
    setup: Setup,
    output: str = "runs/evaluate",
    store: str = "",
    evaluation: EvaluationOptions = EvaluationOptions(),  # noqa: B008 (frozen)
    documents: int = 0,
    questions: int = 0,
    most_words: int = 0,
    chunk_tokens: int = 0,
    split: str = "",
    skip_bad: bool = False,
    hits: str = "",
    predictions: tuple[str, ...] = (),
    unrelated: tuple[str, ...] | str = (),
    texts: int = 48,
    recite: bool = False,
    choose_prompts: bool = False,
) -> None:
    """Score a question set in any conditions, with intervals and controls.

    May be stopped at any time: the same command goes on where it was. Of a set without golden
    answers (BEIR) the retriever alone is scored, by recall.

    Args:
        question_set: folder, file, or hub name (see the README for the formats).
        setup: shared settings.
        output: folder for answers, resolved config and results.
        store: folder of the adapter store; `<output>/store` when empty. The question set's
            documents alone are searched, whatever the store keeps.
        evaluation: conditions, documents a question.
        documents: draw so many documents with all their questions (seed: evaluation.seed); 0
            takes all. The retriever then searches these documents only.
        questions: draw so many of their questions; 0 takes all.
        most_words: draw no longer documents; 0 for any length.
        chunk_tokens: cut longer documents into chunks of at most so many tokens; a question's gold
            chunks are those that hold its answer, or all of a gold document without it.
        split: split of the question set, where it has several.
        skip_bad: leave out bad records and questions whose gold documents are missing.
        hits: run in TREC's format: the documents that another retriever found.
        predictions: files of another system's answers, {id: prediction} or lines of
            {"id", "prediction"}; each is scored under its name, without folder and ending.
        unrelated: what the documents' adapters should not change, one or [A,B]: texts of a corpus
            (their loss), `package:NAME`, the documentation of an installed package (`numpy`:
            BSD-3-Clause), and `choices:SET`, the right one of four answers to a set's questions.
        texts: texts, or questions, drawn from each.
        recite: ask for the documents' texts in place of the questions: what share of its 8-grams
            an adapter gives away (see `prag_core.evaluation.recitation`).
        choose_prompts: ask 200 questions (or `questions`) with their gold document in the prompt in
            every wording for reading, and keep the one of the best F1 for all later runs with this
            base model. Take questions that nothing is measured on later.
    """
    from prag_core.evaluation.evaluate import Ask, evaluate
    from prag_core.evaluation.foreign import read_hits, read_systems
    from prag_core.evaluation.recitation import (
        long_answers,
        recitation_set,
        requests,
    )
    from prag_core.evaluation.results import (
        CHOOSING_QUESTIONS,
        READING_CONDITIONS,
        choose_wording,
    )
    from prag_core.evaluation.tables import report_table
    from prag_core.evaluation.unrelated import draw_unrelated
    from prag_core.pipeline.rag import build_pipeline

    if hits and (choose_prompts or evaluation.retrieval == "gold"):
        raise ValueError(
            "got hits beside gold documents (retrieval gold, or choose_prompts), expected one of "
            "them: leave out hits, or set --evaluation.retrieval retriever"
        )
    whole, seed = load_question_set(question_set, split, skip_bad=skip_bad), evaluation.seed
    corpus = whole.documents  # before a sample: an augmentation file may name any of them
    if documents or most_words:
        whole = whole.sample(documents, seed, most_words=most_words)
    if choose_prompts:
        questions = questions or CHOOSING_QUESTIONS
        evaluation = replace(evaluation, conditions=READING_CONDITIONS, k=1, retrieval="gold")
    if recite:
        require_no_passages(evaluation.conditions)
    whole = whole.sample_questions(questions, seed)
    if not (recite or any(question.golden_answers for question in whole.questions)):
        if chunk_tokens:
            raise ValueError(
                "got chunk_tokens for a set without golden answers, expected 0: what is found is "
                "measured on whole documents"
            )
        if predictions or unrelated or choose_prompts:
            raise ValueError(
                "got predictions, unrelated or choose_prompts for a set without golden answers, "
                "expected none of them: retrieval alone is scored"
            )
        return _evaluate_retrieval(whole, setup, evaluation.k, Path(output), hits)
    sources = (unrelated,) if isinstance(unrelated, str) else unrelated
    strangers = {source: draw_unrelated(source, texts, seed) for source in sources if source}
    conditions = [parse_condition(name) for name in evaluation.conditions]
    made = bool(strangers) or any(
        one.needs_parametrizer or one.reads_adapters(setup.answering) for one in conditions
    )
    opened = setup, store or Path(output) / "store", corpus
    with build_pipeline(*opened, alone=True, reads_only=not made) as rag:
        if chunk_tokens:
            whole = chunk_question_set(whole, rag.base.tokenizer, chunk_tokens)
        ask: Ask = attrgetter("question")
        if recite:
            whole, ask = recitation_set(whole), requests(rag.base)
            rag.generation = long_answers(rag.base, whole.questions, setup.generation)
        # After chunking: hits and answers name what is asked in the end.
        ranked = read_hits(hits, whole) if hits else None
        foreign = read_systems(predictions, whole.questions)
        # Another model or parametrizer is another evaluation, and needs another folder.
        used = replace(rag.setup or setup, generation=rag.generation)
        config = used.answer_config() | rag.identity
        if choose_prompts:  # every condition names its own, and the choice is another one later
            del config["reading_prompt"]
        rest = (output, config, ranked, foreign, strangers, ask)
        report = evaluate(rag, whole, evaluation, *rest)
        if choose_prompts:
            print(f"kept {choose_wording(report, rag.base)}")
    Console().print(report_table(report).rich())


def _evaluate_retrieval(whole: QuestionSet, setup: Setup, k: int, folder: Path, hits: str) -> None:
    """Score what the retriever, or a file of hits, finds; no model is loaded."""
    from prag_core.evaluation.foreign import read_hits
    from prag_core.pipeline.parts import build_retriever

    texts = [question.question for question in whole.questions]
    if hits:
        rows = read_hits(hits, whole)
    else:
        rows = build_retriever(setup, whole.documents).retrieve(texts, k)
    scores = retrieval_scores(whole, rows, k)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "retrieval.json", scores)
    print(
        f"{whole.name} has no golden answers, so that retrieval alone is scored: recall@{k} "
        f"{scores['recall']:.3f}, hit@{k} {scores['hit']:.3f} ({scores['questions']} questions)"
    )
