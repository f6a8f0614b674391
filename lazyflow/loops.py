"""Loops over the arrays of a graph, for numba to compile (see `lazyflow.jit.compiled`).

Collecting, merging repeats, scheduling by levels and laying out are each one or two passes over nodes and edges. NumPy
needs dozens of passes for the same, which is what counts for a minibatch of one example; without numba it is what runs.
Plain functions of arrays and numbers: without the compiler they compute the same, slowly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[Any]]

PLAIN, VIEW, IMPORT, OUTPUT = range(4)  # kinds of signatures
MASK = 2**31 - 1  # bits of a hash: its products fit in 64


def reach(
    rows: Ints, ids: Ints, kinds: Ints, starts: Ints, operands: Ints, marks: Ints, gap: int
) -> tuple[Ints, Ints, Ints]:
    """The ranges of rows that each of ``rows`` rests on, itself and the further results of calls included: where they
    begin and end, and how many each row has. ``marks``: a flag for each row, all false before and after; ``gap``: so
    many rows in between are part of a range."""
    lows, highs = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
    counts = np.empty(len(rows), np.int64)
    ranges = 0
    found = np.empty(256, np.int64)
    for number in range(len(rows)):
        row, before = rows[number], ranges
        found[0] = row
        marks[row] = True
        count, done, low = 1, 0, row
        while done < count:
            i = found[done]
            done += 1
            for e in range(starts[i], starts[i + 1]):
                operand = operands[e]
                if not marks[operand]:
                    marks[operand] = True
                    if count == len(found):
                        larger = np.empty(2 * count, np.int64)
                        larger[:count] = found
                        found = larger
                    found[count] = operand
                    low = min(low, operand)
                    count += 1
        first, last = low, low
        for i in range(low, row + 1):
            if marks[i]:
                if i - last > gap:
                    if ranges + 1 >= len(lows):
                        lows, highs = np.append(lows, lows), np.append(highs, highs)
                    lows[ranges], highs[ranges] = first, last + 1
                    ranges += 1
                    first = i
                last = i
        if ranges + 1 >= len(lows):
            lows, highs = np.append(lows, lows), np.append(highs, highs)
        lows[ranges], highs[ranges] = first, last + 1
        ranges += 1
        counts[number] = ranges - before
        for k in range(count):
            marks[found[k]] = False
    for k in range(ranges):  # the further results of a call stand behind it
        while highs[k] < len(ids) and kinds[ids[highs[k]]] == OUTPUT:
            highs[k] += 1
    return lows[:ranges], highs[:ranges], counts


def cut(
    ids: Ints,
    operands: Ints,
    ints: Ints,
    floats: Ints,
    starts: Ints,
    int_starts: Ints,
    float_starts: Ints,
    lows: Ints,
    highs: Ints,
    outside: int,
) -> tuple[Ints, Ints, Ints, Ints]:
    """The ranges of a tape from ``lows`` to ``highs`` as a tape of their own: its four columns. ``outside``: what an
    operand in none of them becomes."""
    n, edges, numbers, reals = 0, 0, 0, 0
    for k in range(len(lows)):
        n += highs[k] - lows[k]
        edges += starts[highs[k]] - starts[lows[k]]
        numbers += int_starts[highs[k]] - int_starts[lows[k]]
        reals += float_starts[highs[k]] - float_starts[lows[k]]
    new_ids, new_operands = np.empty(n, np.int32), np.empty(edges, np.int64)
    new_ints, new_floats = np.empty(numbers, np.int32), np.empty(reals, np.float64)
    places = np.empty(len(lows), np.int64)
    a, b, c, d = 0, 0, 0, 0
    for k in range(len(lows)):
        places[k] = a
        low, high = lows[k], highs[k]
        for i in range(low, high):
            new_ids[a] = ids[i]
            a += 1
        for i in range(int_starts[low], int_starts[high]):
            new_ints[c] = ints[i]
            c += 1
        for i in range(float_starts[low], float_starts[high]):
            new_floats[d] = floats[i]
            d += 1
        for e in range(starts[low], starts[high]):
            operand = operands[e]
            part = k
            if operand < low:
                part = np.searchsorted(lows, operand, side="right") - 1
            inside = part >= 0 and operand < highs[part]
            new_operands[b] = places[part] + operand - lows[part] if inside else outside
            b += 1
    return new_ids, new_operands, new_ints, new_floats


def starts_of(ids: Ints, ints: Ints, rows: Ints, int_counts: Ints, float_counts: Ints) -> tuple[Ints, Ints, Ints]:
    """Where the operands, the integers and the floats of each row begin; ``rows`` is -1 where a node itself says how
    many operands it has, as its first integer."""
    n = len(ids)
    starts, int_starts, float_starts = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    a, b, c = 0, 0, 0
    for i in range(n):
        starts[i], int_starts[i], float_starts[i] = a, b, c
        s = ids[i]
        count = rows[s]
        if count < 0:
            count = ints[b] if b < len(ints) else 0
        a += count
        b += int_counts[s]
        c += float_counts[s]
    starts[n], int_starts[n], float_starts[n] = a, b, c
    return starts, int_starts, float_starts


def resolved(
    ids: Ints, kinds: Ints, operands: Ints, ints: Ints, starts: Ints, int_starts: Ints, imports: Ints, targets: Ints
) -> tuple[Ints, Ints]:
    """The row whose memory each row shows, and from which element on. Row ``imports[k]`` is row ``targets[k]``. The row
    behind the last stands for all that were not read."""
    n = len(ids)
    base, shift = np.empty(n + 1, np.int64), np.zeros(n + 1, np.int64)
    for i in range(n + 1):
        base[i] = i
    for k in range(len(imports)):
        base[imports[k]] = targets[k]
    for i in range(n):
        if kinds[ids[i]] == VIEW:
            source = operands[starts[i]]
            base[i] = base[source]
            shift[i] = shift[source] + ints[int_starts[i]]
        elif base[i] != i:
            source = base[i]
            base[i] = base[source]
            shift[i] = shift[source]
    return base, shift


def needed_rows(ids: Ints, kinds: Ints, operands: Ints, starts: Ints, base: Ints, known: Ints, roots: Ints) -> Ints:
    """Which rows the roots reach; nothing is needed for a row that is ``known`` (of length 0 if none is)."""
    n = len(ids)
    needed = np.zeros(n + 1, np.bool_)
    for row in roots:
        needed[base[row]] = True
    for i in range(n - 1, -1, -1):
        if needed[i] and not (len(known) and known[i]):
            for e in range(starts[i], starts[i + 1]):
                needed[base[operands[e]]] = True
    for i in range(n):  # a call computes all of its results
        if kinds[ids[i]] == OUTPUT and not (len(known) and known[i]) and needed[operands[starts[i]]]:
            needed[i] = True
    return needed


def compressed(
    ids: Ints,
    kinds: Ints,
    operands: Ints,
    starts: Ints,
    int_starts: Ints,
    float_starts: Ints,
    base: Ints,
    shift: Ints,
    known: Ints,
    needed: Ints,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The needed rows as a graph: present ids, and of the nodes signature, starts, base, shift, int_starts,
    float_starts, origin and results; at last the node of each row, -1 for others."""
    n, nodes, edges, further = len(ids), 0, 0, 0
    new = np.full(n + 1, -1, np.int64)
    numbers = np.full(len(kinds), -1, np.int32)
    for i in range(n):
        if needed[i]:
            new[i] = nodes
            nodes += 1
            numbers[ids[i]] = 0
            if not (len(known) and known[i]):
                edges += starts[i + 1] - starts[i]
                further += kinds[ids[i]] == OUTPUT
    count = 0
    for s in range(len(kinds)):
        if numbers[s] == 0:
            numbers[s] = count
            count += 1
    present = np.empty(count, np.int64)
    for s in range(len(kinds)):
        if numbers[s] >= 0:
            present[numbers[s]] = s
    signature, new_starts = np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    new_base, new_shift = np.empty(edges, np.int64), np.empty(edges, np.int64)
    new_ints, new_floats = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    origin, results = np.empty(nodes, np.int64), np.empty(further, np.int64)
    edge, k, r = 0, 0, 0
    for i in range(n):
        if needed[i]:
            signature[k], new_starts[k], origin[k] = numbers[ids[i]], edge, i
            new_ints[k], new_floats[k] = int_starts[i], float_starts[i]
            if not (len(known) and known[i]):
                for e in range(starts[i], starts[i + 1]):
                    new_base[edge], new_shift[edge] = new[base[operands[e]]], shift[operands[e]]
                    edge += 1
                if kinds[ids[i]] == OUTPUT:
                    results[r] = k
                    r += 1
            k += 1
    new_starts[nodes] = edge
    return present, signature, new_starts, new_base, new_shift, new_ints, new_floats, origin, results, new


def collected(
    ids: Ints,
    kinds: Ints,
    operands: Ints,
    ints: Ints,
    starts: Ints,
    int_starts: Ints,
    float_starts: Ints,
    imports: Ints,
    targets: Ints,
    known: Ints,
    roots: Ints,
) -> tuple[tuple[Ints, ...], Ints, Ints, Ints]:
    """What `compressed` returns of all that the roots need, and of each row whether it is needed, which row's memory it
    shows, and from which element on."""
    base, shift = resolved(ids, kinds, operands, ints, starts, int_starts, imports, targets)
    needed = needed_rows(ids, kinds, operands, starts, base, known, roots)
    nodes = compressed(ids, kinds, operands, starts, int_starts, float_starts, base, shift, known, needed)
    return nodes, needed, base, shift


def readers(nodes: int, starts: Ints, base: Ints) -> tuple[Ints, Ints]:
    """Who reads each node: those of node ``i`` from ``starts[i]`` to ``starts[i + 1]``, once for every operand."""
    user_starts, users = np.zeros(nodes + 1, np.int64), np.empty(len(base), np.int64)
    for b in base:
        user_starts[b + 1] += 1
    for i in range(nodes):
        user_starts[i + 1] += user_starts[i]
    place = user_starts[:nodes].copy()
    for i in range(nodes):
        for e in range(starts[i], starts[i + 1]):
            users[place[base[e]]] = i
            place[base[e]] += 1
    return user_starts, users


def next_readers(
    nodes: Ints,
    repeated: Ints,
    user_starts: Ints,
    users: Ints,
    left: Ints,
    usable: Ints,
    done: Ints,
    waiting: Ints,
) -> int:
    """Write into ``nodes``, in ascending order, who reads repeated nodes alone now that these are known, too; returns
    how many. ``left``: how many operands of each node are not; ``waiting``: all false before and after."""
    low, high = len(left), -1
    for operand in repeated:
        for e in range(user_starts[operand], user_starts[operand + 1]):
            i = users[e]
            left[i] -= 1
            if left[i] == 0 and usable[i] and not done[i]:
                waiting[i] = True
                low, high = min(low, i), max(high, i)
    count = 0
    for i in range(low, high + 1):
        if waiting[i]:
            waiting[i] = False
            nodes[count] = i
            count += 1
    return count


def first_equals(
    usable: Ints,
    signature: Ints,
    starts: Ints,
    base: Ints,
    shift: Ints,
    int_starts: Ints,
    ints: Ints,
    float_starts: Ints,
    bits: Ints,
    int_counts: Ints,
    float_counts: Ints,
    results: Ints,
    fewest: int,
    worth: int,
) -> tuple[Ints, int]:
    """For each node the first one that equals it, and how many have one before them; see `lazyflow.repeats`. ``bits``:
    the floats as integers; ``int_counts``, ``float_counts``: payload numbers by signature."""
    n = len(signature)
    first = np.empty(n, np.int64)
    repeated, done = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    nodes = np.empty(n, np.int64)
    count, merged = 0, 0
    for i in range(n):
        first[i] = i
        if usable[i] and starts[i + 1] == starts[i]:
            nodes[count] = i
            count += 1
    if count < fewest:
        return first, 0
    user_starts, users = readers(n, starts, base)
    left, waiting, fresh = starts[1:] - starts[:-1], np.zeros(n, np.bool_), np.empty(n, np.int64)
    size = 16
    while size < 4 * count:
        size *= 2
    table = np.full(size, -1, np.int64)
    entries = 0
    while count * worth > len(base):
        if 2 * (entries + count) > size:  # entries of earlier rounds are of other signatures
            while size < 4 * count:
                size *= 2
            table = np.full(size, -1, np.int64)
            entries = 0
        before, found = merged, 0
        for k in range(count):
            i = nodes[k]
            done[i] = True
            s = signature[i]
            key = s
            for j in range(int_starts[i], int_starts[i] + int_counts[s]):
                key = (key * 1000003 + ints[j]) & MASK
            for j in range(float_starts[i], float_starts[i] + float_counts[s]):
                key = (key * 1000003 + ((bits[j] ^ (bits[j] >> 32)) & MASK)) & MASK
            for e in range(starts[i], starts[i + 1]):
                key = (key * 1000003 + first[base[e]] * 31 + shift[e]) & MASK
            slot = (key ^ (key >> 13)) & (size - 1)
            while table[slot] >= 0:
                j = table[slot]
                same = signature[j] == s
                if same:
                    for m in range(int_counts[s]):
                        same = same and ints[int_starts[i] + m] == ints[int_starts[j] + m]
                    for m in range(float_counts[s]):
                        same = same and bits[float_starts[i] + m] == bits[float_starts[j] + m]
                    for m in range(starts[i + 1] - starts[i]):
                        one, other = starts[i] + m, starts[j] + m
                        same = same and first[base[one]] == first[base[other]] and shift[one] == shift[other]
                if same:
                    break
                slot = (slot + 1) & (size - 1)
            if table[slot] < 0:
                table[slot] = i
                entries += 1
            else:
                j = table[slot]
                first[i] = j
                merged += 1
                if not repeated[j]:
                    repeated[j] = True
                    fresh[found] = j
                    found += 1
                repeated[i] = True
                fresh[found] = i
                found += 1
        if merged == before:
            break
        for r in results:  # the further results of equal calls are equal
            call = base[starts[r]]
            if repeated[call] and not repeated[r]:
                first[r] = first[call] + r - call
                repeated[r] = True
                fresh[found] = r
                found += 1
        count = next_readers(nodes, fresh[:found], user_starts, users, left, usable, done, waiting)
    return first, merged


def renumbered(
    first: Ints,
    signature: Ints,
    starts: Ints,
    base: Ints,
    shift: Ints,
    int_starts: Ints,
    float_starts: Ints,
    origin: Ints,
    tape_base: Ints,
    results: Ints,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The nodes that are the first of their equals: the new number of each node, and of those that are left signature,
    starts, base, shift, int_starts, float_starts, origin and results; and where the rows of the tapes point to now."""
    n, nodes, edges = len(first), 0, 0
    new = np.empty(n, np.int64)
    for i in range(n):
        if first[i] == i:
            new[i] = nodes
            nodes += 1
            edges += starts[i + 1] - starts[i]
        else:
            new[i] = new[first[i]]
    new_signature, new_starts = np.empty(nodes, np.int64), np.empty(nodes + 1, np.int64)
    new_ints, new_floats = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    new_origin, new_results = np.empty(nodes, np.int64), np.empty(len(results), np.int64)
    new_base, new_shift = np.empty(edges, np.int64), np.empty(edges, np.int64)
    edge, k = 0, 0
    for i in range(n):
        if first[i] == i:
            new_signature[k], new_starts[k], new_origin[k] = signature[i], edge, origin[i]
            new_ints[k], new_floats[k] = int_starts[i], float_starts[i]
            for e in range(starts[i], starts[i + 1]):
                new_base[edge], new_shift[edge] = new[base[e]], shift[e]
                edge += 1
            k += 1
    new_starts[nodes] = edge
    rows = np.full(len(tape_base) + 1, -1, np.int64)
    for i in range(n):
        rows[origin[i]] = origin[first[i]]
    new_tape_base = np.empty(len(tape_base), np.int64)
    for k in range(len(tape_base)):
        moved = rows[tape_base[k]]
        new_tape_base[k] = moved if moved >= 0 else tape_base[k]
    count = 0
    for r in results:
        if first[r] == r:
            new_results[count] = new[r]
            count += 1
    payload = new_ints, new_floats, new_origin, new_results[:count]
    return (new, new_signature, new_starts, new_base, new_shift, *payload, new_tape_base)


def without_repeats(
    usable: Ints,
    signature: Ints,
    starts: Ints,
    base: Ints,
    shift: Ints,
    int_starts: Ints,
    ints: Ints,
    float_starts: Ints,
    bits: Ints,
    int_counts: Ints,
    float_counts: Ints,
    results: Ints,
    fewest: int,
    worth: int,
    origin: Ints,
    tape_base: Ints,
) -> tuple[int, tuple[Ints, ...]]:
    """How many nodes have an equal before them, and, if any has, what `renumbered` returns."""
    columns = signature, starts, base, shift
    first, merged = first_equals(
        usable, *columns, int_starts, ints, float_starts, bits, int_counts, float_counts, results, fewest, worth
    )
    if not merged:
        none = first[:0]
        return 0, (none, none, none, none, none, none, none, none, none, none)
    return merged, renumbered(first, *columns, int_starts, float_starts, origin, tape_base, results)


def depths(nodes: int, users: Ints, operands: Ints) -> Ints:
    """The longest path of operands below each node; users come after their operands."""
    depth = np.zeros(nodes, np.int64)
    for e in range(len(users)):
        depth[users[e]] = max(depth[users[e]], depth[operands[e]] + 1)
    return depth


def signature_edges(signature: Ints, starts: Ints, base: Ints, call: Ints, count: int) -> Ints:
    """``edges[a, b]``: some node of signature ``a`` feeds some of signature ``b``. Node ``i`` is part of the launch of
    node ``call[i]``."""
    edges = np.zeros((count, count), np.bool_)
    for i in range(len(signature)):
        if call[i] == i:
            for e in range(starts[i], starts[i + 1]):
                edges[signature[call[base[e]]], signature[i]] = True
    return edges


def levels(
    signature: Ints, starts: Ints, base: Ints, call: Ints, component: Ints, components: int
) -> tuple[Ints, Ints]:
    """The depth of each node inside the component of its signature, and the greatest depth of each component."""
    level = np.zeros(len(signature), np.int64)
    height = np.zeros(components, np.int64)
    for i in range(len(signature)):
        if call[i] == i:
            mine = component[signature[i]]
            for e in range(starts[i], starts[i + 1]):
                operand = call[base[e]]
                if component[signature[operand]] == mine and level[operand] >= level[i]:
                    level[i] = level[operand] + 1
            height[mine] = max(height[mine], level[i])
    return level, height


def by_levels(
    signature: Ints, starts: Ints, base: Ints, call: Ints, component: Ints, signatures: int, components: int, most: int
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The launch of each node, by component, level and signature; the component of each launch; how many nodes and
    launches each component has, and its greatest depth. No launches at all where there would be a table of more than
    ``most`` entries."""
    level, height = levels(signature, starts, base, call, component, components)
    origin = np.zeros(components + 1, np.int64)
    for c in range(components):
        origin[c + 1] = origin[c] + (height[c] + 1) * signatures
    launch, sizes, counts = (
        np.empty(len(signature), np.int64),
        np.zeros(components, np.int64),
        np.zeros(components, np.int64),
    )
    if origin[components] > most:
        return launch, launch[:0], sizes, counts, height
    rank = np.full(origin[components], -1, np.int64)
    for i in range(len(signature)):
        if call[i] == i:
            c = component[signature[i]]
            rank[origin[c] + level[i] * signatures + signature[i]] = 0
            sizes[c] += 1
    launches = 0
    for c in range(components):
        for key in range(origin[c], origin[c + 1]):
            if rank[key] == 0:
                rank[key] = launches
                launches += 1
                counts[c] += 1
    phase = np.empty(launches, np.int64)
    for i in range(len(signature)):
        j = call[i]
        c = component[signature[j]]
        launch[i] = rank[origin[c] + level[j] * signatures + signature[j]]
        phase[launch[i]] = c
    return launch, phase, sizes, counts, height


def by_launch(launch: Ints, wanted: Ints, launches: int) -> tuple[Ints, Ints]:
    """The wanted nodes (a flag for each) in the order of their launches, recorded order within, and where each launch
    begins; launches without any are left out."""
    bounds, count = np.zeros(launches + 1, np.int64), 0
    for i in range(len(launch)):
        if wanted[i]:
            bounds[launch[i] + 1] += 1
            count += 1
    for k in range(launches):
        bounds[k + 1] += bounds[k]
    place = bounds[:launches].copy()
    order = np.empty(count, np.int64)
    for i in range(len(launch)):
        if wanted[i]:
            order[place[launch[i]]] = i
            place[launch[i]] += 1
    distinct, k = bounds.copy(), 1
    for b in bounds:
        if b != distinct[k - 1]:
            distinct[k] = b
            k += 1
    return order, distinct[:k]


def blocks(
    signature: Ints, call: Ints, launch: Ints, phase: Ints, launches: int
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Which nodes get consecutive rows: those of one launch, and of a cell's launch those of each result. The block of
    each node, its place there, and of each block how many nodes it has, their signature and its phase."""
    n, most = len(signature), 1
    for i in range(n):
        most = max(most, i - call[i] + 1)
    counts = np.zeros(launches * most, np.int64)
    for i in range(n):
        counts[launch[i] * most + i - call[i]] += 1
    rank, found = np.empty(launches * most, np.int64), 0
    for key in range(launches * most):
        rank[key] = found
        found += counts[key] > 0
    sizes, kinds, phases = np.zeros(found, np.int64), np.empty(found, np.int64), np.empty(found, np.int64)
    block, place = np.empty(n, np.int64), np.empty(n, np.int64)
    for i in range(n):
        b = rank[launch[i] * most + i - call[i]]
        block[i], place[i] = b, sizes[b]
        sizes[b] += 1
        kinds[b], phases[b] = signature[i], phase[launch[i]]
    return block, place, sizes, kinds, phases


def laid_out(
    signature: Ints, call: Ints, launch: Ints, phase: Ints, launches: int, width: Ints, dtype: Ints, dtypes: int
) -> tuple[Ints, Ints]:
    """The element offset of each node, blocks laid behind each other by phase and signature, each run of one signature
    aligned to its width; and how many elements of each dtype there are. ``width`` and ``dtype``: by signature."""
    block, place, sizes, kinds, phases = blocks(signature, call, launch, phase, launches)
    last = phases.max() + 1 if len(phases) else 0
    firsts = np.zeros(last * len(width) + 1, np.int64)
    for b in range(len(sizes)):
        firsts[phases[b] * len(width) + kinds[b] + 1] += 1
    for key in range(last * len(width)):
        firsts[key + 1] += firsts[key]
    order = np.empty(len(sizes), np.int64)
    for b in range(len(sizes)):
        group = phases[b] * len(width) + kinds[b]
        order[firsts[group]] = b
        firsts[group] += 1
    start, ends = np.empty(len(sizes), np.int64), np.zeros(dtypes, np.int64)
    previous = np.full(dtypes, -1, np.int64)
    for i in order:
        s = kinds[i]
        d, w = dtype[s], width[s]
        if s != previous[d]:
            ends[d] = -(-ends[d] // w) * w
            previous[d] = s
        start[i] = ends[d]
        ends[d] += w * sizes[i]
    return placed(block, place, start, signature, width), ends


def last_reads(block: Ints, phases: Ints, starts: Ints, base: Ints, roots: Ints, never: int) -> Ints:
    """The last phase in which each block is read; ``never`` over for that of a root."""
    last = np.empty(len(phases), np.int64)
    last[:] = phases
    for i in range(len(block)):
        for e in range(starts[i], starts[i + 1]):
            last[block[base[e]]] = max(last[block[base[e]]], phases[block[i]])
    for i in roots:
        last[block[i]] = never
    return last


def placed(block: Ints, place: Ints, start: Ints, signature: Ints, width: Ints) -> Ints:
    """The element offset of each node of which ``start`` says where its block begins."""
    offsets = np.empty(len(block), np.int64)
    for i in range(len(block)):
        offsets[i] = start[block[i]] + place[i] * width[signature[i]]
    return offsets


def read_within(starts: Ints, base: Ints, call: Ints, launch: Ints, phase: Ints) -> Ints:
    """Which nodes are read in their own phase, by another launch."""
    found = np.zeros(len(call), np.bool_)
    for i in range(len(call)):
        if call[i] == i:
            for e in range(starts[i], starts[i + 1]):
                if phase[launch[base[e]]] == phase[launch[i]]:
                    found[base[e]] = True
    return found


def calls(
    kind: int,
    signature: Ints,
    order: Ints,
    launch: Ints,
    phase: Ints,
    starts: Ints,
    base: Ints,
    shift: Ints,
    offsets: Ints,
    within: Ints,
    int_starts: Ints,
    ints: Ints,
    float_starts: Ints,
    floats: Ints,
    rows: int,
    results: int,
    int_count: int,
    float_count: int,
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints, int]:
    """The calls of the cell with signature ``kind`` in this order: nodes, the offsets of operands and of results,
    integers, floats, which operands and which results are read in the phase of the calls, and the most calls of a
    launch."""
    count = 0
    for i in order:
        count += signature[i] == kind
    nodes = np.empty(count, np.int64)
    inputs, outputs = np.empty((rows, count), np.int64), np.empty((results, count), np.int64)
    numbers, reals = np.empty((int_count, count), np.int32), np.empty((float_count, count), np.float64)
    read, used = np.zeros(rows, np.bool_), np.zeros(results, np.bool_)
    c, largest, size, before = 0, 0, 0, -1
    for i in order:
        if signature[i] == kind:
            nodes[c] = i
            for k in range(rows):
                e = starts[i] + k
                inputs[k, c] = offsets[base[e]] + shift[e]
                read[k] = read[k] or phase[launch[base[e]]] == phase[launch[i]]
            for k in range(results):
                outputs[k, c] = offsets[i + k]
                used[k] = used[k] or within[i + k]
            for k in range(int_count):
                numbers[k, c] = ints[int_starts[i] + k]
            for k in range(float_count):
                reals[k, c] = floats[float_starts[i] + k]
            size = size + 1 if launch[i] == before else 1
            before = launch[i]
            largest = max(largest, size)
            c += 1
    return nodes, inputs, outputs, numbers, reals, read, used, largest


def operand_offsets(
    order: Ints, bounds: Ints, has: Ints, slot: int, starts: Ints, base: Ints, shift: Ints, offsets: Ints
) -> Ints:
    """Where operand ``slot`` of each node in this order lies; 0 for launches without one (``has``)."""
    found = np.zeros(len(order), np.int64)
    for k in range(len(bounds) - 1):
        if has[k]:
            for j in range(bounds[k], bounds[k + 1]):
                e = starts[order[j]] + slot
                found[j] = offsets[base[e]] + shift[e]
    return found


def stacked_rows(
    nodes: Ints, starts: Ints, base: Ints, shift: Ints, offsets: Ints, width: int
) -> tuple[Ints, int, int, bool]:
    """Where all operands of these nodes lie, one node behind the other: element offsets, their distance if they are
    evenly spaced, else -1, and the first; or, if all are aligned to ``width`` and not evenly spaced, row numbers, and
    True."""
    count = 0
    for i in nodes:
        count += starts[i + 1] - starts[i]
    found, k = np.empty(count, np.int64), 0
    aligned = True
    for i in nodes:
        for e in range(starts[i], starts[i + 1]):
            found[k] = offsets[base[e]] + shift[e]
            aligned = aligned and found[k] % width == 0
            k += 1
    pitch = found[1] - found[0] if count > 1 else width
    for k in range(1, count):
        if found[k] - found[k - 1] != pitch:
            pitch = -1
            break
    pitch = max(pitch, -1)
    first = found[0] if count else 0
    aligned = aligned and pitch < 0
    if aligned:
        for k in range(count):
            found[k] //= width
    return found, pitch, first, aligned


def evenly(offsets: Ints, bounds: Ints, widths: Ints) -> tuple[Ints, Ints, Ints]:
    """For each launch whether its offsets are evenly spaced, how far apart, and the first."""
    count = len(bounds) - 1
    even, pitch, first = np.empty(count, np.bool_), np.empty(count, np.int64), np.empty(count, np.int64)
    for k in range(count):
        low, high = bounds[k], bounds[k + 1]
        first[k] = offsets[low]
        pitch[k] = offsets[low + 1] - offsets[low] if high - low > 1 else widths[k]
        even[k] = pitch[k] >= 0 or high - low == 1
        for j in range(low + 1, high):
            even[k] = even[k] and offsets[j] - offsets[j - 1] == pitch[k]
    return even, pitch, first


def places(base: Ints, shift: Ints, origin: Ints, kept: Ints, offsets: Ints) -> Ints:
    """The element offset of the value that each row of the tapes shows, -1 where there is none: ``kept`` are the nodes
    that have one."""
    found, node_of = np.full(len(base), -1, np.int64), np.full(len(base) + 1, -1, np.int64)
    for k in kept:
        node_of[origin[k]] = k
    for i in range(len(base)):
        node = node_of[base[i]]
        if node >= 0:
            found[i] = offsets[node] + shift[i]
    return found


def reaches_all(
    wanted: Ints, wants: Ints, slots: Ints, signature: Ints, starts: Ints, base: Ints, call: Ints, nodes: Ints
) -> bool:
    """Whether a gradient that starts at ``nodes`` reaches all nodes whose signature wants one (``wanted``): each of
    them is read by a node that hands one on to it. ``wants[slots[s] + k]``: whether signature ``s`` does to operand
    ``k``; its last operand stands for further ones."""
    reached = np.zeros(len(call), np.bool_)
    for i in nodes:
        reached[call[i]] = True
    for i in range(len(call)):
        if call[i] == i:
            s = signature[i]
            for e in range(starts[i], starts[i + 1]):
                if wants[min(slots[s] + e - starts[i], slots[s + 1] - 1)]:
                    reached[call[base[e]]] = True
    missing = 0
    for i in range(len(call)):
        missing += call[i] == i and wanted[signature[i]] and not reached[i]
    return missing == 0


def links(
    starts: Ints,
    base: Ints,
    signature: Ints,
    joins: Ints,
    types: Ints,
    sizes: Ints,
    whole: Ints,
    output: Ints,
    largest: int,
) -> tuple[Ints, Ints, Ints]:
    """One pass against the order of recording: the last member of each node's chain, the size of the chain of each last
    member, and which nodes several chains read."""
    n = len(signature)
    last = np.arange(n)
    size = np.ones(n, np.int64)
    parts = np.zeros(n, np.bool_)  # whether a member's value is computed where parts of it are read
    into = np.full(n, -1, np.int64)  # the chain of all readers so far, -2 if there are several
    fits = np.zeros(n, np.int64)  # how they read: 1 all of it, 2 parts
    for q in range(n - 1, -1, -1):
        chain = into[q]
        if joins[q] >= 0 and chain >= 0 and fits[q] > 0 and not output[q] and size[chain] < largest:
            last[q] = chain
            size[chain] += 1
            parts[q] = fits[q] == 2
        else:
            chain = q
        for e in range(starts[q], starts[q + 1]):
            p = base[e]
            if joins[p] < 0:
                continue
            fit = 0
            if joins[q] >= 0 and whole[signature[q], e - starts[q]]:
                if joins[q] == joins[p]:
                    fit = 2 if parts[q] else 1
                elif not parts[q] and types[joins[q]] == types[joins[p]] and sizes[joins[q]] < sizes[joins[p]]:
                    fit = 2
            if into[p] == -1:
                into[p], fits[p] = chain, fit
            elif into[p] == chain:
                fits[p] &= fit
            else:
                into[p] = -2
    return last, size, into == -2


def context(i: int, signature: Ints, starts: Ints, base: Ints) -> int:
    """A number below 65,536 for a node, of its signature and those of its operands."""
    key = signature[i] * 1000003
    for e in range(starts[i], starts[i + 1]):
        key = (key * 31 + signature[base[e]]) & MASK
    return (key ^ (key >> 15)) & 0xFFFF  # type: ignore[no-any-return]


def chains(
    starts: Ints,
    base: Ints,
    shift: Ints,
    signature: Ints,
    joins: Ints,
    types: Ints,
    sizes: Ints,
    whole: Ints,
    output: Ints,
    largest: int,
) -> tuple[Ints, Ints, Ints, int]:
    """The chains of a graph (see `lazyflow.chains`): for each node the last member of its chain, its number among the
    members, and the structure of the chain; and how many structures there are.

    ``joins``: what neighbours must have in common, by node, -1 for what joins nothing; ``types`` and ``sizes``: of
    these; ``whole``: by signature, which operands are read whole; ``output``: what is a result in any case."""
    last, size, shared = links(starts, base, signature, joins, types, sizes, whole, output, largest)
    n = len(signature)
    # A node that others read as well, such as the memory of an LSTM, is a result; then so are nodes like it that nobody
    # else happens to read, such as the last memory, or their chains could not run with the others.
    apart = np.zeros(0x10000, np.bool_)
    for q in range(n):
        if joins[q] >= 0 and shared[q]:
            apart[context(q, signature, starts, base)] = True
    alone, again = output.copy(), False
    for q in range(n):
        if last[q] != q and apart[context(q, signature, starts, base)]:
            alone[q] = again = True
    if again:
        last, size, _ = links(starts, base, signature, joins, types, sizes, whole, alone, largest)
    number = np.zeros(n, np.int64)
    count = np.zeros(n, np.int64)
    structure = np.full(n, -1, np.int64)
    room = 64
    while room < 2 * (n + len(base)):
        room *= 2
    before, symbol, node = np.full(room, -2, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64)
    nodes = 0
    for q in range(n):
        chain = last[q]
        if size[chain] == 1:
            continue
        number[q] = count[chain]
        count[chain] += 1
        for e in range(starts[q] - 1, starts[q + 1]):
            # First the signature, then each operand: where from, or which member and from which element.
            if e < starts[q]:
                key = np.int64(signature[q])
            else:
                key = (shift[e] << 8) + number[base[e]] + 1 if last[base[e]] == chain else np.int64(0)
            at = (structure[chain] * 1000003 + key * 7919 + (key >> 11)) & (room - 1)
            while before[at] != -2 and not (before[at] == structure[chain] and symbol[at] == key):
                at = (at + 1) & (room - 1)
            if before[at] == -2:
                before[at], symbol[at], node[at] = structure[chain], key, nodes
                nodes += 1
            structure[chain] = node[at]
    ids = np.full(nodes + 1, -1, np.int64)
    structures = 0
    for q in range(n):
        if structure[q] >= 0:
            if ids[structure[q]] < 0:
                ids[structure[q]] = structures
                structures += 1
            structure[q] = ids[structure[q]]
    return last, number, structure, structures


def joined(
    starts: Ints, base: Ints, shift: Ints, signature: Ints, last: Ints, structure: Ints, which: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints, Ints, Ints]:
    """The graph in which chains are nodes: the new number of each node (of a member, that of its chain); which nodes
    are left, and their signature, starts, base and shift; and which are gone. ``which``: the signature of each
    structure, -1 for one whose chains stay as they are."""
    n = len(signature)
    chain = np.arange(n)  # the last member, of those that are joined
    total, edges = 0, 0
    for i in range(n):
        if structure[last[i]] >= 0 and which[structure[last[i]]] >= 0:
            chain[i] = last[i]
        total += chain[i] == i
    new = np.empty(n, np.int64)
    old, kinds, gone = np.empty(total, np.int64), np.empty(total, np.int64), np.empty(n - total, np.int64)
    k, g = 0, 0
    for i in range(n):
        if chain[i] == i:
            new[i], old[k] = k, i
            k += 1
        else:
            gone[g] = i
            g += 1
    counts = np.zeros(total + 1, np.int64)
    for i in range(n):
        new[i] = new[chain[i]]
        s = structure[last[i]]
        if chain[i] == i:
            kinds[new[i]] = which[s] if s >= 0 and which[s] >= 0 else signature[i]
        for e in range(starts[i], starts[i + 1]):
            if chain[base[e]] != chain[i]:
                counts[new[i] + 1] += 1
                edges += 1
    for k in range(total):
        counts[k + 1] += counts[k]
    bases, shifts = np.empty(edges, np.int64), np.empty(edges, np.int64)
    place = counts[:total].copy()
    for i in range(n):
        for e in range(starts[i], starts[i + 1]):
            if chain[base[e]] != chain[i]:
                at = place[new[i]]
                bases[at], shifts[at] = new[base[e]], shift[e]
                place[new[i]] = at + 1
    return new, old, kinds, counts, bases, shifts, gone
