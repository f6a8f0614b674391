"""A machine with a stack that reads ListOps and decides when to reduce, written for one expression, run in batches.

    python examples/stack_machine.py                                     it generates them, new ones an epoch
    python examples/stack_machine.py --train FILE.tsv --dev FILE.tsv     the published ones, also .gz

The machine sees tokens from left to right, without their parentheses. At each step it shifts the next token onto its
stack, or reduces the two on top to one by a Tree-LSTM (as the SPINN of Bowman et al. 2016 does, and the composition of
Tai, Socher and Manning 2015). Which of the two, it decides by its own scores, of the two on top and the next token,
also while it is trained: there it follows what it has got wrong in one case of ten, and is shown what is best from
there. `lf.map` runs all expressions of a minibatch between two decisions at once.

Prints the accuracy on held-out expressions, and how many of its decisions are right, after every epoch, and in the end
what batching has gained.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The products of small models are too small to share among threads. NumPy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from tqdm import tqdm

import lazyflow as lf
from lazyflow import data, nn, optim

OPEN, VALUE, END = "open", "value", "end"  # what an entry of the stack is to the one who knows the answer
TOKENS = ("[MAX", "[MIN", "[MED", "[SM", "]", *"0123456789")


class Expression(NamedTuple):
    """The tokens of an expression, such as ``[MAX``, ``2``, ``]``, and its value."""

    tokens: tuple[str, ...]
    value: int


class Entry(NamedTuple):
    """What lies on the stack: hidden state and memory, and what it is."""

    h: lf.Expr
    c: lf.Expr
    kind: str


class Answer(NamedTuple):
    """A value, how many decisions were right, and how many there were."""

    value: int
    right: int
    decisions: int


class Machine(nn.Module):
    """Shifts and reduces until one entry is left, and answers by that."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.tokens = data.Vocabulary([*TOKENS, "<end>"])
        self.embedding = nn.Embedding(len(self.tokens), embedding)
        self.cell = nn.BinaryTreeLSTMCell(embedding, hidden)
        self.look = nn.Linear(2 * hidden + embedding, hidden)
        self.reduces = nn.Linear(hidden, 1)
        self.output = nn.Linear(hidden, 10)

    def run(self, expression: Expression, follow: Callable[[bool, bool], bool]) -> tuple[lf.Expr, list[Any]]:
        """The scores of ONE expression's values, and of every decision that was open its score and the best choice.

        ``follow(chosen, best)`` says what is done.
        """
        stack: list[Entry] = []
        words = [self.embedding(self.tokens[token]) for token in (*expression.tokens, "<end>")]
        position, decisions = 0, list[Any]()
        while position < len(expression.tokens) or len(stack) > 1:
            reduce = position == len(expression.tokens)
            if not reduce and len(stack) > 1:  # there is a choice
                seen = [stack[-2].h, stack[-1].h, words[position]]
                score = self.reduces(lf.tanh(self.look(lf.concatenate(seen))))[0]
                best = best_is_to_reduce(stack)
                decisions.append((score, best))
                reduce = follow(bool(score > 0), best)
            if reduce:
                right, left = stack.pop(), stack.pop()
                stack.append(Entry(*self.cell(left[:2], right[:2]), reduced(left, right)))
            else:
                stack.append(Entry(*self.cell.leaf(words[position]), kind_of(expression.tokens[position])))
                position += 1
        return self.output(stack[0].h), decisions

    def answer(self, expression: Expression) -> Answer:
        """The value of ONE expression, by the machine's own decisions alone."""
        taken: list[bool] = []

        def follow(chosen: bool, best: bool) -> bool:
            taken.append(chosen == best)
            return chosen

        scores, _ = self.run(expression, follow)
        return Answer(int(scores.argmax()), sum(taken), len(taken))

    def loss(self, expression: Expression) -> lf.Expr:
        """The loss of the value and of all decisions of ONE expression."""
        chance = lf.random.generator()
        scores, decisions = self.run(expression, lambda chosen, best: chosen if chance.random() < 0.1 else best)
        losses = [lf.bce_with_logits(score, float(best)) for score, best in decisions]
        return lf.cross_entropy(scores, expression.value) + (lf.mean(losses) if losses else 0.0)


def kind_of(token: str) -> str:
    """What a token is on the stack."""
    return OPEN if token.startswith("[") else END if token == "]" else VALUE


def reduced(left: Entry, right: Entry) -> str:
    """What two entries make."""
    return VALUE if (left.kind, right.kind) == (OPEN, END) else OPEN


def best_is_to_reduce(stack: Sequence[Entry]) -> bool:
    """Whether the two on top belong together: an operator, with the arguments it has by now, and what is complete."""
    return stack[-2].kind == OPEN and stack[-1].kind != OPEN


Run = Callable[[Callable[[Expression], Any], Sequence[Expression]], list[Any]]


def one_by_one(function: Callable[[Expression], Any], expressions: Sequence[Expression]) -> list[Any]:
    """What `lf.map` is compared with."""
    return [function(expression) for expression in expressions]


def train(model: Machine, optimizer: optim.Optimizer, batches: Iterable[list[Expression]], run: Run = lf.map) -> float:
    """One update for every minibatch; returns the mean loss."""
    values = []
    for batch in batches:
        loss = lf.mean(run(model.loss, batch))
        loss.backward()
        values.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return sum(values) / len(values)


class Scores(NamedTuple):
    """The shares of right values and of right decisions."""

    values: float
    decisions: float


@lf.no_grad()
def evaluate(model: Machine, batches: Iterable[list[Expression]], run: Run = lf.map) -> Scores:
    """How much is right."""
    pairs = [pair for batch in batches for pair in zip(batch, run(model.answer, batch), strict=True)]
    values = sum(answer.value == expression.value for expression, answer in pairs)
    decisions = max(sum(answer.decisions for _, answer in pairs), 1)
    return Scores(values / len(pairs), sum(answer.right for _, answer in pairs) / decisions)


def generated(count: int, seed: int) -> list[Expression]:
    """Nested MAX, MIN, MED and SM of digits (Nangia and Bowman 2018)."""
    return [without_parentheses(e) for e in data.listops(count, seed=seed, max_depth=3, max_args=4, max_length=20)]


def fresh(count: int, held_out: Sequence[Expression], seed: int) -> list[Expression]:
    """Generated expressions without those that are held out: new ones for every seed, since there are rules to be found
    and a model that sees the same ones again learns these by heart."""
    known = {expression.tokens for expression in held_out}
    return [expression for expression in generated(count, seed) if expression.tokens not in known]


def published(path: Path) -> list[Expression]:
    """The expressions of a file of ListOps."""
    return [without_parentheses(e) for e in data.read_listops(path)]


def without_parentheses(expression: Any) -> Expression:
    """The tokens alone."""
    return Expression(tuple(t for t in str(expression).split() if t not in "()"), expression.answer)


def compare(model: Machine, optimizer: optim.Optimizer, batch: list[Expression]) -> None:
    """What `lf.map` has gained, on the given minibatch."""
    tasks: dict[str, Callable[[Run], Any]] = {
        "training": lambda run: train(model, optimizer, [batch], run),
        "answering": lambda run: evaluate(model, [batch], run),
    }
    print(f"\n{len(batch)} expressions a minibatch")
    for name, task in tasks.items():
        speeds = []
        for run in (lf.map, one_by_one):
            begin = time.process_time()
            task(run)
            speeds.append(len(batch) / (time.process_time() - begin))
        print(f"{name:>9}: {speeds[0]:6.0f} expressions/s with lf.map, {speeds[1]:6.0f} one by one")


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FILE", help="a file of ListOps to train on")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="a file of ListOps to judge on, with --train")
    parser.add_argument("--most", type=int, help="expressions an epoch (16000, with --quick 400; all of a file)")
    parser.add_argument("--epochs", type=int, help="how often (12, with --quick 3)")
    parser.add_argument("--batch", type=int, default=64, help="expressions a minibatch")
    parser.add_argument("--embedding", type=int, default=50, help="size of a token's vector")
    parser.add_argument("--hidden", type=int, default=128, help="size of an entry's state")
    parser.add_argument("--lr", type=float, default=0.003, help="learning rate of Adam at first; it falls to 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fewer expressions, a small model: to see that it works")
    options = parser.parse_args(arguments)
    if (options.train is None) != (options.dev is None):
        parser.error("--train and --dev go together")
    if options.quick:
        options.embedding, options.hidden, options.lr = 16, 24, 0.01
    options.epochs = options.epochs or (3 if options.quick else 12)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Read or make expressions, train, and compare."""
    options = parsed(arguments)
    lf.seed(options.seed)
    most = options.most or (400 if options.quick else 16_000)
    read = published(options.train)[: options.most] if options.train else None
    dev = published(options.dev)[: options.most] if options.dev else generated(most // 10, options.seed)
    count = most if read is None else len(read)
    print(f"{count} expressions an epoch, and {len(dev)} held out, such as\n  {' '.join(dev[0].tokens)}")
    model = Machine(options.embedding, options.hidden)
    optimizer = optim.Adam(model.parameters(), lr=options.lr)
    schedule = optim.CosineAnnealingLR(optimizer, options.epochs)
    for epoch in range(1, options.epochs + 1):
        corpus = fresh(most, dev, options.seed + epoch) if read is None else read
        batches = data.batches(corpus, options.batch, shuffle=True, seed=options.seed + epoch)
        loss = train(model, optimizer, tqdm(batches, desc=f"epoch {epoch}", unit="batch", leave=False))
        schedule.step()
        scores = evaluate(model, data.batches(dev, 256))
        print(
            f"epoch {epoch:2}: loss {loss:6.3f}, accuracy on held-out expressions {scores.values:6.1%}, "
            f"decisions {scores.decisions:6.1%}"
        )
    compare(model, optimizer, dev[: options.batch])


if __name__ == "__main__":
    main()
