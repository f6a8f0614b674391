/* Operations on rows that are no elementwise programs: included once for each type and instruction set, behind run.h.
 * What machine.c hands out takes `void *`, so that both types have one signature. */

#define WIDE 16
typedef REAL N(vector) __attribute__((vector_size(WIDE * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* columns[k] .. of each row of `out` = a row of `buffer` that begins at at[k * stride + i]. */
static void N(gather)(void *out_, ptrdiff_t pitch, const void *buffer_, const int64_t *at, ptrdiff_t stride,
                      const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t rows) {
    REAL *out = out_;
    const REAL *buffer = buffer_;
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t k = 0; k < parts; k++)
            __builtin_memcpy(out + i * pitch + columns[k], buffer + at[k * stride + i], widths[k] * sizeof(REAL));
}

ALWAYS void N(add_row)(REAL *to, const REAL *from, ptrdiff_t n) {
    ptrdiff_t j = 0;
    for (; j + WIDE <= n; j += WIDE)
        *(N(vector) *)(to + j) += *(const N(vector) *)(from + j);
    for (; j < n; j++) to[j] += from[j];
}

#define CHUNK 512

/* The elements of a row that belong to part `part`: every `parts`-th chunk of the buffer. */
ALWAYS void N(add_chunks)(REAL *buffer, ptrdiff_t at, const REAL *from, ptrdiff_t n, ptrdiff_t part, ptrdiff_t parts) {
    ptrdiff_t end = at + n, chunk = at / CHUNK;
    chunk += (part + parts - chunk % parts) % parts;
    for (; chunk * CHUNK < end; chunk += parts) {
        ptrdiff_t low = chunk * CHUNK, high = low + CHUNK;
        low = low > at ? low : at;
        high = high < end ? high : end;
        N(add_row)(buffer + low, from + (low - at), high - low);
    }
}

/* The transpose of gather: rows may repeat, and are added in order, to each element by one of the parts. */
static void N(add_rows)(void *buffer_, const int64_t *at, ptrdiff_t stride, const void *rows_, ptrdiff_t pitch,
                        const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t count,
                        ptrdiff_t part, ptrdiff_t of) {
    REAL *buffer = buffer_;
    const REAL *rows = rows_;
    for (ptrdiff_t i = 0; i < count; i++)
        for (ptrdiff_t k = 0; k < parts; k++) {
            const REAL *from = rows + i * pitch + columns[k];
            if (of == 1)
                N(add_row)(buffer + at[k * stride + i], from, widths[k]);
            else
                N(add_chunks)(buffer, at[k * stride + i], from, widths[k], part, of);
        }
}

/* Row i of `out` = the sum of the rows positions[starts[i] .. starts[i + 1]] of `rows`, in double precision where there
 * are many: added one after the other in single precision, a million times 0.1 is 100,958. */
static void N(sum_groups)(REAL *out, const REAL *rows, ptrdiff_t pitch, const int64_t *positions, const int64_t *starts,
                          ptrdiff_t groups, ptrdiff_t width, double *sums) {
    for (ptrdiff_t i = 0; i < groups; i++) {
        ptrdiff_t low = starts[i], high = starts[i + 1];
        REAL *to = out + i * width;
        if (high - low == 1) {
            __builtin_memcpy(to, rows + (positions ? positions[low] : low) * pitch, width * sizeof(REAL));
            continue;
        }
        for (ptrdiff_t j = 0; j < width; j++) sums[j] = 0.0;
        for (ptrdiff_t p = low; p < high; p++) {
            const REAL *from = rows + (positions ? positions[p] : p) * pitch;
            for (ptrdiff_t j = 0; j < width; j++) sums[j] += from[j];
        }
        for (ptrdiff_t j = 0; j < width; j++) to[j] = (REAL)sums[j];
    }
}

/* Row i of `out` = the largest of the same rows, elementwise, or the smallest; NaN where one is.
 * Of none it stays as it is. */
ALWAYS void N(extremes_of)(REAL *out, const REAL *rows, ptrdiff_t pitch, const int64_t *positions, const int64_t *starts,
                           ptrdiff_t groups, ptrdiff_t width, const int largest) {
    for (ptrdiff_t i = 0; i < groups; i++) {
        ptrdiff_t low = starts[i], high = starts[i + 1];
        REAL *to = out + i * width;
        if (low == high) continue;
        __builtin_memcpy(to, rows + (positions ? positions[low] : low) * pitch, width * sizeof(REAL));
        for (ptrdiff_t p = low + 1; p < high; p++) {
            const REAL *from = rows + (positions ? positions[p] : p) * pitch;
            for (ptrdiff_t j = 0; j < width; j++) {
                REAL a = to[j], b = from[j];
                to[j] = (largest ? a >= b : a <= b) || a != a ? a : b;
            }
        }
    }
}

/* Either of these; `sums` has room for a row. */
static void N(reduce_groups)(int how, void *out, const void *rows, ptrdiff_t pitch, const int64_t *positions,
                             const int64_t *starts, ptrdiff_t groups, ptrdiff_t width, double *sums) {
    if (how == LF_SUM)
        N(sum_groups)(out, rows, pitch, positions, starts, groups, width, sums);
    else if (how == LF_LARGEST)
        N(extremes_of)(out, rows, pitch, positions, starts, groups, width, 1);
    else
        N(extremes_of)(out, rows, pitch, positions, starts, groups, width, 0);
}

ALWAYS REAL N(largest)(const REAL *row, ptrdiff_t n) {
    REAL found = row[0];
    for (ptrdiff_t j = 1; j < n; j++) found = row[j] > found || row[j] != row[j] ? row[j] : found;
    return found;
}

/* out = exp(row - largest), and the sum of that; `out` has room for whole lanes. */
static double N(exponentials)(const REAL *row, ptrdiff_t n, REAL *out) {
    REAL top = N(largest)(row, n);
    for (ptrdiff_t j = 0; j < n; j++) out[j] = row[j] - top;
    ptrdiff_t whole = (n + LANES - 1) & ~(ptrdiff_t)(LANES - 1);
    for (ptrdiff_t j = n; j < whole; j++) out[j] = C(0.0);
    N(loop_exp)(out, out, whole);
    return N(row_sum)(out, n);
}

#define FEW 64 /* columns of rows that are taken side by side, at most */

/* Some rows of few columns, each in a lane of its own: what would be loops of a few elements are whole vectors. */
typedef struct {
    REAL terms[FEW][LANES], top[LANES]; /* exp(row - largest), and the largest */
    double total[LANES];                /* the sums of these */
} N(side);

/* The same as `exponentials` of up to LANES rows, to the bit. */
static void N(side_by_side)(N(side) *s, const REAL *row, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t n) {
    double part[LANES][LANES];
    for (ptrdiff_t j = 0; j < n; j++)
        for (ptrdiff_t i = 0; i < LANES; i++) s->terms[j][i] = i < rows ? row[i * pitch + j] : C(0.0);
    for (int i = 0; i < LANES; i++) s->top[i] = s->terms[0][i];
    for (ptrdiff_t j = 1; j < n; j++)
        for (int i = 0; i < LANES; i++) {
            REAL x = s->terms[j][i];
            s->top[i] = x > s->top[i] || x != x ? x : s->top[i];
        }
    for (ptrdiff_t j = 0; j < n; j++)
        for (int i = 0; i < LANES; i++) s->terms[j][i] -= s->top[i];
    N(loop_exp)(s->terms[0], s->terms[0], n * LANES);
    for (ptrdiff_t j = 0; j < n; j++)
        for (int i = 0; i < LANES; i++)
            part[j % LANES][i] = j < LANES ? s->terms[j][i] : part[j % LANES][i] + s->terms[j][i];
    for (ptrdiff_t half = LANES / 2, filled = n < LANES ? n : LANES; half; half /= 2)
        for (ptrdiff_t k = 0; k < half && k + half < filled; k++)
            for (int i = 0; i < LANES; i++) part[k][i] += part[k + half][i];
    for (int i = 0; i < LANES; i++) s->total[i] = part[0][i];
}

/* How many of the rows that are left are taken side by side, 0 if one alone is. */
ALWAYS ptrdiff_t N(beside)(ptrdiff_t left, ptrdiff_t n) { return n > FEW || left < 4 ? 0 : left < LANES ? left : LANES; }

/* The first of some rows whose index is no class, or -1. */
static ptrdiff_t N(no_class)(const int64_t *index, ptrdiff_t rows, ptrdiff_t classes) {
    for (ptrdiff_t i = 0; i < rows; i++)
        if (index[i] < 0 || index[i] >= classes) return i;
    return -1;
}

/* -log softmax(scores)[index] of each row. Returns the first row whose index is no class, or -1. */
static ptrdiff_t N(cross_entropy)(const void *scores_, ptrdiff_t pitch, const int64_t *index, void *out_, ptrdiff_t step,
                                  ptrdiff_t rows, ptrdiff_t classes, void *scratch_) {
    const REAL *scores = scores_;
    REAL *out = out_;
    REAL *scratch = scratch_;
    ptrdiff_t wrong = N(no_class)(index, rows, classes);
    N(side) side;
    for (ptrdiff_t i = 0, some; wrong < 0 && i < rows; i += some ? some : 1) {
        const REAL *row = scores + i * pitch;
        some = N(beside)(rows - i, classes);
        if (some) {
            N(side_by_side)(&side, row, pitch, some, classes);
            D(loop_log)(side.total, side.total, LANES);
            for (ptrdiff_t k = 0; k < some; k++)
                out[(i + k) * step] = (REAL)side.total[k] - (row[k * pitch + index[i + k]] - side.top[k]);
        } else {
            double total = N(exponentials)(row, classes, scratch);
            out[i * step] = (REAL)D(log)(total) - (row[index[i]] - N(largest)(row, classes));
        }
    }
    return wrong;
}

/* A row of slopes from the terms of its softmax, `stride` apart. Where nothing is asked for, they are zero, whatever the
 * scores are. */
ALWAYS void N(slopes_of)(const REAL *terms, ptrdiff_t stride, REAL total, REAL share, ptrdiff_t index, REAL *to, ptrdiff_t n) {
    if (share == C(0.0)) {
        N(fill)(to, C(0.0), n);
        return;
    }
    for (ptrdiff_t j = 0; j < n; j++) to[j] = terms[j * stride] / total * share;
    to[index] -= share;
}

/* Its slopes in the scores, (softmax(scores) - one_hot(index)) * share. */
static ptrdiff_t N(cross_entropy_slopes)(const void *scores_, ptrdiff_t pitch, const int64_t *index, const void *share_,
                                         ptrdiff_t step, void *out_, ptrdiff_t out_pitch, ptrdiff_t rows,
                                         ptrdiff_t classes, void *scratch_) {
    const REAL *scores = scores_;
    const REAL *share = share_;
    REAL *out = out_;
    REAL *scratch = scratch_;
    ptrdiff_t wrong = N(no_class)(index, rows, classes);
    N(side) side;
    for (ptrdiff_t i = 0, some; wrong < 0 && i < rows; i += some ? some : 1) {
        some = N(beside)(rows - i, classes);
        if (some) {
            N(side_by_side)(&side, scores + i * pitch, pitch, some, classes);
            for (ptrdiff_t k = 0; k < some; k++)
                N(slopes_of)(&side.terms[0][k], LANES, (REAL)side.total[k], share[(i + k) * step], index[i + k],
                             out + (i + k) * out_pitch, classes);
        } else {
            REAL total = (REAL)N(exponentials)(scores + i * pitch, classes, scratch);
            N(slopes_of)(scratch, 1, total, share[i * step], index[i], out + i * out_pitch, classes);
        }
    }
    return wrong;
}

/* The sum of products in double precision, in an order that no instruction set changes. */
static double N(row_dot)(const REAL *a, const REAL *b, ptrdiff_t n) {
    double part[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) part[k] += (double)a[i + k] * b[i + k];
    for (; i < n; i++) part[i & (LANES - 1)] += (double)a[i] * b[i];
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) part[k] += part[k + half];
    return part[0];
}

/* What elements are off their mean, counted from the first of them, so that equal ones are off by nothing. Returns one over
 * their root mean square, to which `eps` is added. */
static double N(centre)(const REAL *row, ptrdiff_t n, double eps, REAL *out) {
    REAL first = ABS(row[0]) <= C(0.25) * (IS_FLOAT ? (REAL)FLT_MAX : (REAL)DBL_MAX) ? row[0] : C(0.0);
    for (ptrdiff_t j = 0; j < n; j++) out[j] = row[j] - first;
    REAL mean = (REAL)(N(row_sum)(out, n) / n);
    for (ptrdiff_t j = 0; j < n; j++) out[j] -= mean;
    return 1.0 / sqrt(N(row_dot)(out, out, n) / n + eps);
}

/* Cotangents of a softmax: where one is zero, so is its product with whatever the value is. */
static void N(softmax_slopes)(const REAL *y, const REAL *g, REAL *out, ptrdiff_t n) {
    for (ptrdiff_t j = 0; j < n; j++) out[j] = g[j] == C(0.0) ? C(0.0) : g[j] * y[j];
    REAL sum = (REAL)N(row_sum)(out, n);
    if (sum == C(0.0)) return;
    for (ptrdiff_t j = 0; j < n; j++) out[j] -= sum * y[j];
}

static void N(log_softmax_slopes)(const REAL *y, const REAL *g, REAL *out, ptrdiff_t n, REAL *scratch) {
    REAL sum = (REAL)N(row_sum)(g, n);
    ptrdiff_t whole = (n + LANES - 1) & ~(ptrdiff_t)(LANES - 1);
    for (ptrdiff_t j = 0; j < whole; j++) scratch[j] = j < n ? y[j] : C(0.0);
    N(loop_exp)(scratch, scratch, whole);
    for (ptrdiff_t j = 0; j < n; j++) out[j] = sum == C(0.0) ? g[j] : g[j] - sum * scratch[j];
}

static void N(standardise_slopes)(const REAL *x, const REAL *y, const REAL *g, REAL *out, ptrdiff_t n, double eps,
                                  REAL *scratch) {
    REAL any = C(0.0);
    for (ptrdiff_t j = 0; j < n; j++) any = g[j] == C(0.0) ? any : C(1.0);
    if (any == C(0.0)) { /* nothing is asked for, whatever the values are */
        N(fill)(out, C(0.0), n);
        return;
    }
    REAL scale = (REAL)N(centre)(x, n, eps, scratch), mean = (REAL)(N(row_sum)(g, n) / n);
    REAL along = (REAL)(N(row_dot)(g, y, n) / n);
    for (ptrdiff_t j = 0; j < n; j++) out[j] = scale * (g[j] - mean - along * y[j]);
}

/* A softmax, or its logarithm, of some rows side by side. */
static void N(softmax_beside)(const REAL *x, REAL *out, ptrdiff_t rows, ptrdiff_t n, const int is_log) {
    N(side) s;
    N(side_by_side)(&s, x, n, rows, n);
    if (is_log) D(loop_log)(s.total, s.total, LANES);
    for (ptrdiff_t k = 0; k < rows; k++)
        for (ptrdiff_t j = 0; j < n; j++)
            out[k * n + j] = is_log ? x[k * n + j] - s.top[k] - (REAL)s.total[k] : s.terms[j][k] / (REAL)s.total[k];
}

/* See lf_along. */
static void N(along)(int what, const void *x_, const void *y_, const void *g_, void *out_, ptrdiff_t rows, ptrdiff_t n,
                     double eps, void *scratch_) {
    const REAL *x = x_, *y = y_, *g = g_;
    REAL *out = out_, *scratch = scratch_;
    for (ptrdiff_t i = 0, some; i < rows * n; i += n * (some ? some : 1)) {
        some = what == LF_SOFTMAX || what == LF_LOG_SOFTMAX ? N(beside)(rows - i / n, n) : 0;
        if (some) {
            N(softmax_beside)(x + i, out + i, some, n, what == LF_LOG_SOFTMAX);
        } else if (what == LF_SOFTMAX) {
            REAL total = (REAL)N(exponentials)(x + i, n, scratch);
            for (ptrdiff_t j = 0; j < n; j++) out[i + j] = scratch[j] / total;
        } else if (what == LF_LOG_SOFTMAX) {
            REAL top = N(largest)(x + i, n), total = (REAL)D(log)(N(exponentials)(x + i, n, scratch));
            for (ptrdiff_t j = 0; j < n; j++) out[i + j] = x[i + j] - top - total;
        } else if (what == LF_STANDARDISE) {
            REAL scale = (REAL)N(centre)(x + i, n, eps, scratch);
            for (ptrdiff_t j = 0; j < n; j++) out[i + j] = scale * scratch[j];
        } else if (what == LF_SOFTMAX_SLOPES) {
            N(softmax_slopes)(y + i, g + i, out + i, n);
        } else if (what == LF_LOG_SOFTMAX_SLOPES) {
            N(log_softmax_slopes)(y + i, g + i, out + i, n, scratch);
        } else {
            N(standardise_slopes)(x + i, y + i, g + i, out + i, n, eps, scratch);
        }
    }
}

#undef WIDE
#undef CHUNK
#undef FEW
