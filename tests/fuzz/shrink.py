"""Making a program that fails small: what can go without the failure going goes.

Delta debugging (Zeller and Hildebrandt 2002) on lines: ever smaller runs of lines are left out, with all that reads
what they define; then blocks are opened, values are replaced by what they were made of, and numbers get smaller.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

from tests.fuzz.program import Line, Program, count, names

Fails = Callable[[Program], bool]
_VALUE = re.compile(r"\b[a-z]\d+\b")


def shrunk(program: Program, fails: Fails, trials: int = 600) -> Program:
    """The smallest program found that still fails, after at most ``trials`` runs."""
    left = [trials]

    def still(candidate: Program) -> bool:
        left[0] -= 1
        return left[0] >= 0 and fails(candidate)

    before = None
    while before != program and left[0] > 0:
        before = program
        program = _without_runs(program, still)
        for candidates in (_opened, _replaced, _smaller):
            program = _first_found(program, candidates, still)
    return program


def _first_found(program: Program, candidates: Callable[[Program], Iterator[Program]], still: Fails) -> Program:
    """Take what ``candidates`` offer, one after the other, as long as it still fails."""
    tried = 0
    while True:
        for candidate in itertools.islice(candidates(program), tried, None):
            if candidate != program and still(candidate):
                program = candidate
                break
            tried += 1
        else:
            return program


def _without_runs(program: Program, still: Fails) -> Program:
    """Without runs of lines, long ones first, and without what reads what they define."""
    size = max(count(program) // 2, 1)
    while size:
        end = count(program)
        while end > 0:
            candidate = cleaned(_without(program, set(range(end - size, end))))
            if candidate != program and still(candidate):
                program = candidate
                end = min(end, count(program))
            else:
                end -= size
        size //= 2
    return program


def _without(program: Program, numbers: set[int]) -> Program:
    """Without the lines of these numbers, counted through all depths."""
    counter = iter(range(10**9))

    def kept(lines: Program) -> Program:
        found = []
        for line in lines:
            number = next(counter)
            body = kept(line.body)
            if number not in numbers:
                found.append(Line(line.text, body))
        return tuple(found)

    return kept(program)


_BUILTINS = frozenset(
    ("lf", "np", "data", "integers", "special", "rows", "show", "grads", "watch", "attempt", "range", "float", "f")
)


def cleaned(program: Program) -> Program:
    """Without lines that read what nothing defines, empty blocks, and decorators and branches of nothing."""
    return _cleaned(program, set(_BUILTINS))[0]


def _cleaned(lines: Program, known: set[str]) -> tuple[Program, set[str]]:
    found: list[Line] = []
    for line in lines:
        if line.text == "else:":
            if not (found and found[-1].text.startswith("if ")):
                continue
            defined, read = frozenset(), frozenset()
        else:
            defined, read = names(line.text)
        if not read <= known | (set(re.findall(r"\w+", line.text)) if line.text.startswith("def ") else set()):
            continue
        if line.body:
            arguments = set(re.findall(r"\w+", line.text)) if line.text.startswith("def ") else set(defined)
            body, inner = _cleaned(line.body, known | arguments)
            if not body or (line.text.startswith("def ") and not any("return" in b.text for b in body)):
                continue
            if not line.text.startswith("def "):
                known |= inner
            line = Line(line.text, body)
        known |= defined
        found.append(line)
    kept = [
        line
        for k, line in enumerate(found)
        if line.text != "@lf.cell" or (k + 1 < len(found) and found[k + 1].text.startswith("def "))
    ]
    return tuple(kept), known


def _opened(program: Program) -> Iterator[Program]:
    """With the lines of a block in place of the block."""
    for k, line in enumerate(program):
        head, rest = program[:k], program[k + 1 :]
        if line.body:
            if line.text.startswith("def ") and "return" in line.body[-1].text:
                arguments = re.findall(r"\w+", line.text)[2:]
                if arguments == ["i"]:
                    call = re.match(r"def (\w+)", line.text)
                    assert call
                    opened = (
                        Line("i = 0"),
                        *line.body[:-1],
                        Line(f"z0 = {line.body[-1].text.removeprefix('return ')}"),
                    )
                    used = tuple(_renamed(r, f"[{call[1]}(i) for i in range(", "[z0 for _ in range(") for r in rest)
                    yield (*head, *opened, *used)
            elif line.text != "else:":
                tail = rest[1:] if rest and rest[0].text == "else:" else rest
                first = (Line("t = 0"),) if line.text.startswith("for t ") else ()
                yield (*head, *first, *line.body, *tail)
            for body in _opened(line.body):
                yield (*head, Line(line.text, body), *rest)
        if line.text == "@lf.cell":
            yield (*head, *rest)


def _renamed(line: Line, old: str, new: str) -> Line:
    return Line(line.text.replace(old, new), tuple(_renamed(b, old, new) for b in line.body))


def _replaced(program: Program) -> Iterator[Program]:
    """With a value replaced, where it is read later on, by one that it was made of."""
    for k, line in enumerate(program):
        if line.body:
            for body in _replaced(line.body):
                yield (*program[:k], Line(line.text, body), *program[k + 1 :])
            continue
        made = re.match(r"([a-z]\d+) = (.*)", line.text)
        for other in dict.fromkeys(_VALUE.findall(made[2])) if made else ():
            later = tuple(_sub(later, rf"\b{made[1]}\b", other) for later in program[k + 1 :])
            yield (*program[:k], *later)


def _sub(line: Line, old: str, new: str) -> Line:
    return Line(re.sub(old, new, line.text), tuple(_sub(b, old, new) for b in line.body))


def _smaller(program: Program) -> Iterator[Program]:
    """With smaller numbers in ranges, and simpler expressions."""
    for k, line in enumerate(program):
        for text in _simpler(line.text):
            yield (*program[:k], Line(text, line.body), *program[k + 1 :])
        for body in _smaller(line.body):
            yield (*program[:k], Line(line.text, body), *program[k + 1 :])


def _simpler(text: str) -> Iterator[str]:
    for found in re.finditer(r"(?:range|rows)\((\d+)", text):
        n = int(found[1])
        for less in sorted({1, n // 2, n * 3 // 4, n - 1}):
            if 0 < less < n:
                yield text[: found.start(1)] + str(less) + text[found.end(1) :]
    yield re.sub(r"range\(1 \+ .*\):", "range(1):", text)
    yield re.sub(r" \+ 1000 \* i\b", "", text)
    yield re.sub(r"\(i \* \d+ \+ \d+\) % \d+", "0", text)
    for old, new in (
        (r" \+ lf\.(sum|tanh)\(.*", ""),
        (r"lf\.(tanh|abs)\((\w+)\)", r"\2"),
        (r", low=-?[\d.]+, high=[\d.]+", ""),
    ):
        yield re.sub(old, new, text)
    call = re.match(r"(show|grads)\((.*, .*)\)", text)
    for part in call[2].split(", ") if call else ():
        yield f"{call[1]}({part})"
