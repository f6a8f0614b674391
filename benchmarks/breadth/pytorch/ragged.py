"""Rows that lie one behind the other, as padded sequences: by index, as ``pad_sequence`` of parts that have gradients
goes back through a copy of all of it for each part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


def padded(rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows of sequences of these lengths, (sequences, the longest, ...), and the lengths."""
    sizes = torch.tensor(lengths)
    starts = sizes.cumsum(0) - sizes
    places = torch.arange(max(lengths))
    return rows[torch.where(places < sizes[:, None], starts[:, None] + places, 0)], sizes


def packed(rows: Tensor, lengths: Sequence[int]) -> PackedSequence:
    """The same, packed for a recurrent layer."""
    values, sizes = padded(rows, lengths)
    return pack_padded_sequence(values, sizes, batch_first=True, enforce_sorted=False)
