/* Attention: included once for each type and instruction set, behind rows.h. See machine.h. */

#include "multiply.h"
#define WHOLE(n) (((n) + LANES - 1) & ~(ptrdiff_t)(LANES - 1))

/* A matrix whose rows are whole vectors that may be read. */
typedef struct {
    const REAL *at;
    ptrdiff_t pitch;
} N(wide);

/* out = a b, (rows, columns). */
static void N(multiply)(REAL *out, ptrdiff_t pitch, N(matrix) a, N(wide) b, ptrdiff_t rows, ptrdiff_t columns,
                        ptrdiff_t inner) {
    N(multiplied)(out, pitch, a, b.at, b.pitch, rows, columns, inner, 0, 1);
}

/* The same, added to what is there. */
static void N(multiply_on)(REAL *out, ptrdiff_t pitch, N(matrix) a, N(wide) b, ptrdiff_t rows, ptrdiff_t columns,
                           ptrdiff_t inner) {
    N(multiplied)(out, pitch, a, b.at, b.pitch, rows, columns, inner, 1, 1);
}

/* The transpose of some rows, its own filled up to whole vectors. */
static N(wide) N(upright)(REAL *to, const REAL *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t columns) {
    ptrdiff_t whole = WHOLE(rows);
    for (ptrdiff_t j = 0; j < columns; j++) {
        for (ptrdiff_t i = 0; i < rows; i++) to[j * whole + i] = from[i * pitch + j];
        for (ptrdiff_t i = rows; i < whole; i++) to[j * whole + i] = C(0.0);
    }
    return (N(wide)){to, whole};
}

/* Some rows as they lie, or copied and filled up. */
static N(wide) N(filled)(REAL *to, const REAL *from, ptrdiff_t pitch, ptrdiff_t rows, ptrdiff_t columns) {
    ptrdiff_t whole = WHOLE(columns);
    if (columns % PER_LANE == 0) return (N(wide)){from, pitch};
    for (ptrdiff_t i = 0; i < rows; i++)
        for (ptrdiff_t j = 0; j < whole; j++) to[i * whole + j] = j < columns ? from[i * pitch + j] : C(0.0);
    return (N(wide)){to, whole};
}

/* A row of scores times `scale`, of which the first `seen` are seen; `whole` of them may be written. */
static void N(scale_row)(REAL *row, ptrdiff_t seen, ptrdiff_t whole, REAL scale) {
    for (ptrdiff_t j = 0; j < seen; j++) row[j] *= scale;
    for (ptrdiff_t j = seen; j < whole; j++) row[j] = -(REAL)HUGE_VAL;
}

/* Softmax of a row. A NaN or nothing but negative infinities make a row of NaN. */
static void N(weigh_row)(REAL *row, ptrdiff_t n, ptrdiff_t whole) {
    REAL most[LANES];
    for (int k = 0; k < LANES; k++) most[k] = row[k];
    for (ptrdiff_t j = LANES; j < whole; j += LANES)
        for (int k = 0; k < LANES; k++) most[k] = row[j + k] > most[k] ? row[j + k] : most[k];
    REAL top = -(REAL)HUGE_VAL;
    for (int k = 0; k < LANES; k++) top = most[k] > top ? most[k] : top;
    for (ptrdiff_t j = 0; j < whole; j++) row[j] -= top;
    N(loop_exp)(row, row, whole);
    REAL total = (REAL)N(row_sum)(row, n);
    for (ptrdiff_t j = 0; j < whole; j++) row[j] /= total;
}

/* One head of one node: where its matrices begin, their rows and columns; `from` is the first of its queries that is done
 * at once. */
typedef struct {
    const lf_attention *v;
    const REAL *q, *k, *value;
    ptrdiff_t n, m;
    REAL *scores, *slopes, *of_k, *of_value, *more, *to_mask, *weights;
    N(wide) keys;
    const unsigned char *truths; /* of the mask, from this head on; or numbers */
    const REAL *numbers, *kept;
    ptrdiff_t mask_pitch;
} N(head);

/* What the mask makes of the scores of query `i`; 0 if it sees nothing then. */
static int N(mask_row)(const N(head) *h, REAL *row, ptrdiff_t i) {
    int hides = h->v->masked == LF_HIDDEN, any = 0;
    if (h->numbers)
        for (ptrdiff_t j = 0; j < h->m; j++) row[j] += h->numbers[i * h->mask_pitch + j];
    else
        for (ptrdiff_t j = 0; j < h->m; j++)
            row[j] = (h->truths[i * h->mask_pitch + j] != 0) != hides ? row[j] : -(REAL)HUGE_VAL;
    for (ptrdiff_t j = 0; j < h->m; j++) any |= row[j] != -(REAL)HUGE_VAL;
    return any;
}

/* Rows of weights, or of their cotangents, times what is kept of them: zero where nothing is. */
static void N(keep)(const N(head) *h, REAL *rows, ptrdiff_t first, ptrdiff_t count) {
    if (!h->kept) return;
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL *row = rows + i * h->keys.pitch;
        const REAL *kept = h->kept + (first + i) * h->m;
        for (ptrdiff_t j = 0; j < h->m; j++) row[j] = kept[j] == 0 ? 0 : kept[j] * row[j];
    }
}

/* The weights of `rows` queries. */
static void N(weights)(const N(head) *h, ptrdiff_t first, ptrdiff_t rows) {
    const lf_attention *v = h->v;
    ptrdiff_t whole = h->keys.pitch;
    N(multiply)(h->scores, whole, (N(matrix)){h->q + first * v->q_pitch, v->q_pitch, 1}, h->keys, rows, whole, v->width);
    for (ptrdiff_t i = 0; i < rows; i++) {
        ptrdiff_t seen = v->causal && first + i + 1 < h->m ? first + i + 1 : h->m;
        REAL *row = h->scores + i * whole;
        N(scale_row)(row, seen, whole, (REAL)v->scale);
        if (!v->masked || N(mask_row)(h, row, first + i))
            N(weigh_row)(row, h->m, whole);
        else
            __builtin_memset(row, 0, whole * sizeof(REAL));
    }
}

static void N(attend_head)(const N(head) *h, REAL *out) {
    const lf_attention *v = h->v;
    N(wide) values = N(filled)(h->of_value, h->value, v->v_pitch, h->m, v->v_width);
    for (ptrdiff_t i = 0; i < h->n; i += ATTENDED) {
        ptrdiff_t rows = h->n - i < ATTENDED ? h->n - i : ATTENDED;
        N(weights)(h, i, rows);
        N(keep)(h, h->scores, i, rows);
        for (ptrdiff_t r = 0; h->weights && r < rows; r++)
            __builtin_memcpy(h->weights + (i + r) * h->m, h->scores + r * h->keys.pitch, h->m * sizeof(REAL));
        N(multiply)(out + i * v->out_pitch, v->out_pitch, (N(matrix)){h->scores, h->keys.pitch, 1}, values, rows,
                    v->v_width, h->m);
    }
}

/* The slopes of the scores of `rows` queries, in place of the cotangents of their weights. */
static void N(scores_back)(const N(head) *h, ptrdiff_t first, ptrdiff_t rows) {
    ptrdiff_t whole = h->keys.pitch;
    for (ptrdiff_t i = 0; i < rows; i++) {
        REAL *p = h->scores + i * whole, *s = h->slopes + i * whole, scale = (REAL)h->v->scale;
        REAL along = (REAL)N(row_dot)(p, s, h->m);
        REAL *to_mask = h->to_mask + (h->to_mask ? (first + i) * h->m : 0);
        for (ptrdiff_t j = 0; j < whole; j++) s[j] = p[j] * (s[j] - along);
        for (ptrdiff_t j = 0; h->to_mask && j < h->m; j++) to_mask[j] = s[j];
        for (ptrdiff_t j = 0; j < whole; j++) s[j] *= scale;
    }
}

/* Cotangents of queries, keys and values from those of the result, `g`; of each that is wanted. */
static void N(attend_head_back)(const N(head) *h, const REAL *g, REAL *to_q, REAL *to_k, REAL *to_value) {
    const lf_attention *v = h->v;
    ptrdiff_t whole = h->keys.pitch, width = v->width, v_width = v->v_width, pitch = v->heads * width,
              v_pitch = v->heads * v_width;
    N(wide) values = {0}, keys = {0};
    int slopes = to_q || to_k || h->to_mask;
    if (slopes) values = N(upright)(h->of_value, h->value, v->v_pitch, h->m, v_width);
    if (to_q) keys = N(filled)(h->of_k, h->k, v->k_pitch, h->m, width);
    for (ptrdiff_t i = 0; i < h->n; i += ATTENDED) {
        ptrdiff_t rows = h->n - i < ATTENDED ? h->n - i : ATTENDED;
        const REAL *from = g + i * v->out_pitch, *q = h->q + i * v->q_pitch;
        N(matrix) turned = {h->slopes, 1, whole}, weights = {h->scores, 1, whole};
        N(weights)(h, i, rows);
        if (slopes) {
            N(multiply)(h->slopes, whole, (N(matrix)){from, v->out_pitch, 1}, values, rows, whole, v_width);
            for (ptrdiff_t r = 0; h->weights && r < rows; r++)
                __builtin_memcpy(h->slopes + r * whole, h->weights + (i + r) * h->m, h->m * sizeof(REAL));
            N(keep)(h, h->slopes, i, rows);
            N(scores_back)(h, i, rows);
        }
        if (to_q) N(multiply)(to_q + i * pitch, pitch, (N(matrix)){h->slopes, whole, 1}, keys, rows, width, h->m);
        if (to_k)
            N(multiply_on)(to_k, pitch, turned, N(filled)(h->more, q, v->q_pitch, rows, width), h->m, width, rows);
        N(keep)(h, h->scores, i, rows);
        if (to_value)
            N(multiply_on)(to_value, v_pitch, weights, N(filled)(h->more, from, v->out_pitch, rows, v_width), h->m, v_width,
                           rows);
    }
}

/* Where mask and factors of a head begin, behind `area` pairs of queries and keys of other nodes, and `before` keys. */
static void N(set_mask)(N(head) *h, ptrdiff_t head, ptrdiff_t area, ptrdiff_t before) {
    const lf_attention *v = h->v;
    ptrdiff_t mine = h->n * h->m, by_head = area * v->heads + head * mine;
    h->kept = v->kept ? (const REAL *)v->kept + (v->kept_each ? by_head : head * mine) : NULL;
    h->to_mask = v->to_mask ? (REAL *)v->to_mask + by_head : NULL;
    h->weights = v->weights ? (REAL *)v->weights + by_head : NULL;
    if (!v->masked) return;
    ptrdiff_t at = v->mask_of == LF_OF_HEADS ? head * mine : 0;
    if (v->mask_each) at = v->mask_of == LF_OF_HEADS ? by_head : v->mask_of == LF_OF_ALL ? area : before;
    h->mask_pitch = v->mask_of == LF_OF_KEYS ? 0 : h->m;
    h->numbers = v->masked == LF_ADDED ? (const REAL *)v->mask + at : NULL;
    h->truths = v->masked == LF_ADDED ? NULL : (const unsigned char *)v->mask + at;
}

/* How many rows a node has, of queries (0) or keys (1). */
static ptrdiff_t N(rows_of)(const lf_attention *v, int kind, ptrdiff_t node) {
    const int64_t *ends = v->ends + kind * v->nodes;
    return ends[node] - (node ? ends[node - 1] : 0);
}

/* Heads `low` to `high`, counted through all nodes; `scratch`: see lf_attend. */
static void N(attend)(const lf_attention *v, ptrdiff_t low, ptrdiff_t high, void *scratch_) {
    REAL *scratch = scratch_;
    ptrdiff_t most = WHOLE(v->most), widest = WHOLE(v->width > v->v_width ? v->width : v->v_width);
    N(head) h = {.v = v, .scores = scratch};
    h.slopes = h.scores + ATTENDED * most;
    REAL *keys = h.slopes + ATTENDED * most;
    h.of_k = keys + widest * most;
    h.of_value = h.of_k + widest * most;
    h.more = h.of_value + widest * most;
    ptrdiff_t area = 0, first = 0; /* pairs of queries and keys of nodes before the first that is not */
    for (ptrdiff_t at = low; at < high; at++) {
        ptrdiff_t node = at / v->heads, head = at % v->heads, width = head * v->width, v_width = head * v->v_width;
        for (; first < node; first++) area += N(rows_of)(v, 0, first) * N(rows_of)(v, 1, first);
        ptrdiff_t i = node ? v->ends[node - 1] : 0, j = node ? v->ends[v->nodes + node - 1] : 0;
        h.n = v->ends[node] - i, h.m = v->ends[v->nodes + node] - j;
        h.q = (const REAL *)v->q + i * v->q_pitch + width, h.k = (const REAL *)v->k + j * v->k_pitch + width;
        h.value = (const REAL *)v->v + j * v->v_pitch + v_width;
        h.keys = N(upright)(keys, h.k, v->k_pitch, h.m, v->width);
        N(set_mask)(&h, head, area, j);
        REAL *out = (REAL *)v->out + i * v->out_pitch + v_width;
        if (!v->back) {
            N(attend_head)(&h, out);
            continue;
        }
        REAL *to_q = (REAL *)v->to_q + (v->to_q ? i * v->heads * v->width + width : 0);
        REAL *to_k = (REAL *)v->to_k + (v->to_k ? j * v->heads * v->width + width : 0);
        REAL *to_v = (REAL *)v->to_v + (v->to_v ? j * v->heads * v->v_width + v_width : 0);
        N(attend_head_back)(&h, out, to_q, to_k, to_v);
    }
}

#undef MOST_LANES
#undef SUM
#undef PER_LANE
#undef UNROLLED
#undef WHOLE
#undef TALL
#undef BROAD
#undef DOTS
#undef NEAR
