"""Questions: documents go in; a question set that a model wrote about them comes out."""

from __future__ import annotations

from pathlib import Path

from prag_core.augmentation.question_options import QuestionOptions


def questions(corpus: str, output: str, setup: QuestionOptions) -> None:
    """Let a model write questions about documents; keep those that need the document.

    A question is kept where the model answers it right with the passage in the prompt and wrong
    without. May be stopped at any time: the same command goes on where it was, by document id.
    OUTPUT is a question set, for `prag evaluate` and for `data.question_sets` of `hypernet fit`.

    Args:
        corpus: file or folder of documents (see `prag parametrize`).
        output: folder for corpus.jsonl.gz and questions.jsonl.gz (the documents with kept questions
            and these), written.jsonl (all that was written, with the reasons why not kept),
            report.json (shares kept, by check and kind; speed) and config.json.
        setup: who writes and what is kept.
    """
    from prag_core.evaluation.written_questions import draw_documents, write_question_set
    from prag_core.model.base_model import load_base_model

    documents = draw_documents(corpus, setup)
    base = load_base_model(setup.model, setup.dtype, setup.device)
    report = write_question_set(base, documents, Path(output), setup)
    print(
        f"{report['documents']} documents, {report['written']} questions written, "
        f"{report['kept']} kept ({report['kept_share']:.0%}), in {report['seconds']:.0f} s"
    )
    for name, row in report["checks"].items():
        print(f"check {name}: {row['passed']} of {row['asked']} pass ({row['share']:.0%})")
    for reason, count in report["dropped"].items():
        print(f"dropped: {count} {reason}")
    if not report["kept"]:
        raise ValueError(
            f"got no question that passes the checks (see {output}/written.jsonl), expected some: "
            "take more documents or a larger model, or switch a check off"
        )
