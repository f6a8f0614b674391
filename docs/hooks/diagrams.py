"""The diagrams of the architecture page, drawn from real objects: ``python -m docs.hooks.diagrams`` draws them anew.

The example is the one of that page, so what a picture shows is what its code blocks print. `tests/test_diagrams.py`
compares the files with what is drawn now, in a process of its own: in which order signatures are numbered depends on
what was recorded before. No library draws them: the same objects are the same text everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import lazyflow as lf

ASSETS = Path(__file__).parents[1] / "assets"

# Readable beside each other for most who do not see all colours (Okabe and Ito 2008), on light and on dark ground.
COLOURS = {
    "lookup": "#3d8fd1", "affine": "#e0752d", "view": "#8a8f98", "tanh": "#2fa37c", "multiply": "#c9689c",
    "add": "#d9a514", "sum": "#6a7fd8", "mean_list": "#9a6bc4",
}  # fmt: skip
STYLE = """
svg { --ground: #ffffff; --ink: #1f2328; --soft: #656d76; --hair: #d0d7de; font-family: ui-sans-serif, system-ui, \
-apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --ground: #161b22; --ink: #e6edf3; --soft: #9198a1; --hair: #3d444d; } }
.ground { fill: var(--ground); stroke: var(--hair); }
text { fill: var(--ink); font-size: 13px; }
.soft { fill: var(--soft); font-size: 12px; }
.on { fill: #0b0d10; font-size: 11px; }
.head { font-weight: 600; font-size: 14px; }
.mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 12px; }
.hair { stroke: var(--hair); fill: none; }
.wire { stroke: var(--soft); fill: none; }
.tip { fill: var(--soft); }
"""


SENTENCES = ([1, 2, 1], [3, 0])


class Example(NamedTuple):
    """The example of the page: its loss, and what is made of it."""

    loss: lf.Expr
    parameters: tuple[lf.Parameter, ...]
    graph: Any
    plan: Any


def example() -> Example:
    """Record the example, and plan it."""
    from lazyflow.graph.graph import collect
    from lazyflow.plan.plan import dag_of, make
    from lazyflow.plan.schedule import schedule

    E = lf.Parameter(np.eye(4, 3, dtype=np.float32), name="E")
    W = lf.Parameter(np.full((6, 3), 0.1, np.float32), name="W")
    b = lf.Parameter(np.zeros(6, np.float32), name="b")

    def state(words: Sequence[int]) -> lf.Expr:
        h = lf.embedding(E, words[0])
        for word in words[1:]:
            update, gate = lf.split(lf.affine(W, b, h), 2)
            h = lf.tanh(update) * gate + lf.embedding(E, word)
        return h

    loss = lf.mean([lf.sum(state(words)) for words in SENTENCES])
    graph = collect([loss])
    return Example(loss, (E, W, b), graph, make(graph, schedule(dag_of(graph))))


class Picture:
    """Marks on a ground of one size, as the text of an SVG."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title, self.marks = width, height, title, list[str]()

    def add(self, tag: str, inside: str = "", **attributes: object) -> None:
        """One element; ``_`` in the names of its attributes stands for ``-``, and a name may end in one."""
        said = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
        self.marks.append(f"<{tag}{said}>{escape(inside)}</{tag}>" if inside else f"<{tag}{said}/>")

    def text(self, x: float, y: float, said: str, class_: str = "", **attributes: object) -> None:
        """A line of text, which begins at ``x`` unless ``text_anchor`` says otherwise."""
        self.add("text", said, x=x, y=y, **({"class_": class_} if class_ else {}), **attributes)

    def cell(self, x: float, y: float, width: float, height: float, colour: str, **attributes: object) -> None:
        """A filled rectangle."""
        self.add("rect", x=x, y=y, width=width, height=height, rx=2, fill=colour, **attributes)

    def arrow(self, *points: tuple[float, float], bend: float = 0, short: float = 0) -> None:
        """A line through points with a tip at its end, ``short`` of the last; between two it may ``bend`` to the right
        by so much."""
        (x1, y1), (x2, y2) = points[-2:]
        x1, y1 = (x1 + bend, (y1 + y2) / 2) if bend else (x1, y1)
        length = float(np.hypot(x2 - x1, y2 - y1))
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        end = (x2 - short * dx, y2 - short * dy)
        through = [*points[:-1], *([(x1, y1)] if bend else []), end]
        (first, *rest) = [f"{round(x, 1):g} {round(y, 1):g}" for x, y in through]
        self.add("path", class_="wire", d=f"M {first} {'Q' if bend else 'L'} {' '.join(rest)}")
        back = [(end[0] - 7 * dx + 4 * s * dy, end[1] - 7 * dy - 4 * s * dx) for s in (1, -1)]
        tip = " ".join(f"{round(x, 1):g},{round(y, 1):g}" for x, y in (end, *back))
        self.add("polygon", class_="tip", points=tip)

    def svg(self) -> str:
        """All of it."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img">'
        ground = f'<rect class="ground" x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="6"/>'
        lines = [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>", ground, *self.marks, "</svg>"]
        return "\n".join(lines) + "\n"


def tape_columns(shown: Example) -> str:
    """A tape: what a row is, and which entries of the flat columns are its own."""
    from lazyflow.record.tape import payload_starts, signature_by_id

    tape = shown.loss.tape
    signatures = [signature_by_id(number) for number in tape.signatures]
    ints, operands = payload_starts(tape)
    left, size = 104, 29
    picture = Picture(left + size * operands[-1] + 24, 370, "The tape of the example, with its columns")
    picture.text(20, 30, f"A tape: {len(tape)} rows in {tape.nbytes} bytes", "head")
    said = (
        "columns are flat: a row begins where the row before it ends; its signature says how many entries it has,",
        "and of the operands of a list, such as that of mean_list, an integer of the row's own: here the last, 2",
    )
    for k, line in enumerate(said):
        picture.text(20, 50 + 18 * k, line, "soft")
    for y, name in ((108, "ints"), (184, "row"), (224, "signature"), (340, "operands")):
        picture.text(left - 12, y, name, "head", text_anchor="end")
    for row, s in enumerate(signatures):
        x, colour = left + size * row, COLOURS[s.op.name]
        for top, bottom, (low, high) in ((116, 170, ints[row : row + 2]), (264, 322, operands[row : row + 2])):
            if low < high:
                there, here = [left + size * low + 1, left + size * high - 1], [x + 1, x + size - 1]
                above, below = (there, here) if bottom < 250 else (here, there)
                points = f"{above[0]},{top} {above[1]},{top} {below[1]},{bottom} {below[0]},{bottom}"
                picture.add("polygon", points=points, fill=colour, fill_opacity=0.25)
        picture.text(x + size / 2, 184, str(row), "soft", text_anchor="middle")
        picture.cell(x + 1, 190, size - 2, 74, colour)
        picture.text(0, 0, s.op.name, "on", transform=f"translate({x + size / 2 + 4} 258) rotate(-90)")
    for y, column, starts in ((92, tape.ints, ints), (322, tape.operands, operands)):
        for row, s in enumerate(signatures):
            for k in range(starts[row], starts[row + 1]):
                picture.cell(left + size * k + 1, y, size - 2, 24, COLOURS[s.op.name])
                picture.text(left + size * k + size / 2, y + 16, str(column[k]), "on", text_anchor="middle")
    return picture.svg()


def _launches(shown: Example) -> Iterator[tuple[int, Any, list[Any]]]:
    """The launches with their number, and what they read of the arena."""
    from lazyflow.plan.plan import Rows

    for number, launch in enumerate(shown.plan.launches):
        yield number, launch, [read for read in launch.reads if isinstance(read, Rows)]


def plan_rows(shown: Example) -> str:
    """A plan: for each launch the rows of the arena that it writes and reads."""
    [total] = shown.plan.layout.sizes.values()
    left, size, top, pitch = 118, 10.5, 92, 38
    launches = list(_launches(shown))
    right = left + size * total + 16
    picture = Picture(int(right) + 190, top + pitch * len(launches) + 44, "The plan of the example, with its rows")
    picture.text(20, 30, f"A plan: {len(launches)} launches over one arena of {total} float32", "head")
    picture.text(
        20,
        50,
        "filled: the rows that a launch writes; outlined: those that it reads, in the colour of who wrote them",
        "soft",
    )
    bottom = top + pitch * len(launches)
    for element in range(0, total + 1, 6):
        x = left + size * element
        picture.add("line", class_="hair", x1=x, y1=top - 12, x2=x, y2=bottom)
        picture.text(x, top - 18, str(element), "soft", text_anchor="middle")
    writers = _writers(shown, total)
    for number, launch, reads in launches:
        y, name = top + pitch * number, launch.signature.op.name
        picture.text(left - 12, y + 21, f"{name} × {launch.writes.count}", text_anchor="end")
        for rows in reads:
            for offset in rows.offsets().tolist():
                box = (left + size * offset + 1.5, y + 6, size * rows.width - 3, 22)
                mark = {"stroke": COLOURS[writers[offset]], "stroke_width": 2.5}
                picture.cell(*box, "none", **mark)
        for offset in launch.writes.offsets().tolist():
            picture.cell(left + size * offset + 1, y + 3, size * launch.writes.width - 2, 28, COLOURS[name])
        picture.text(right, y + 21, ", ".join(map(_how, reads)) or "parameters", "mono")
    picture.text(right, top - 18, "reads", "soft")
    said = "numbers are elements of the arena; on the right those at which row 0, 1, ..., i of each operand begins"
    picture.text(left, bottom + 24, said, "soft")
    return picture.svg()


def _writers(shown: Example, total: int) -> list[str]:
    """The operation that writes each element of the arena."""
    found = [""] * total
    for _, launch, _ in _launches(shown):
        for offset in launch.writes.offsets().tolist():
            found[offset : offset + launch.writes.width] = [launch.signature.op.name] * launch.writes.width
    return found


def _how(rows: Any) -> str:
    """How an operand is read: a view, or a gather."""
    if rows.index is not None:
        return f"gather {rows.offsets().tolist()}"
    return f"{rows.offset}" if rows.count == 1 else f"{rows.offset} + {rows.pitch} i"


def training_step(shown: Example) -> str:
    """A training step: nodes as recorded, the launches that they run in, there and back, and the update."""
    graph, plan = shown.graph, shown.plan
    places = _places(graph, plan)
    picture = Picture(920, TOP + STEP * len(plan.launches) + 10, "A training step of the example")
    rows = f"{len(shown.loss.tape)} rows, of which {len(graph)} are computed"
    columns = ((30, "recorded", rows), (392, "run", f"{len(plan.launches)} launches"))
    for x, head, said in (*columns, (666, "gradients and update", "once for each signature")):
        picture.text(x, 34, head, "head")
        picture.text(x, 52, said, "soft")
    for number, words in enumerate(SENTENCES):
        picture.text(52 + 170 * number, TOP - 22, f"state({words})", "mono")
    for number in range(len(plan.launches)):
        y = TOP + STEP * number
        picture.add("line", class_="hair", x1=30, y1=y, x2=376, y2=y, stroke_dasharray="2 4")
    for node, (x, y) in places.items():
        for edge in range(graph.starts[node], graph.starts[node + 1]):
            x1, y1 = places[int(graph.base[edge])]
            passed = any((x, between) in places.values() for between in range(y1 + STEP, y, STEP))
            picture.arrow((x1, y1), (x, y), bend=28 if x1 == x and passed else 0, short=9)
    for node, (x, y) in places.items():
        name = graph.signatures[graph.signature[node]].op.name
        picture.add("circle", cx=x, cy=y, r=8, fill=COLOURS[name])
    _draw_launches(picture, plan)
    _draw_gradients(picture, shown)
    return picture.svg()


TOP, STEP = 114, 42  # the height of the first launch, and from one to the next


def _places(graph: Any, plan: Any) -> dict[int, tuple[int, int]]:
    """Where the nodes stand: those of one launch at one height, those of one example below each other."""
    groups = _examples(graph)
    found = {}
    for number, launch in enumerate(plan.launches):
        seen = dict.fromkeys(groups.values(), 0)
        for node in launch.nodes.tolist():
            group = groups[node]
            x = 145 if group < 0 else 60 + 170 * group + 44 * seen[group]
            seen[group] += 1
            found[node] = (x, TOP + STEP * number)
    return found


def _examples(graph: Any) -> dict[int, int]:
    """The example that each node belongs to: of the root's operands the one that rests on it; -1 for the root."""
    [(root, _)] = graph.roots
    found = {root: -1}
    for number, start in enumerate(graph.base[graph.starts[root] : graph.starts[root + 1]].tolist()):
        stack = [start]
        while stack:
            node = stack.pop()
            found[node] = number
            stack += graph.base[graph.starts[node] : graph.starts[node + 1]].tolist()
    return found


def _draw_launches(picture: Picture, plan: Any) -> None:
    """A box for each launch, with an arrow down for forward, and one up for backward."""
    for number, launch in enumerate(plan.launches):
        y, name = TOP + STEP * number, launch.signature.op.name
        picture.cell(430, y - 14, 150, 28, COLOURS[name])
        picture.text(505, y + 4, f"{name} × {len(launch.nodes)}", "on", text_anchor="middle")
    low, high = TOP - 14, TOP + 14 + STEP * (len(plan.launches) - 1)
    picture.arrow((418, low), (418, high))
    picture.arrow((592, high), (592, low))
    middle = (low + high) // 2
    for x, angle, said in (
        (408, -90, "forward: values"),
        (602, 90, "backward: cotangents, the same launches in reverse"),
    ):
        turned = f"translate({x} {middle}) rotate({angle})"
        picture.text(0, 0, said, "soft", transform=turned, text_anchor="middle")


def _draw_gradients(picture: Picture, shown: Example) -> None:
    """A box for each launch that computes gradients of parameters, and what the optimizer changes."""
    from lazyflow.run.launch import parameter_of

    y, middle, ends = TOP, 766, []
    for launch in shown.plan.parameter_launches:
        s = launch.signature
        owned = [parameter_of(o.type) for o in s.operands if o.kind == "shared"]
        picture.cell(middle - 85, y - 14, 170, 28, COLOURS[s.op.name])
        picture.text(middle, y + 4, f"{s.op.name} × {len(launch.nodes)} at once", "on", text_anchor="middle")
        picture.arrow((592, TOP - 14), (592, TOP - 30), (632, TOP - 30), (632, y), (middle - 88, y))
        picture.arrow((middle, y + 16), (middle, y + 42))
        for k, parameter in enumerate(owned):
            rows = "a RowSparse of " if s.op.name == "lookup" else ""
            said = f"{parameter.name}.grad, {rows}{' × '.join(map(str, parameter.shape))}"
            picture.text(middle, y + 58 + 18 * k, said, "mono", text_anchor="middle")
        ends.append(y + 54 + 9 * (len(owned) - 1))
        y += 104 + 18 * (len(owned) - 1)
    for end in ends:
        picture.arrow((middle + 96, end), (middle + 116, end), (middle + 116, y + 17), (middle + 87, y + 17))
    picture.add("rect", class_="hair", x=middle - 85, y=y, width=170, height=34, rx=4)
    picture.text(middle, y + 21, "optimizer.step()", "mono", text_anchor="middle")
    names = ", ".join(str(p.name) for p in shown.parameters)
    picture.text(middle, y + 56, f"{names} get new versions:", "soft", text_anchor="middle")
    picture.text(middle, y + 74, "runs that rest on them are stale", "soft", text_anchor="middle")


DIAGRAMS = {"training_step": training_step, "tape_columns": tape_columns, "plan_rows": plan_rows}


def drawn() -> dict[str, str]:
    """The diagrams by name, as text."""
    shown = example()
    return {name: draw(shown) for name, draw in DIAGRAMS.items()}


if __name__ == "__main__":
    for name, text in drawn().items():
        (ASSETS / f"{name}.svg").write_text(text, encoding="utf-8")
        print(f"drawn to {ASSETS / name}.svg")
