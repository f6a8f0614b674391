/* Products of matrices without a packed copy of any: included once for each type and instruction set, behind set.h.
 *
 * BLAS libraries copy both operands into panels first, which pays where there are many rows (Goto and van de Geijn 2008,
 * "Anatomy of high-performance matrix multiplication"). Of a graph's launches most have few. Here a tile of the result
 * stays in registers while its operands are read where they lie. */

#include "lanes.h"

/* The tile, as large as the registers allow: rows, and vectors of columns. */
#if VECTOR_BYTES == 64
#define TALL 6
#define BROAD 4
#elif VECTOR_BYTES == 32
#define TALL 6
#define BROAD 2
#else
#define TALL 4
#define BROAD 2
#endif
/* Vectors of sums of a tile of dot products. */
#define DOTS (VECTOR_BYTES == 64 ? 16 : 8)
/* What of an operand stays in the first cache while all of another goes by, in bytes. */
#define NEAR 24576

/* A matrix with rows and columns any distance apart. */
typedef struct {
    const REAL *at;
    ptrdiff_t down, right;
} N(matrix);

/* A few elements, which would take longer by a call. */
ALWAYS void N(put)(REAL *to, const REAL *from, ptrdiff_t count, const int adds) {
    for (ptrdiff_t r = 0; r < count; r++) to[r] = adds ? to[r] + from[r] : from[r];
}

/* out = a b, or added to it, for the first `rows` of `many` rows and `wide` vectors of columns; the other rows are the last
 * one again. Of the last vector `rest` elements are wanted, and it is read from `back` elements before them on. */
ALWAYS void N(tile)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t inner, ptrdiff_t rows,
                    ptrdiff_t rest, ptrdiff_t back, const int adds, const int many, const int wide) {
    N(lane) sums[TALL][BROAD];
    const REAL *row[TALL];
    ptrdiff_t last = (wide - 1) * PER_LANE - back;
    for (int i = 0; i < many; i++) {
        row[i] = a.at + (i < rows ? i : rows - 1) * a.down;
        for (int j = 0; j < wide; j++) sums[i][j] = (N(lane)){0};
    }
    for (ptrdiff_t k = 0; k < inner; k++, b += b_pitch) {
        N(lane) x[BROAD];
        for (int j = 0; j < wide; j++) x[j] = *(const N(lane) *)(b + (j == wide - 1 ? last : j * PER_LANE));
        for (int i = 0; i < many; i++) {
            N(lane) w = row[i][k * a.right] - (N(lane)){0};
            for (int j = 0; j < wide; j++) sums[i][j] = SUM(w, x[j], sums[i][j]);
        }
    }
    for (int i = 0; i < many; i++) {
        if (i >= rows) return;
        REAL *to = out + i * pitch;
        for (int j = 0; j < wide; j++, to += PER_LANE) {
            if (j < wide - 1 || rest == PER_LANE) {
                if (adds) sums[i][j] += *(const N(lane) *)to;
                *(N(lane) *)to = sums[i][j];
                continue;
            }
            REAL part[MOST_LANES];
            __builtin_memcpy(part, &sums[i][j], sizeof sums[i][j]);
            N(put)(to, part + back, rest, adds);
        }
    }
}

/* All rows of some columns. Seven rows, and eight, are two times four; two, or three, take no longer than four. */
ALWAYS void N(panel)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows, ptrdiff_t inner,
                     ptrdiff_t rest, ptrdiff_t back, const int adds, const int wide) {
    for (ptrdiff_t many; rows > 0; rows -= many, a.at += many * a.down, out += many * pitch) {
        many = rows > 4 && rows != 7 && rows != 8 ? TALL : rows > 1 ? 4 : 1;
#define SOME(m) \
    if (many == m) N(tile)(out, pitch, a, b, b_pitch, inner, rows, rest, back, adds, m, wide)
#if TALL > 4
        SOME(TALL);
#endif
        SOME(4);
        SOME(1);
#undef SOME
    }
}

/* out = a b, or added to it, where b has `columns` elements in each row, one behind the other. `filled`: the last vector of
 * each may be read beyond them; else there is a whole vector at the least. */
ALWAYS void N(some_rows)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows,
                         ptrdiff_t columns, ptrdiff_t inner, const int adds, const int filled) {
    for (ptrdiff_t j = 0, wide; j < columns; j += wide * PER_LANE) {
        wide = (columns - j + PER_LANE - 1) / PER_LANE;
        wide = wide < BROAD ? wide : BROAD;
        ptrdiff_t rest = columns - j - (wide - 1) * PER_LANE;
        rest = rest < PER_LANE ? rest : PER_LANE;
        ptrdiff_t back = filled ? 0 : PER_LANE - rest;
#define SOME(w) \
    if (wide == w) N(panel)(out + j, pitch, a, b + j, b_pitch, rows, inner, rest, back, adds, w)
#if BROAD > 2
        SOME(4);
        SOME(3);
#endif
        SOME(2);
        SOME(1);
#undef SOME
    }
}

/* The same, of as many rows at a time as are written before b is read again, where that stays in the first cache. */
ALWAYS void N(multiplied)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows,
                          ptrdiff_t columns, ptrdiff_t inner, const int adds, const int filled) {
    ptrdiff_t step = inner * columns * (ptrdiff_t)sizeof(REAL) <= NEAR ? 4 * TALL : rows;
    for (ptrdiff_t some; rows > 0; rows -= some, a.at += some * a.down, out += some * pitch) {
        some = rows < step ? rows : step;
        N(some_rows)(out, pitch, a, b, b_pitch, some, columns, inner, adds, filled);
    }
}

/* found[v] = the sum of the lanes of sums[v], for DOTS vectors. */
ALWAYS void N(lane_sums)(REAL *found, N(lane) *sums) {
    for (int at = 0; at < DOTS; at += PER_LANE) *(N(lane) *)(found + at) = N(summed)(sums + at);
}

/* The dot products of `many` rows of x with `wide` rows of weights, of which the first `rows` and `columns` are wanted; the
 * others are the last one again. `mask`: the lanes that are left where whole vectors have been. */
ALWAYS void N(dots_tile)(REAL *out, ptrdiff_t pitch, N(matrix) x, N(matrix) weight, ptrdiff_t rows, ptrdiff_t columns,
                         ptrdiff_t inner, N(ints) mask, const int many, const int wide) {
    N(lane) sums[DOTS];
    const REAL *one[DOTS], *two[DOTS];
    for (int i = 0; i < many; i++) one[i] = x.at + (i < rows ? i : rows - 1) * x.down;
    for (int j = 0; j < wide; j++) two[j] = weight.at + (j < columns ? j : columns - 1) * weight.down;
    for (int v = 0; v < DOTS; v++) sums[v] = (N(lane)){0};
    for (ptrdiff_t k = 0; k + PER_LANE <= inner; k += PER_LANE)
        for (int j = 0; j < wide; j++) {
            N(lane) w = *(const N(lane) *)(two[j] + k);
            for (int i = 0; i < many; i++) sums[i * wide + j] = SUM(w, *(const N(lane) *)(one[i] + k), sums[i * wide + j]);
        }
    /* What is left, as the end of a vector whose other lanes are zero. */
    for (int j = 0; j < wide; j++) {
        N(lane) w = (N(lane))(*(const N(ints) *)(two[j] + inner - PER_LANE) & mask);
        for (int i = 0; i < many; i++) {
            N(lane) left = (N(lane))(*(const N(ints) *)(one[i] + inner - PER_LANE) & mask);
            sums[i * wide + j] = SUM(w, left, sums[i * wide + j]);
        }
    }
    REAL found[DOTS];
    N(lane_sums)(found, sums);
    for (int i = 0; i < many; i++)
        if (i < rows) {
            if (columns >= wide)
                __builtin_memcpy(out + i * pitch, found + i * wide, wide * sizeof(REAL));
            else
                N(put)(out + i * pitch, found + i * wide, columns, 0);
        }
}

/* out = x weight.T for some rows, where both have their rows one element behind the other, a vector of them at the least. */
ALWAYS void N(some_dots)(REAL *out, ptrdiff_t pitch, N(matrix) x, N(matrix) weight, ptrdiff_t rows, ptrdiff_t columns,
                         ptrdiff_t inner, N(ints) mask) {
#define SOME(m)                                                                                 \
    N(dots_tile)(out + i * pitch + j, pitch, (N(matrix)){x.at + i * x.down, x.down, 1},         \
                 (N(matrix)){weight.at + j * weight.down, weight.down, 1}, rows - i, columns - j, inner, mask, m, DOTS / m)
    ptrdiff_t i = 0;
    if (rows == 1)
        for (ptrdiff_t j = 0; j < columns; j += DOTS) SOME(1);
    else
        for (ptrdiff_t j = 0; j < columns; j += DOTS / 4)
            for (i = 0; i < rows; i += 4) SOME(4);
#undef SOME
}

/* The same of all rows, of as many at a time as stay in the first cache. */
ALWAYS void N(dots)(REAL *out, ptrdiff_t pitch, N(matrix) x, N(matrix) weight, ptrdiff_t rows, ptrdiff_t columns,
                    ptrdiff_t inner) {
    N(ints) mask;
    for (INT r = 0; r < PER_LANE; r++) mask[r] = r < PER_LANE - inner % PER_LANE ? 0 : -1;
    ptrdiff_t step = NEAR / (inner * (ptrdiff_t)sizeof(REAL)) / 4 * 4;
    step = step < 4 ? 4 : step;
    for (ptrdiff_t some; rows > 0; rows -= some, x.at += some * x.down, out += some * pitch) {
        some = rows < step ? rows : step;
        N(some_dots)(out, pitch, x, weight, some, columns, inner, mask);
    }
}
