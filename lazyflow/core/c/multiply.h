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

/* What of a tile is wanted: its first `rows`, the others being the last one again; of the last vector `rest` elements, and it
 * is read from `back` elements before them on. Whether it is added to what is there. */
typedef struct {
    ptrdiff_t rows, rest, back;
    int adds;
} N(edge);

/* out = a b, or added to it, for `many` rows and `wide` vectors of columns. */
ALWAYS void N(tile)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t inner,
                    const N(edge) *e, const int many, const int wide) {
    N(lane) sums[TALL][BROAD];
    ptrdiff_t row[TALL], last = (wide - 1) * PER_LANE - e->back;
    UNROLLED
    for (int i = 0; i < many; i++) {
        row[i] = (i < e->rows ? i : e->rows - 1) * a.down;
        UNROLLED
        for (int j = 0; j < wide; j++) sums[i][j] = (N(lane)){0};
    }
    for (ptrdiff_t k = 0; k < inner; k++, b += b_pitch, a.at += a.right) {
        N(lane) x[BROAD];
        UNROLLED
        for (int j = 0; j < wide; j++) x[j] = *(const N(lane) *)(b + (j == wide - 1 ? last : j * PER_LANE));
        UNROLLED
        for (int i = 0; i < many; i++) {
            N(lane) w = a.at[row[i]] - (N(lane)){0};
            UNROLLED
            for (int j = 0; j < wide; j++) sums[i][j] = SUM(w, x[j], sums[i][j]);
        }
    }
    REAL part[TALL][BROAD * PER_LANE];
    UNROLLED
    for (int i = 0; i < many; i++) {
        UNROLLED
        for (int j = 0; j < wide; j++) *(N(lane) *)(part[i] + j * PER_LANE) = sums[i][j];
    }
    for (ptrdiff_t i = 0; i < e->rows && i < many; i++) {
        REAL *to = out + i * pitch;
        for (int j = 0; j < wide; j++, to += PER_LANE) {
            N(lane) found = *(N(lane) *)(part[i] + j * PER_LANE);
            if (j == wide - 1 && e->rest < PER_LANE)
                N(put)(to, part[i] + j * PER_LANE + e->back, e->rest, e->adds);
            else if (e->adds)
                *(N(lane) *)to += found;
            else
                *(N(lane) *)to = found;
        }
    }
}

#define TILE(name, many, wide)                                                                                        \
    static __attribute__((noinline)) void N(name)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, \
                                                  ptrdiff_t inner, const N(edge) *e) {                                \
        N(tile)(out, pitch, a, b, b_pitch, inner, e, many, wide);                                                     \
    }
TILE(tall_1, TALL, 1)
TILE(tall_2, TALL, 2)
TILE(four_1, 4, 1)
TILE(four_2, 4, 2)
TILE(one_1, 1, 1)
TILE(one_2, 1, 2)
#if BROAD > 2
TILE(tall_3, TALL, 3)
TILE(tall_4, TALL, 4)
TILE(four_3, 4, 3)
TILE(four_4, 4, 4)
TILE(one_3, 1, 3)
TILE(one_4, 1, 4)
#endif
#undef TILE

typedef void (*N(a_tile))(REAL *, ptrdiff_t, N(matrix), const REAL *, ptrdiff_t, ptrdiff_t, const N(edge) *);

/* By vectors of columns, and rows: one, four, or as many as there are at most. */
static const N(a_tile) N(tiles)[][3] = {
    {N(one_1), N(four_1), N(tall_1)},
    {N(one_2), N(four_2), N(tall_2)},
#if BROAD > 2
    {N(one_3), N(four_3), N(tall_3)},
    {N(one_4), N(four_4), N(tall_4)},
#endif
};

/* out = a b, or added to it, where b has `columns` elements in each row, one behind the other. `filled`: the last vector of
 * each may be read beyond them; else there is a whole vector at the least. Of the rows seven, and eight, are two times four;
 * two, or three, take no longer than four. */
static void N(some_rows)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows,
                         ptrdiff_t columns, ptrdiff_t inner, int adds, int filled) {
    for (ptrdiff_t j = 0, wide; j < columns; j += wide * PER_LANE) {
        wide = (columns - j + PER_LANE - 1) / PER_LANE;
        wide = wide < BROAD ? wide : BROAD;
        ptrdiff_t rest = columns - j - (wide - 1) * PER_LANE;
        rest = rest < PER_LANE ? rest : PER_LANE;
        N(edge) e = {rows, rest, filled ? 0 : PER_LANE - rest, adds};
        N(matrix) from = a;
        REAL *to = out + j;
        for (ptrdiff_t many; e.rows > 0; e.rows -= many, from.at += many * a.down, to += many * pitch) {
            int which = e.rows > 4 && e.rows != 7 && e.rows != 8 ? 2 : e.rows > 1;
            many = which == 2 ? TALL : which ? 4 : 1;
            N(tiles)[wide - 1][which](to, pitch, from, b + j, b_pitch, inner, &e);
        }
    }
}

/* The same, of as many rows at a time as are written before b is read again, where that stays in the first cache. */
static void N(multiplied)(REAL *out, ptrdiff_t pitch, N(matrix) a, const REAL *b, ptrdiff_t b_pitch, ptrdiff_t rows,
                          ptrdiff_t columns, ptrdiff_t inner, int adds, int filled) {
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
    UNROLLED
    for (int i = 0; i < many; i++) one[i] = x.at + (i < rows ? i : rows - 1) * x.down;
    UNROLLED
    for (int j = 0; j < wide; j++) two[j] = weight.at + (j < columns ? j : columns - 1) * weight.down;
    UNROLLED
    for (int v = 0; v < DOTS; v++) sums[v] = (N(lane)){0};
    for (ptrdiff_t k = 0; k + PER_LANE <= inner; k += PER_LANE) {
        UNROLLED
        for (int j = 0; j < wide; j++) {
            N(lane) w = *(const N(lane) *)(two[j] + k);
            UNROLLED
            for (int i = 0; i < many; i++) sums[i * wide + j] = SUM(w, *(const N(lane) *)(one[i] + k), sums[i * wide + j]);
        }
    }
    /* What is left, as the end of a vector whose other lanes are zero. */
    UNROLLED
    for (int j = 0; j < wide; j++) {
        N(lane) w = (N(lane))(*(const N(ints) *)(two[j] + inner - PER_LANE) & mask);
        UNROLLED
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
    N(ints) mask = {0};
    for (INT r = 0; r < PER_LANE; r++) mask[r] = r < PER_LANE - inner % PER_LANE ? 0 : -1;
    ptrdiff_t step = NEAR / (inner * (ptrdiff_t)sizeof(REAL)) / 4 * 4;
    step = step < 4 ? 4 : step;
    for (ptrdiff_t some; rows > 0; rows -= some, x.at += some * x.down, out += some * pitch) {
        some = rows < step ? rows : step;
        N(some_dots)(out, pitch, x, weight, some, columns, inner, mask);
    }
}
