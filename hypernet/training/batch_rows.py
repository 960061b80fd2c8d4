"""Rows of a step: token ids and targets go in, padded tensors with flat positions come out."""

from __future__ import annotations

import torch
from torch import Tensor

from prag_core.model.padding import pad

ANSWER, COMPLETION = 0, 1  # kinds of targets, which have losses (and weights) of their own
Batch = dict[str, Tensor | int | list[str]]


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

    def tensors(self, padding: int) -> Batch:
        """Return the rows and the flat positions (row * S + position) that losses look at."""
        # To a multiple of 8: tensor cores want it, and fewer shapes are compiled or allocated.
        ids, _ = pad(self.rows, padding, 8)  # (rows, S)
        width = ids.shape[1]
        place = {row: index for index, row in enumerate(self.plain)}
        batch: Batch = {
            "rows": ids,
            "positions": torch.tensor([r * width + p for r, p, _, _ in self.targets]),  # (P,)
            "targets": torch.tensor([token for _, _, token, _ in self.targets]),  # (P,)
            "kinds": torch.tensor([kind for _, _, _, kind in self.targets]),  # (P,)
        }
        # Absent where there are none: the module asks for the key.
        if self.plain:
            batch["plain_rows"] = torch.tensor(self.plain)
            batch["unrelated"] = torch.tensor([r * width + p for r, p in self.unrelated])
            batch["plain"] = torch.tensor([place[r] * width + p for r, p in self.unrelated])
        if self.teacher:
            batch["teacher"], _ = pad(self.teacher, padding, 8)
            width, places = batch["teacher"].shape[1], self.teacher_positions
            batch["teacher_positions"] = torch.tensor([r * width + p for r, p, _ in places])
            batch["taught"] = torch.tensor([target for _, _, target in places])
        return batch
