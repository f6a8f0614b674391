"""The parser's verbs in PyTorch; see `benchmarks.decisions.base`. By hand: packed LSTMs, and rows gathered by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.breadth.pytorch.ragged import packed
from benchmarks.decisions.base import LEARNING_RATE, Array, Numbered


class Parser(nn.Module):
    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__()
        sizes = {name: array.shape for name, array in weights.items()}
        self.word, self.tag, self.nothing = (
            nn.Embedding(*sizes[f"{name}.weight"], sparse=True) for name in ("word", "tag", "nothing")
        )
        lstm = sizes["lstm.weight_hh_l0"][1]
        self.lstm = nn.LSTM(sizes["lstm.weight_ih_l0"][1], lstm, num_layers=2, bidirectional=True)
        self.hidden, self.scores = (nn.Linear(*sizes[f"{name}.weight"][::-1]) for name in ("hidden", "scores"))
        self.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})


class Torch:
    """One sentence, or many with their outputs as the rows of one tensor."""

    no_grad = staticmethod(torch.inference_mode)

    def __init__(self, weights: Mapping[str, Array]) -> None:
        torch.set_num_threads(harness.threads_here())
        self.parser = Parser(weights)
        self.optimizer = torch.optim.SGD(self.parser.parameters(), lr=LEARNING_RATE)

    def begin(self) -> None:
        pass

    def _nothing(self) -> Tensor:
        return self.parser.nothing(torch.tensor([0]))

    def encode(self, sentence: Numbered) -> Tensor:
        p = self.parser
        xs = torch.cat([p.word(torch.tensor(sentence.words)), p.tag(torch.tensor(sentence.tags))], 1)
        return torch.cat([p.lstm(xs)[0], self._nothing()])

    def encode_all(self, sentences: Sequence[Numbered]) -> tuple[Tensor, list[int], list[int]]:
        """The rows, and of each sentence the first and how far its positions lie apart."""
        p = self.parser
        words, tags = ([n for s in sentences for n in getattr(s, name)] for name in ("words", "tags"))
        xs = torch.cat([p.word(torch.tensor(words)), p.tag(torch.tensor(tags))], 1)
        found = packed(xs, [len(s.words) for s in sentences])
        states, _ = nn.utils.rnn.pad_packed_sequence(p.lstm(found)[0], batch_first=True)
        count, longest, width = states.shape
        return (
            torch.cat([states.reshape(-1, width), self._nothing()]),
            [k * longest for k in range(count)],
            [count * longest],
        )

    def score(self, outputs: Tensor, at: Sequence[int]) -> Tensor:
        p = self.parser
        return p.scores(torch.tanh(p.hidden(outputs[torch.tensor(at) % len(outputs)].reshape(-1))))

    def score_all(
        self, outputs: tuple[Tensor, list[int], list[int]], at: Sequence[tuple[int, Sequence[int]]]
    ) -> Tensor:
        rows, firsts, (nothing,) = outputs
        index = torch.tensor([[nothing if i < 0 else firsts[k] + i for i in places] for k, places in at])
        p = self.parser
        return p.scores(torch.tanh(p.hidden(rows[index].reshape(len(at), -1))))

    def value(self, scores: Tensor) -> Array:
        found: Array = scores.detach().numpy()
        return found

    values = value

    def margin(self, scores: Tensor, wrong: int, right: int) -> Tensor:
        return scores[wrong] - scores[right]

    def margins(self, scores: Tensor, pairs: Sequence[tuple[int, int, int]]) -> list[Tensor]:
        rows, wrong, right = torch.tensor(pairs).T
        return [(scores[rows, wrong] - scores[rows, right]).sum()]

    def step(self, losses: Sequence[Tensor], count: int, sentences: int) -> float:
        loss = (torch.stack(list(losses)).sum() + count) / sentences
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.item())


def setup(weights: Mapping[str, Array]) -> Any:
    """The library, with these weights."""
    return Torch(weights)
