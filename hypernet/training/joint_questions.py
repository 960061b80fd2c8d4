"""Joint questions: a corpus goes in, a question set comes out whose questions take two documents.

Comparisons ("Who was born first, A or B?", "Are A and B of the same nationality?") and bridges
("When was the director of A born?", where B is A's director), from the relations that patterns find
in introductions. `hypernet fit` trains such questions on groups that hold both documents.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from hypernet.training.sources import NOTHING, corpus_file
from prag_core.augmentation.relations import find_relations, subject
from prag_core.corpus.documents import Document
from prag_core.corpus.leave_out import LeaveOut
from prag_core.files import require_no_set, write_set

# By the first of the ways in which patterns ask for the relation.
EARLIER = {
    "When was {} born?": ("Who was born first, {} or {}?", "Who is older, {} or {}?"),
    "When did {} die?": ("Who died first, {} or {}?", "Who died earlier, {} or {}?"),
    "When was {} founded?": ("Which was founded first, {} or {}?", "Which is older, {} or {}?"),
    "When was {} released?": ("Which came out first, {} or {}?",
                              "Which was released earlier, {} or {}?"),
}  # fmt: skip
LATER = {
    "When was {} born?": ("Who was born later, {} or {}?", "Who is younger, {} or {}?"),
    "When did {} die?": ("Who died later, {} or {}?", "Which of {} and {} died last?"),
    "When was {} founded?": ("Which was founded later, {} or {}?", "Which is newer, {} or {}?"),
    "When was {} released?": ("Which came out later, {} or {}?",
                              "Which was released more recently, {} or {}?"),
}  # fmt: skip
SAME = {
    "What is {}'s nationality?": ("Are {} and {} of the same nationality?",
                                  "Do {} and {} have the same nationality?"),
    "In what country is {}?": ("Are {} and {} in the same country?",
                               "Are both {} and {} located in the same country?"),
    "What genre is {}?": ("Are {} and {} of the same genre?",),
}  # fmt: skip
BRIDGES = {
    "Who directed {}?": "the director of {}",
    "Who produced {}?": "the producer of {}",
    "Who wrote {}?": "the author of {}",
    "Who composed {}?": "the composer of {}",
    "Who founded {}?": "the founder of {}",
    "Who created {}?": "the creator of {}",
    "Who developed {}?": "the developer of {}",
    "Who published {}?": "the publisher of {}",
    "Who recorded {}?": "the performer of {}",
    "Who owns {}?": "the owner of {}",
    "Who is the father of {}?": "the father of {}",
    "Who is the mother of {}?": "the mother of {}",
    "{} is the capital of what?": "the place whose capital is {}",
}
# Asked through another document, what something is has many answers.
VAGUE = ("What is {}?", "What is {}'s occupation?")
DATES = {"%Y": 1, "%B %Y": 2, "%d %B %Y": 3, "%B %d, %Y": 3}  # form -> parts of a date
REPEATS = 1000  # comparisons drawn in a row that are there already: there are no more
Date = tuple[int, ...]
Joint = tuple[str, str, str, Document, Document]  # kind, question, answer, and what it takes


def joint_set(
    corpus: str, folder: str, questions: int = 20_000, leave_out: LeaveOut = NOTHING, seed: int = 0
) -> None:
    """Write a question set whose questions take two documents each.

    Args:
        corpus: folder or file of titled introductions.
        folder: where corpus.jsonl and questions.jsonl are written.
        questions: how many, at most; half of them bridges, as far as there are.
        leave_out: what training never draws: documents, articles and questions.
        seed: of all draws.

    Raises:
        ValueError: no document that patterns find something in.
    """
    require_no_set(Path(folder))
    draw = random.Random(seed)
    documents = [
        document
        for document in leave_out.remaining(corpus_file(corpus))
        if document.title not in leave_out.articles
    ]
    relations = {
        document.id: [
            (ways, answer)
            for ways, answer in find_relations(document)
            if not any(leave_out.asks(way.format(subject(document)), (answer,)) for way in ways)
        ]
        for document in documents
    }
    joint = list(bridges(documents, relations, draw))
    joint = draw.sample(joint, min(len(joint), questions // 2))
    chosen, repeats = {_key(row): row for row in joint}, 0
    for row in comparisons(documents, relations, draw):
        if len(chosen) >= questions or repeats == REPEATS:
            break
        repeats = 0 if chosen.setdefault(_key(row), row) is row else repeats + 1
    joint = [*chosen.values()]
    if not joint:
        raise ValueError(
            f"got {len(documents)} documents of {corpus} in which no relation was found, expected "
            "titled introductions, as of an encyclopedia: name another corpus"
        )
    draw.shuffle(joint)
    rows = [
        {
            "id": str(number),
            "question": question,
            "golden_answers": [answer],
            "gold_ids": [first.id, second.id],
            "metadata": {"type": kind},
        }
        for number, (kind, question, answer, first, second) in enumerate(joint)
    ]
    needed = {document.id: document for row in joint for document in row[3:]}
    texts = [{"id": i, "title": d.title, "text": d.text} for i, d in needed.items()]
    write_set(Path(folder), texts, rows)
    print(f"wrote {len(rows)} questions over {len(needed)} documents to {folder}")


def _key(row: Joint) -> tuple[str, ...]:
    """Return what makes a question another one: its words, and what it is about."""
    return row[1], row[3].id, row[4].id


def bridges(
    documents: list[Document], relations: dict[str, list], draw: random.Random
) -> Iterator[Joint]:
    """Yield a question about B, named by its relation to A, for every B that A names."""
    # By the whole title: "Tom Holland (actor)" is not who directed a film of 1988.
    named = {document.title: document for document in documents}
    for first in documents:
        for ways, answer in relations[first.id]:
            second = named.get(answer)
            facts = relations[second.id] if second else []
            facts = [row for row in facts if row[0][0] not in VAGUE]
            if not facts or ways[0] not in BRIDGES or second is first:
                continue
            role = BRIDGES[ways[0]].format(subject(first))
            asked, said = draw.choice(facts)
            question = draw.choice(asked).format(role)
            yield "bridge", question[0].upper() + question[1:], said, first, second


def comparisons(
    documents: list[Document], relations: dict[str, list], draw: random.Random
) -> Iterator[Joint]:
    """Yield comparisons without end, kind by kind; none where no relation is there twice."""
    dates: dict[str, list] = defaultdict(list)  # by relation
    kinds: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))  # and answer
    for document in documents:
        for (relation, *_), answer in relations[document.id]:
            if relation in SAME:
                kinds[relation][answer].append(document)
            if relation in EARLIER and (date := _date(answer)):
                dates[relation].append((date, document))
    # Of different years: of "1994" and "March 1994" nobody knows which comes first.
    dates = {name: rows for name, rows in dates.items() if len({d[0] for d, _ in rows}) > 1}
    kinds = {relation: rows for relation, rows in kinds.items() if len(rows) > 1}
    while dates or kinds:
        if dates:
            yield _dated(*draw.choice([*dates.items()]), draw)
        if kinds:
            yield _same(*draw.choice([*kinds.items()]), draw)


def _dated(relation: str, rows: list[tuple[Date, Document]], draw: random.Random) -> Joint:
    early = late = draw.choice(rows)
    while all(a == b for a, b in zip(early[0], late[0], strict=False)):  # as far as both are known
        early, late = sorted(draw.choices(rows, k=2), key=lambda row: row[0])
    table, (_, right) = draw.choice([(EARLIER, early), (LATER, late)])
    first, second = draw.sample([early[1], late[1]], 2)  # the answer stands first as often as last
    question = draw.choice(table[relation]).format(subject(first), subject(second))
    return "comparison", question, subject(right), first, second


def _same(relation: str, rows: dict[str, list[Document]], draw: random.Random) -> Joint:
    shared = [answer for answer in rows if len(rows[answer]) > 1]
    if shared and draw.random() < 0.5:
        said, (first, second) = "yes", draw.sample(rows[draw.choice(shared)], 2)
    else:
        said, pair = "no", draw.sample([*rows], 2)
        first, second = (draw.choice(rows[answer]) for answer in pair)
    question = draw.choice(SAME[relation]).format(subject(first), subject(second))
    return "comparison", question, said, first, second


def _date(answer: str) -> Date | None:
    """Return year, month and day, as far as they are given."""
    for form, parts in DATES.items():
        with suppress(ValueError):
            return datetime.strptime(answer, form).timetuple()[:parts]
    return None
