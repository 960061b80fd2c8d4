"""Training batches: documents with questions go in, padded tensors of one step come out.

A batch is a function of (seed, step, rank) alone, so that a resumed run sees what it would have
seen. Documents come in groups of M, which share one adapter; all of a group's questions are asked
with it, so that every document is the others' distractor.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hypernet.training.sources import Item, Pool
from prag_core.augmentation.relations import ask
from prag_core.corpus.documents import Document
from prag_core.model.base_model import start_token
from prag_core.model.packing import Packed, flat, pack
from prag_core.model.padding import pad
from prag_core.model.prompts import chat, prompt_ids, question_prompt
from prag_core.model.wordings import Wording, find_wording
from prag_core.training.sequences import encode, recitation_request

ANSWER, COMPLETION = 0, 1  # kinds of targets, which have losses (and weights) of their own
Batch = dict[str, Packed | Tensor | int | list[str]]
# Rows of the base model alone in a sequence: more share more, and pay more attention.
PLAIN_ROWS = 4
# Upper bounds in tokens: the documents of a step are of one class, so that padding stays small.
LENGTH_CLASSES = (96, 128, 160, 192, 224, 256, 320, 384, 512, 768, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class BatchConfig:
    """What a training step holds.

    Attributes:
        documents: N, documents a step.
        groups: sizes M of the groups, one drawn a step; each must divide `documents`.
        questions: question rows a document.
        completions: completion rows a document (text goes on from a few of its words).
        recitations: rows a document that ask for its text by its title; kind COMPLETION.
        unrelated: rows a document that it does not answer (KL to the base model).
        near_share: share of groups filled with documents of the same article (hard distractors).
        joint_share: share of groups, where their first document has questions over several, that
            get the documents of one; of the questions about a document whose group has such
            documents as many are over several.
        combine_share: share of documents whose questions are asked with the passages in the prompt
            too, as mode `combine` asks: of adapters that are to help a model that reads.
        no_title_share: share of documents encoded without their title.
        completion_tokens: longest completion; of a recitation twice as much is asked.
        passages: add prompts with the passage (for the teacher that reads it).
        prompt: name of the wording that questions are asked in, or one of your own (see
            `prag_core.model.wordings`); adapters are asked in it later.
        ranks: ranks of the adapters, one drawn a step of groups of 1 (0: full); `ridge` head only.
    """

    documents: int = 8
    groups: tuple[int, ...] = (1, 1, 2, 4)
    questions: int = 3
    completions: int = 1
    recitations: int = 0
    unrelated: int = 1
    near_share: float = 0.5
    joint_share: float = 0.5
    combine_share: float = 0.0
    no_title_share: float = 0.15
    completion_tokens: int = 24
    passages: bool = False
    ranks: tuple[int, ...] = (0,)
    prompt: str | Wording = "short"

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that do not fit each other."""
        if not self.groups or any(m < 1 or self.documents % m for m in self.groups):
            raise ValueError(
                f"got groups {list(self.groups)} and {self.documents} documents, expected group "
                "sizes that divide the number of documents"
            )
        if self.questions + self.completions + self.recitations < 1:
            raise ValueError(
                "got no questions, completions and recitations, expected at least one row"
            )
        find_wording(self.prompt)
        if not self.ranks or min(self.ranks) < 0:
            raise ValueError(f"got ranks {list(self.ranks)}, expected some, each 0 (full) or more")
        if {*self.ranks} - {0} and 1 not in self.groups:
            raise ValueError(
                f"got ranks {list(self.ranks)} with groups {list(self.groups)}, expected groups of "
                "1, as ranks are those of documents alone: put 1 into data.batch.groups, or leave "
                "the ranks out"
            )

    def require_rows(
        self, unrelated: float, teacher: float, regression: float, imitation: float
    ) -> None:
        """Raise ValueError for a weight of a loss (see `HypernetModule`) that no row would have."""
        for name, weight, rows, remedy in (
            ("unrelated_weight", unrelated, self.unrelated, "raise data.batch.unrelated"),
            ("teacher_weight", teacher, self.passages, "set data.batch.passages"),
            ("regression_weight", regression, 1 in self.groups, "put 1 into data.batch.groups"),
            ("imitation_weight", imitation, 1 in self.groups, "put 1 into data.batch.groups"),
        ):
            if weight and not rows:
                raise ValueError(
                    f"got model.{name} {weight} and nothing that it applies to, expected rows for "
                    f"it: {remedy}, or set it to 0"
                )


class StepRows:
    """Collects rows and the positions that predict their targets."""

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.targets: list[tuple[int, int, int, int]] = []  # row, position, token, kind
        self.unrelated: list[tuple[int, int]] = []  # row, position
        self.plain: list[int] = []  # rows that the base model reads alone
        self.teacher: list[list[int]] = []
        self.teacher_positions: list[tuple[int, int, int]] = []  # row, position, target index

    def add(self, ids: list[int], start: int, kind: int) -> int:
        """Take a row whose tokens from `start` on are targets; return the first one's index."""
        first, row = len(self.targets), len(self.rows)
        # Token p is predicted at p - 1.
        self.targets += [(row, p - 1, ids[p], kind) for p in range(start, len(ids))]
        self.rows.append(ids)
        return first

    def add_teacher(self, ids: list[int], start: int, first: int) -> None:
        """Take what the base model reads to teach the targets from index `first` on."""
        row = len(self.teacher)
        self.teacher_positions += [(row, p - 1, first + p - start) for p in range(start, len(ids))]
        self.teacher.append(ids)

    def add_unrelated(self, ids: list[int], start: int) -> None:
        """Take a row that is read with the adapter and without, to be predicted alike."""
        row = len(self.rows)
        self.unrelated += [(row, p - 1) for p in range(start, len(ids))]
        self.plain.append(row)
        self.rows.append(ids)

    def tensors(self, padding: int, inner: Tensor, documents: int, questions: int) -> Batch:
        """Return packed rows, and the flat positions (sequence * S + place) that losses look at.

        Args:
            padding: token id.
            inner: which tokens go on with a word (see `inner_pieces`), (V,) bool.
            documents: N; each has as many rows and gets a sequence of its own.
            questions: rows that the teacher reads of one document.
        """
        rows = Sequences(self.rows, len(self.rows) // documents, padding)
        row, _, targets, kinds = torch.tensor(self.targets).T  # (P,) each
        later = torch.diff(row, prepend=row.new_tensor([-1])) == 0  # not a row's first target
        batch: Batch = {
            "rows": rows.packed,
            "positions": rows.flat((r, p) for r, p, _, _ in self.targets),  # (P,)
            "targets": targets,  # (P,)
            "kinds": kinds,  # (P,)
            "inner": later & inner[targets] & (kinds == ANSWER),  # (P,)
        }
        # Absent where there are none: the module asks for the key.
        if self.plain:
            place = {row: index for index, row in enumerate(self.plain)}
            alone = Sequences([self.rows[row] for row in self.plain], PLAIN_ROWS, padding)
            batch["plain_rows"] = alone.packed
            batch["unrelated"] = rows.flat(self.unrelated)
            batch["plain"] = alone.flat((place[r], p) for r, p in self.unrelated)
        if self.teacher:
            teacher = Sequences(self.teacher, max(1, questions), padding)
            batch["teacher"] = teacher.packed
            batch["teacher_positions"] = teacher.flat((r, p) for r, p, _ in self.teacher_positions)
            batch["taught"] = torch.tensor([target for _, _, target in self.teacher_positions])
        return batch


def inner_pieces(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return which tokens go on with a word: neither behind a space nor special, (V,) bool."""
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    inner = torch.tensor([not (piece or "▁").startswith(("Ġ", "▁", "Ċ")) for piece in pieces])
    inner[tokenizer.all_special_ids] = False
    return inner


def beside_others(batch: Batch) -> Batch:
    """Return a batch of single documents with the targets of those behind another document alone.

    Documents of a length that few have may stand behind themselves.
    """
    ids = batch["document_ids"]
    apart = torch.tensor([own != ids[number - 1] for number, own in enumerate(ids)])  # (N,)
    owner = batch["positions"] // batch["rows"].ids.shape[1]  # (P,), a sequence each
    kept = apart.to(owner.device)[owner]
    return batch | {k: batch[k][kept] for k in ("positions", "targets", "kinds", "inner")}


class Sequences:
    """Rows packed so many in a sequence, with what is needed to find their tokens again."""

    def __init__(self, rows: Sequence[list[int]], count: int, padding: int) -> None:
        """Pack them (see `prag_core.model.packing`)."""
        blocks = [rows[first : first + count] for first in range(0, len(rows), count)]
        self.packed, places = pack(blocks, padding)
        self.places = flat(places, self.packed.ids.shape[1])

    def flat(self, positions: Iterable[tuple[int, int]]) -> Tensor:
        """Return the flat positions (P,) of tokens that are named by row and position in it."""
        return torch.tensor([self.places[row][position] for row, position in positions])


class BatchBuilder:
    """Draws documents and rows of a step and pads them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        pools: Sequence[Pool],
        weights: Sequence[float],
        config: BatchConfig,
        seed: int = 0,
        least: int = 1,
    ) -> None:
        """Sort the items of every pool into classes of similar length.

        Args:
            tokenizer: of the base model.
            pools: items by source (question sets, corpora).
            weights: share of the groups that each pool gives.
            config: what a step holds.
            seed: of all draws.
            least: documents of a length class that is drawn from.

        Raises:
            ValueError: nothing to draw from.
        """
        self.tokenizer, self.config = tokenizer, config
        self.wording = find_wording(config.prompt)
        self.start, self.end = start_token(tokenizer), tokenizer.eos_token_id
        self.inner = inner_pieces(tokenizer)
        self.seed, self.pools, self.weights = seed, pools, weights
        self.classes: dict[int, list[np.ndarray]] = {}  # places in every pool
        self.articles: dict[tuple[str, int], list[Item]] = defaultdict(list)
        self.joined: dict[str, Item] = {}  # by document id, those with questions over several
        for number, pool in enumerate(pools):
            in_memory = not hasattr(pool, "lengths")  # else a `DiskCorpus`
            lengths = np.array([len(item) for item in pool]) if in_memory else pool.lengths
            classes = np.searchsorted(LENGTH_CLASSES, lengths)  # (documents,)
            for index, bound in enumerate(LENGTH_CLASSES):
                places = np.flatnonzero(classes == index)
                if len(places):
                    empty = [np.empty(0, dtype=int)] * len(pools)
                    self.classes.setdefault(bound, empty)[number] = places
                # Neighbours of one article; a corpus on disk would be read whole for them.
                for place in places if in_memory else ():
                    item = pool[place]
                    self.articles[item.article, bound].append(item)
                    if item.joint:
                        self.joined[item.document.id] = item

        self.classes = {b: p for b, p in self.classes.items() if sum(map(len, p)) >= least}
        if not self.classes:
            raise ValueError(
                f"got {sum(map(len, pools))} documents, expected {least} or more of similar "
                "length: check the folders, data.max_document_tokens and data.validation_articles"
            )
        # Of every class, the share of each pool in all groups: a pool's documents count alike.
        counts = np.array([[len(pool) for pool in places] for places in self.classes.values()])
        shares = counts / np.maximum(counts.sum(0), 1) * np.asarray(weights)  # (classes, pools)
        self.shares = dict(zip(self.classes, shares.tolist(), strict=True))
        if not shares.sum():
            raise ValueError(
                f"got weights {[*weights]} of pools with {counts.sum(0).tolist()} documents, "
                "expected a weight above 0 for one that has documents: correct data.weights"
            )

    def build(self, step: int, rank: int = 0) -> Batch:
        """Return the batch of one step and process."""
        draw = random.Random(f"{self.seed}-{step}-{rank}")  # a text: hashed alike everywhere
        group = draw.choice(self.config.groups)
        items = self._documents(group, draw)
        rows = StepRows()
        # Each kind of rows by its own dice: what one kind has changes nothing of the others, so
        # that variants of a training see the same documents and questions.
        texts, strangers, combined = (
            random.Random(f"{self.seed}-{step}-{rank}-{kind}")
            for kind in ("text", "stranger", "combine")
        )
        for index, item in enumerate(items):
            first = index - index % group
            members = {x.document.id: x.document for x in items[first : first + group]}
            # All questions about a document alike: packed, they read its passage once.
            read = combined.random() < self.config.combine_share
            for _ in range(self.config.questions):
                self._question(rows, item, members, draw, read)
            for _ in range(self.config.completions):
                rows.add(*self._completion(item, texts), COMPLETION)
            for _ in range(self.config.recitations):
                rows.add(*self._recitation(item), COMPLETION)
            articles = {member.article for member in items[first : first + group]}
            for _ in range(self.config.unrelated):
                self._unrelated(rows, self._stranger(articles, strangers), strangers)
        ids = [self._document_ids(item, draw) for item in items]
        documents, lengths = pad(ids, self.tokenizer.pad_token_id, 32)  # (N, T), (N,)
        questions = self.config.questions
        padding = self.tokenizer.pad_token_id
        batch = rows.tensors(padding, self.inner, self.config.documents, questions)
        batch |= {"documents": documents, "lengths": lengths, "group": group}
        # A merge of several documents is cut at its end only: their rows are trained whole.
        batch["rank"] = draw.choice(self.config.ranks) if group == 1 else 0
        return batch | {"document_ids": [item.document.id for item in items]}

    def _stranger(self, articles: set[str], draw: random.Random) -> Item:
        """Draw a document of other articles (after 20 tries, of any)."""
        pools = [pool for pool in self.pools if len(pool)]
        for _ in range(20):
            item = draw.choice(draw.choice(pools))
            if item.article not in articles:
                break
        return item

    def _documents(self, group: int, draw: random.Random) -> list[Item]:
        """Draw N documents of one length class, group by group."""
        bounds = [*self.shares]
        bound = draw.choices(bounds, [sum(self.shares[bound]) for bound in bounds])[0]
        pools, weights = self.classes[bound], self.shares[bound]  # places of this class, by pool

        items: list[Item] = []
        taken: set[str] = set()

        def one() -> Item:
            for _ in range(20):  # none twice in a step, where the class has enough
                number = draw.choices(range(len(pools)), weights)[0]
                item = self.pools[number][draw.choice(pools[number])]
                if item.document.id not in taken:
                    break
            taken.add(item.document.id)
            return item

        while len(items) < self.config.documents:
            members = [one()]
            members += self._partners(members[0], bound, group - 1, taken, draw)
            taken.update(item.document.id for item in members)
            if group > 1 and draw.random() < self.config.near_share:
                near = self.articles.get((members[0].article, bound), [])
                others = [item for item in near if item.document.id not in taken]
                members += draw.sample(others, min(len(others), group - len(members)))
                taken.update(item.document.id for item in members)
            items += [*members, *(one() for _ in range(group - len(members)))]
        return items

    def _partners(
        self, item: Item, bound: int, room: int, taken: set[str], draw: random.Random
    ) -> list[Item]:
        """Return the documents that one of an item's questions also takes, where they have room."""
        if not room or not item.joint or draw.random() >= self.config.joint_share:
            return []
        _, _, others = draw.choice(item.joint)
        partners = [self.joined[other] for other in others if other in self.joined]
        # All or none: held out, too long for the class, or in the step already.
        fit = [x for x in partners if len(x) <= bound and x.document.id not in taken]
        return fit if len(fit) == len(others) <= room else []

    def _document_ids(self, item: Item, draw: random.Random) -> list[int]:
        # Some without: documents of users may have none.
        title = item.title_ids if draw.random() >= self.config.no_title_share else ()
        return [self.start, *title, *item.text_ids, self.end]

    def _pair(self, item: Item, draw: random.Random) -> tuple[str, ...] | None:
        if item.pairs:  # what is trained on is the first of a question's answers
            return draw.choice(item.pairs)
        return ask(item.facts, draw) if item.facts else None

    def _question(
        self,
        rows: StepRows,
        item: Item,
        members: dict[str, Document],
        draw: random.Random,
        read: bool,
    ) -> None:
        """Add a question, one over several documents where the group has them; `read` with them."""
        joint = [row for row in item.joint if members.keys() >= {*row[2]}]
        documents = [item.document]
        if joint and draw.random() < self.config.joint_share:
            *pair, others = draw.choice(joint)
            documents += [members[other] for other in others]
        else:
            pair = self._pair(item, draw)
        if pair is None:  # so that every document has as many rows
            rows.add(*self._completion(item, draw), COMPLETION)
            return
        passages = documents if read else ()
        prompt = question_prompt(self.tokenizer, pair[0], passages, self.wording)
        row = rows.add(*self._encode(prompt, pair[1]), ANSWER)
        if self.config.passages:
            prompt = question_prompt(self.tokenizer, pair[0], documents, self.wording)
            rows.add_teacher(*self._encode(prompt, pair[1]), row)

    def _unrelated(self, rows: StepRows, stranger: Item, draw: random.Random) -> None:
        # Half questions, half running text: an adapter must leave both alone.
        pair = self._pair(stranger, draw)
        if pair is not None and draw.random() < 0.5:
            prompt = question_prompt(self.tokenizer, pair[0], (), self.wording)
            rows.add_unrelated(*self._encode(prompt, pair[1]))
            return
        begin = draw.randrange(max(1, len(stranger.text_ids) - 32))
        rows.add_unrelated([self.start, *stranger.text_ids[begin : begin + 48]], 2)

    def _completion(self, item: Item, draw: random.Random) -> tuple[list[int], int]:
        """Return a few words of the text and how it goes on."""
        text = item.text_ids
        # At least 4 tokens of context and 8 to predict, where the text has as many.
        first, last = min(4, len(text) - 1), max(min(5, len(text)), len(text) - 8)
        cut = draw.randrange(first, last) if len(text) > 1 else 0
        begin = max(0, cut - draw.randint(4, 32))
        end = cut + self.config.completion_tokens
        return [self.start, *text[begin:end]], 1 + cut - begin

    def _recitation(self, item: Item) -> tuple[list[int], int]:
        """Return the request for the text, as in the trained path, and how the text begins."""
        prompt = chat(self.tokenizer, recitation_request(item.document))
        head = prompt_ids(self.tokenizer, prompt)
        return [*head, *item.text_ids[: 2 * self.config.completion_tokens]], len(head)

    def _encode(self, prompt: str, answer: str) -> tuple[list[int], int]:
        sequence = encode(self.tokenizer, prompt, answer)
        return list(sequence.ids), sequence.answer_start
