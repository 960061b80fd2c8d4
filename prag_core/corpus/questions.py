"""Questions: records of any of the known question sets go in, `Question` records come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prag_core.corpus.documents import Document
from prag_core.corpus.records import Records, Reject, parse_json

# By source: ours and SQuAD, HotpotQA, ComplexWebQuestions (ID), others. The first one present.
ID_FIELDS = ("id", "_id", "ID", "qid", "question_id", "test_id")
ANSWER_FIELDS = ("golden_answers", "possible_answers", "answers", "answer")
# What a question is, as its source names it, and our name for it.
KIND_FIELDS = {"type": "type", "level": "level", "prop": "prop", "compositionality_type": "type"}


@dataclass(frozen=True)
class Question:
    """One question with its answers.

    Attributes:
        id: unique in its set.
        question: the text.
        golden_answers: every accepted answer; empty where the source has none (BEIR).
        gold_ids: `Document.id` of the documents that hold the answer.
        metadata: e.g. `type`, the sub-task of a multi-hop question.
    """

    id: str
    question: str
    golden_answers: tuple[str, ...]
    gold_ids: tuple[str, ...] = ()
    metadata: dict = field(default_factory=dict, compare=False)


def read_questions(
    records: Records, documents: list[Document], reject: Reject, counts: Counter[str]
) -> list[Question]:
    """Read questions, and append the documents that they carry to `documents`.

    Questions marked as unanswerable are left out and counted.

    Gold ids are document ids where the record carries its documents, else as the source has them.
    """
    questions: dict[str, Question] = {}
    document_ids = {document.id for document in documents}
    for where, record in _flat(records):
        try:
            context, gold_ids = _context(record)
            question = _question(record, gold_ids, len(questions))
            # SQuAD repeats a paragraph for each of its questions; the corpus takes it once.
            new = [document for document in context if document.id not in document_ids]
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            reject(where, str(error) if isinstance(error, ValueError) else f"got {error!r}")
            continue
        documents += new
        document_ids |= {document.id for document in context}
        if not question.golden_answers:
            counts["unanswerable"] += 1
        elif question.id in questions:
            reject(where, f"got question id {question.id!r} twice, expected unique ids")
        else:
            questions[question.id] = question
    return list(questions.values())


def _flat(records: Records) -> Records:
    """Unfold SQuAD's {"data": [{title, paragraphs: [{context, qas}]}]}."""
    for where, record in records:
        if not isinstance(record, Mapping) or not isinstance(record.get("data"), list):
            yield where, record
            continue
        try:
            for article in record["data"]:
                for paragraph in article["paragraphs"]:
                    place = {"title": article.get("title", ""), "context": paragraph["context"]}
                    for question in paragraph["qas"]:
                        yield f"{where}, question {question.get('id')}", {**place, **question}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: got a data list without {error!r}, expected SQuAD's layout "
                "(data, paragraphs, context, qas): check the file"
            ) from error


def _question(record: Mapping, gold_ids: Iterable[str], number: int) -> Question:
    text = record.get("question")
    answers = next((record[name] for name in ANSWER_FIELDS if name in record), None)
    if not isinstance(text, str) or not text.strip() or answers is None:
        problem = f"got the fields {', '.join(record)}"
        raise ValueError(f"{problem}, expected question and one of {', '.join(ANSWER_FIELDS)}")
    source_id = next((record[name] for name in ID_FIELDS if record.get(name) is not None), number)
    metadata = {ours: record[name] for name, ours in KIND_FIELDS.items() if record.get(name)}
    extra = _unpacked(record.get("metadata")) or {}
    if not isinstance(extra, Mapping):
        raise ValueError(f"got metadata {extra!r:.80}, expected an object")
    metadata |= extra
    golden = tuple(dict.fromkeys(_strings(_unpacked(answers))))  # distinct, in the source's order
    return Question(str(source_id), text.strip(), golden, tuple(gold_ids), metadata)


def _unpacked(value: object) -> object:
    """Return the list or object that a string holds, as in PopQA and in tables; else the value."""
    if not isinstance(value, str) or (value[:1] + value[-1:]) not in ("[]", "{}"):
        return value
    try:
        return parse_json(value)
    except ValueError:  # "[sic]"
        return value


def _strings(answers: object) -> Iterator[str]:
    """Collect the strings of an answer, a list of them, or {text | answer, aliases}."""
    if isinstance(answers, Mapping):
        for name in ("text", "answer", "aliases"):
            yield from _strings(answers.get(name))
    elif isinstance(answers, (list, tuple)):
        for answer in answers:
            yield from _strings(answer)
    elif answers is not None and str(answers).strip():
        yield str(answers).strip()


def _context(record: object) -> tuple[list[Document], list[str]]:
    """Return the documents that a record carries and its gold ids."""
    if not isinstance(record, Mapping):
        raise ValueError(f"got a JSON {type(record).__name__}, expected an object")
    context, facts = (_parsed(record, name) for name in ("context", "supporting_facts"))
    if context is None:
        gold = _unpacked(record.get("gold_ids") or ())
        if not isinstance(gold, (str, list, tuple)):
            raise ValueError(f"got gold_ids {gold!r:.80}, expected a list of ids")
        return [], [str(gold_id) for gold_id in ([gold] if isinstance(gold, str) else gold)]
    if isinstance(context, str):
        if not context.strip():
            raise ValueError("got an empty context, expected a text: add it, or leave context out")
        title = record.get("title") or ""
        if not isinstance(title, str):
            raise ValueError(f"got the title {title!r:.80}, expected a string")
        document = Document(context.strip(), title.replace("_", " "))  # as Wikipedia names pages
        return [document], [document.id]
    # The original files have [[title, sentences], ...], the hub {"title": [...], ...: [...]}.
    if isinstance(context, Mapping):
        sentences = context["sentences"] if "sentences" in context else context["content"]
        context = zip(context["title"], sentences, strict=True)
    documents = {title: Document(_joined(part), title) for title, part in context}
    # HotpotQA has paragraphs without a sentence.
    documents = {title: document for title, document in documents.items() if document.text}
    titles = facts["title"] if isinstance(facts, Mapping) else map(_title, facts or ())
    # A title that is not in the context stays, and is reported as a gold id without document.
    gold_ids = [documents[t].id if t in documents else t for t in dict.fromkeys(titles)]
    return list(documents.values()), gold_ids


def _title(fact: object) -> str:
    """Return whose fact it is: [title, place of the sentence], or the title alone."""
    return fact if isinstance(fact, str) else fact[0]  # type: ignore[index]


def _joined(sentences: object) -> str:
    """Return a paragraph that is a list of sentences, or a text as it is."""
    if isinstance(sentences, str):
        return sentences.strip()
    if not isinstance(sentences, (list, tuple)) or not all(isinstance(s, str) for s in sentences):
        raise ValueError(f"got a context of {sentences!r:.80}, expected sentences")
    return " ".join(sentence.strip() for sentence in sentences).strip()


def _parsed(record: Mapping, name: str) -> object:
    """Return a field; where a multi-hop set keeps JSON in a string, its value."""
    value = record.get(name)
    if isinstance(value, str) and "supporting_facts" in record:
        return parse_json(value)
    return value
