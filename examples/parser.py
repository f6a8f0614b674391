"""A dependency parser that decides as it goes, written for one sentence in a plain loop, trained and run in batches.

    python examples/parser.py                                        sentences that it generates itself
    python examples/parser.py --train FILE.conllu --dev FILE.conllu  Universal Dependencies, also .gz

Arc-hybrid transitions with a dynamic oracle that explores its own mistakes (Goldberg and Nivre 2013), scored from the
outputs of a BiLSTM (Kiperwasser and Goldberg 2016), here from words and gold tags. `Parser.parse` asks for the scores
of every step and goes on by them; `lf.map` runs all sentences of a minibatch between two questions at once.

Prints the labelled and unlabelled attachment score on held-out sentences after every epoch, and in the end what
batching has gained.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from tqdm import tqdm

import lazyflow as lf
from lazyflow import data, nn, optim

SHIFT, LEFT, RIGHT = 0, 1, 2
ROOT, UNKNOWN = "<root>", "<unk>"


class Sentence(NamedTuple):
    """Words and tags, and of each word the position of its head and its label. Behind the last word stands the root."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    heads: tuple[int, ...]
    labels: tuple[str, ...]


class State:
    """A stack of positions, and the position where the buffer begins, which ends with the root.

    ``SHIFT`` moves the first of the buffer onto the stack; ``LEFT`` makes it the head of the top of the stack, which
    goes; ``RIGHT`` makes the second of the stack the head of the top, which goes.
    """

    def __init__(self, length: int) -> None:
        self.stack: list[int] = []
        self.first, self.root = 0, length
        self.heads, self.labels = [-1] * length, [-1] * length

    def is_over(self) -> bool:
        """Whether all words have a head."""
        return not self.stack and self.first == self.root

    def allowed(self) -> tuple[bool, bool, bool]:
        """Which of the three transitions there are."""
        return self.first < self.root, len(self.stack) > 0, len(self.stack) > 1

    def take(self, move: int, label: int) -> None:
        """Make a transition."""
        if move == SHIFT:
            self.stack.append(self.first)
            self.first += 1
        else:
            word = self.stack.pop()
            self.heads[word] = self.first if move == LEFT else self.stack[-1]
            self.labels[word] = label

    def costs(self, gold: Gold) -> tuple[int, int, int]:
        """How many arcs of the gold tree cannot be made any more after each transition (Goldberg and Nivre 2013)."""
        stack, first = self.stack, self.first
        shift = left = right = 0
        if first < self.root:
            shift = (gold.heads[first] in stack[:-1]) + sum(child in stack for child in gold.children[first])
        if stack:
            top, below = stack[-1], stack[-2] if len(stack) > 1 else -1
            head, children = gold.heads[top], gold.children[top]
            lost = len(children) - bisect_left(children, first)
            left = lost + (head == below or head > first)
            right = lost + (head >= first)
        return shift, left, right


class Gold(NamedTuple):
    """The tree to be found: of each position its head, its label, and its children from left to right."""

    heads: Sequence[int]
    labels: Sequence[int]
    children: Sequence[Sequence[int]]


class Parser(nn.Module):
    """Scores transitions from the BiLSTM's outputs at three words of the stack and the first of the buffer."""

    def __init__(self, corpus: Sequence[Sentence], embedding: int, tag: int, lstm: int, hidden: int) -> None:
        super().__init__()
        self.counts = Counter(word.lower() for s in corpus for word in s.words)
        self.words = data.Vocabulary.build(self.counts, specials=(UNKNOWN, ROOT), unk=UNKNOWN)
        self.tags = data.Vocabulary.build((t for s in corpus for t in s.tags), specials=(UNKNOWN, ROOT), unk=UNKNOWN)
        self.labels = data.Vocabulary.build((r for s in corpus for r in s.labels), specials=(), unk=None)
        self.word = nn.Embedding(len(self.words), embedding)
        self.tag = nn.Embedding(len(self.tags), tag)
        self.lstm = nn.LSTM(embedding + tag, lstm, num_layers=2, bidirectional=True)
        self.nothing = nn.Embedding(1, 2 * lstm)
        self.hidden = nn.Linear(8 * lstm, hidden)
        self.scores = nn.Linear(hidden, 1 + 2 * len(self.labels))  # shift; left and right with each label
        moves = [SHIFT] + [LEFT] * len(self.labels) + [RIGHT] * len(self.labels)
        self.moves = np.array(moves)

    def encode(self, sentence: Sentence) -> list[lf.Expr]:
        """The BiLSTM's outputs, at each word, at the root, and in the end what stands for no word."""
        words = [self._known(word.lower()) for word in (*sentence.words, ROOT)]
        tags = [self.tags[tag] for tag in (*sentence.tags, ROOT)]
        outputs, _ = self.lstm([lf.concatenate([self.word(w), self.tag(t)]) for w, t in zip(words, tags, strict=True)])
        return [*outputs, self.nothing(0)]

    def _known(self, word: str) -> int:
        """The number of a word; while training, rare ones are often taken for unknown."""
        seen = self.counts.get(word, 0)
        if self.training and seen and lf.random.generator().random() < 0.25 / (0.25 + seen):
            return self.words[UNKNOWN]
        return self.words[word]

    def score(self, outputs: list[lf.Expr], state: State) -> lf.Expr:
        """A score for each transition."""
        top = [-1, -1, -1, *state.stack][-3:]
        return self.scores(lf.tanh(self.hidden(lf.concatenate([outputs[i] for i in (*top, state.first)]))))

    def parse(self, sentence: Sentence) -> State:
        """The tree of ONE sentence: the best transition, again and again."""
        outputs, state = self.encode(sentence), State(len(sentence.words))
        while not state.is_over():
            scores = self.score(outputs, state).numpy()
            best = int(np.argmax(np.where(np.array(state.allowed())[self.moves], scores, -np.inf)))
            state.take(*self._named(best))
        return state

    def loss(self, sentence: Sentence) -> list[lf.Expr]:
        """What was wrong in ONE sentence: a hinge loss for each step whose best transition is not a good one, or is by
        less than 1. It goes on by its own choice, also by a wrong one, if that is far better or, else, in one case of
        ten."""
        gold = self._gold(sentence)
        outputs, state, losses = self.encode(sentence), State(len(sentence.words)), []
        chance = lf.random.generator()
        while not state.is_over():
            scores = self.score(outputs, state)
            good, bad = self._best(scores.numpy(), state, gold)
            values = scores.numpy()
            if bad >= 0 and values[good] < values[bad] + 1:
                losses.append(scores[bad] - scores[good])
            explores = (
                bad >= 0 and values[bad] > values[good] and (values[bad] > values[good] + 1 or chance.random() < 0.1)
            )
            state.take(*self._named(bad if explores else good))
        return losses

    def _best(self, scores: Any, state: State, gold: Gold) -> tuple[int, int]:
        """The best of the transitions that cost least, and the best of the others, or -1."""
        costs, allowed = state.costs(gold), state.allowed()
        least = min(cost for cost, ok in zip(costs, allowed, strict=True) if ok)
        good = np.array([ok and cost == least for cost, ok in zip(costs, allowed, strict=True)])[self.moves]
        if state.stack:  # an arc of the gold tree wants its label
            top = state.stack[-1]
            for move, head in ((LEFT, state.first), (RIGHT, state.stack[-2] if len(state.stack) > 1 else -1)):
                if gold.heads[top] == head:
                    begin = self._numbered(move, 0)
                    right = good[begin + gold.labels[top]]
                    good[begin : begin + len(self.labels)] = False
                    good[begin + gold.labels[top]] = right
        bad = np.array(allowed)[self.moves] & ~good
        best = [int(np.argmax(np.where(some, scores, -np.inf))) if some.any() else -1 for some in (good, bad)]
        return best[0], best[1]

    def _gold(self, sentence: Sentence) -> Gold:
        children: list[list[int]] = [[] for _ in range(len(sentence.words) + 1)]
        for word, head in enumerate(sentence.heads):
            children[head].append(word)
        return Gold(sentence.heads, [self.labels[label] for label in sentence.labels], children)

    def _numbered(self, move: int, label: int) -> int:
        return 0 if move == SHIFT else 1 + (move - LEFT) * len(self.labels) + label

    def _named(self, transition: int) -> tuple[int, int]:
        return int(self.moves[transition]), (transition - 1) % len(self.labels)


Run = Callable[[Callable[[Sentence], Any], Sequence[Sentence]], list[Any]]


def one_by_one(function: Callable[[Sentence], Any], sentences: Sequence[Sentence]) -> list[Any]:
    """What `lf.map` is compared with."""
    return [function(sentence) for sentence in sentences]


def train(model: Parser, optimizer: optim.Optimizer, batches: Iterable[list[Sentence]], run: Run = lf.map) -> float:
    """One update for every minibatch; returns the mean loss of a word."""
    model.train()
    total = words = 0.0
    for batch in batches:
        losses = [loss for found in run(model.loss, batch) for loss in found]
        words += sum(len(sentence.words) for sentence in batch)
        if losses:
            loss = (lf.sum(losses) + float(len(losses))) / len(batch)
            loss.backward()
            total += loss.item() * len(batch)
            optimizer.step()
            optimizer.zero_grad()
    return total / words


class Scores(NamedTuple):
    """Shares of words, punctuation among them, that have got their head, and their head and label."""

    unlabelled: float
    labelled: float


@lf.no_grad()
def evaluate(model: Parser, batches: Iterable[list[Sentence]], run: Run = lf.map) -> Scores:
    """The attachment scores."""
    model.eval()
    words = heads = both = 0
    for batch in batches:
        for sentence, state in zip(batch, run(model.parse, batch), strict=True):
            right = [a == b for a, b in zip(state.heads, sentence.heads, strict=True)]
            labels = [model.labels.words[k] == label for k, label in zip(state.labels, sentence.labels, strict=True)]
            words += len(right)
            heads += sum(right)
            both += sum(a and b for a, b in zip(right, labels, strict=True))
    return Scores(heads / words, both / words)


# Sentences


def treebank(path: Path) -> list[Sentence]:
    """The sentences of a CoNLL-U file."""
    found = []
    for sentence in data.read_conllu(path):
        tokens, root = sentence.tokens, len(sentence.tokens)
        heads = tuple(root if not t.head else t.head - 1 for t in tokens)
        labels = tuple(t.deprel.partition(":")[0] for t in tokens)
        found.append(Sentence(tuple(t.form for t in tokens), tuple(t.upos for t in tokens), heads, labels))
    return found


LEXICON = {
    "DET": ["the", "a", "this", "every", "some", "no"],
    "ADJ": ["old", "green", "quiet", "large", "strange", "happy", "round", "late"],
    "NOUN": [
        "dog",
        "house",
        "letter",
        "river",
        "garden",
        "engine",
        "sister",
        "road",
        "lamp",
        "window",
        "poem",
    ],
    "VERB": ["sees", "likes", "finds", "follows", "paints", "remembers", "sells"],
    "OF": ["of", "from"],  # belongs to the noun before it
    "WITH": ["with", "near", "without"],  # belongs to the verb
    "ADV": ["often", "never", "slowly", "today"],
}
TAGS = {"OF": "ADP", "WITH": "ADP"}


class Grammar:
    """Sentences of a small language, in which words say what they belong to."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def sentence(self) -> Sentence:
        """A sentence: a verb with a subject, maybe an object, adverbs and phrases."""
        self.rows: list[list[Any]] = []  # word, tag, head as a row, label
        before = [("nsubj", self.noun(2)), *self._some([0.3], lambda: ("advmod", self._word("ADV")))]
        after = self._some([0.7], lambda: ("obj", self.noun(2)))
        after += self._some([0.5, 0.25], lambda: ("obl", self.noun(1, "WITH")))
        rows = self._joined(before, self._word("VERB"), after)
        place = {id(row): k for k, row in enumerate(rows)}
        heads = tuple(place.get(id(row[2]), len(rows)) for row in rows)
        words, tags, _, labels = zip(*rows, strict=True)
        return Sentence(words, tags, heads, labels)

    def noun(self, depth: int, case: str = "") -> list[list[Any]]:
        """A noun with what belongs to it."""
        before = [("case", self._word(case))] if case else []
        before += self._some([0.7], lambda: ("det", self._word("DET")))
        before += self._some([0.5, 0.25], lambda: ("amod", self._word("ADJ")))
        after = self._some([0.3] if depth else [], lambda: ("nmod", self.noun(depth - 1, "OF")))
        return self._joined(before, self._word("NOUN"), after)

    def _some(self, chances: Sequence[float], make: Callable[[], Any]) -> list[Any]:
        return [make() for chance in chances if self.chance.random() < chance]

    def _word(self, kind: str) -> list[list[Any]]:
        return [[self.chance.choice(LEXICON[kind]), TAGS.get(kind, kind), None, "root"]]

    def _joined(self, before: list[Any], middle: list[list[Any]], after: list[Any]) -> list[list[Any]]:
        (head,) = middle
        for label, rows in (*before, *after):
            top = next(row for row in rows if row[2] is None)
            top[2:] = head, label
        return [row for part in (*(r for _, r in before), middle, *(r for _, r in after)) for row in part]


def generated(count: int, seed: int) -> list[Sentence]:
    """Sentences of the small language."""
    grammar = Grammar(seed)
    return [grammar.sentence() for _ in range(count)]


def compare(model: Parser, optimizer: optim.Optimizer, batch: list[Sentence]) -> None:
    """What `lf.map` has gained, on the given minibatch."""
    with lf.rounds() as seen:
        evaluate(model, [batch])
    rows = [o for o in seen.operations if o.operation.startswith("affine")]
    print(
        f"\n{len(batch)} sentences a minibatch: {len(seen.seen)} rounds, and "
        f"{sum(o.rows for o in rows) / sum(o.launches for o in rows):.1f} rows a product of the scorer"
    )
    tasks: dict[str, Callable[[Run], Any]] = {
        "training": lambda run: train(model, optimizer, [batch], run),
        "parsing": lambda run: evaluate(model, [batch], run),
    }
    for name, task in tasks.items():
        speeds = []
        for run in (lf.map, one_by_one):
            begin = time.process_time()
            task(run)
            speeds.append(len(batch) / (time.process_time() - begin))
        print(f"{name:>8}: {speeds[0]:6.0f} sentences/s with lf.map, {speeds[1]:6.0f} one by one")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FILE", help="a CoNLL-U file to train on")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="a CoNLL-U file to judge on, with --train")
    parser.add_argument("--epochs", type=int, help="passes over the sentences (10; 5 of generated ones)")
    parser.add_argument("--batch", type=int, default=32, help="sentences a minibatch")
    parser.add_argument("--embedding", type=int, default=100, help="size of a word's vector; a tag's is a quarter")
    parser.add_argument("--lstm", type=int, default=125, help="size of the BiLSTM in each direction")
    parser.add_argument("--hidden", type=int, default=100, help="size of the scorer's hidden layer")
    parser.add_argument("--lr", type=float, default=0.002, help="learning rate of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="fewer sentences, a small model: only to see that it works"
    )
    options = parser.parse_args(arguments)
    if (options.train is None) != (options.dev is None):
        parser.error("--train and --dev go together")
    if options.quick:
        options.embedding, options.lstm, options.hidden, options.lr = 16, 16, 32, 0.01
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Read or make sentences, train, and compare."""
    options = parsed(arguments)
    lf.seed(options.seed)
    if options.train:
        corpus, dev = treebank(options.train), treebank(options.dev)
    else:
        made = generated(480 if options.quick else 2400, options.seed)
        corpus, dev = made[len(made) // 6 :], made[: len(made) // 6]
    print(f"{len(corpus)} sentences to train and {len(dev)} held out, such as\n  {' '.join(dev[0].words)}")
    model = Parser(corpus, options.embedding, options.embedding // 4, options.lstm, options.hidden)
    optimizer = optim.Adam(model.parameters(), lr=options.lr)
    batches = data.batches(corpus, options.batch, shuffle=True, seed=options.seed)
    for epoch in range(1, 1 + (options.epochs or (10 if options.train else 5))):
        loss = train(model, optimizer, tqdm(batches, desc=f"epoch {epoch}", unit="batch", leave=False))
        scores = evaluate(model, data.batches(dev, 4 * options.batch))
        print(f"epoch {epoch:2}: loss {loss:6.3f} a word, UAS {scores.unlabelled:6.2%}, LAS {scores.labelled:6.2%}")
    compare(model, optimizer, dev[: options.batch])


if __name__ == "__main__":
    main()
