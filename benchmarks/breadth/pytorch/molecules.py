"""See `benchmarks.breadth.molecules`. Batched: the molecules of a minibatch are one graph of several parts, and what
comes in at an atom is a sum by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from benchmarks.breadth.molecules import STEPS


class MessagePassing(nn.Module):
    def __init__(self, atoms: int, size: int, hidden: int) -> None:
        super().__init__()
        self.atom = nn.Embedding(atoms, size)
        self.bond = nn.Embedding(4, size)
        self.start = nn.Linear(2 * size, hidden)
        self.pass_on = nn.Linear(hidden, hidden, bias=False)
        self.read = nn.Linear(size + hidden, hidden)
        self.output = nn.Linear(hidden, 1)

    def batch_scores(self, batch: Sequence[Any]) -> Tensor:
        atoms = self.atom(torch.tensor([kind for m in batch for kind in m.atoms]))
        sizes = torch.tensor([len(m.atoms) for m in batch])
        shifts = (sizes.cumsum(0) - sizes).repeat_interleave(torch.tensor([len(m.bonds) for m in batch]))
        bonds = torch.tensor([bond for m in batch for bond in m.bonds])
        v, w, kinds = bonds[:, 0] + shifts, bonds[:, 1] + shifts, bonds[:, 2]
        reverse = torch.arange(len(bonds)) ^ 1
        start = self.start(torch.cat([atoms[v], self.bond(kinds)], dim=1))
        messages = relu(start)
        for _ in range(STEPS):
            incoming = self._into(messages, w, len(atoms))
            messages = relu(start + self.pass_on(incoming[v] - messages[reverse]))
        read = relu(self.read(torch.cat([atoms, self._into(messages, w, len(atoms))], dim=1)))
        molecules = torch.arange(len(batch)).repeat_interleave(sizes)
        return self.output(self._into(read, molecules, len(batch)) / sizes[:, None])

    @staticmethod
    def _into(values: Tensor, index: Tensor, count: int) -> Tensor:
        return values.new_zeros(count, values.shape[1]).index_add(0, index, values)

    def batch_outputs(self, batch: Sequence[Any]) -> list[Tensor]:
        return [self.batch_scores(batch)]

    def batch_loss(self, batch: Sequence[Any]) -> Tensor:
        return (self.batch_scores(batch)[:, 0] - torch.tensor([m.solubility for m in batch])).square().sum()

    def outputs(self, molecule: Any) -> list[Tensor]:
        return self.batch_outputs([molecule])

    def loss(self, molecule: Any) -> Tensor:
        return self.batch_loss([molecule])


model = MessagePassing
