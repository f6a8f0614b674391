/* Convolutions: included once for each type and instruction set. See images.h. */

#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
#define MOST_LANES (VECTOR_BYTES / 4)
typedef REAL N(lane) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));

/* a * b + c in one rounding, where the set has that. */
#if VECTOR_BYTES == 64 && IS_FLOAT
#define SUM(a, b, c) (N(lane))_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#elif VECTOR_BYTES == 64
#define SUM(a, b, c) (N(lane))_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#elif VECTOR_BYTES == 32 && IS_FLOAT
#define SUM(a, b, c) (N(lane))_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#elif VECTOR_BYTES == 32
#define SUM(a, b, c) (N(lane))_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#else
#define SUM(a, b, c) ((a) * (b) + (c))
#endif

/* As many registers as there are: results at a time in a product, and rows and columns of them in one over places. */
#if VECTOR_BYTES == 64
#define MANY 8
#define MAPS 4
#define TERMS 6
#else
#define MANY 4
#define MAPS 3
#define TERMS 4
#endif
#define WIDE 3

/* out[i][p] = sum over k of weight[k][i] * planes[at[k] + p], for `many` i and `wide` vectors of places. */
ALWAYS void N(tile)(REAL *out, ptrdiff_t pitch, const REAL *weight, const REAL *planes, const int64_t *at, ptrdiff_t terms,
                    const int many, const int wide) {
    N(lane) sums[MANY][WIDE];
    for (int i = 0; i < many; i++)
        for (int j = 0; j < wide; j++) sums[i][j] = (N(lane)){0};
    for (ptrdiff_t k = 0; k < terms; k++, weight += many) {
        const REAL *from = planes + at[k];
        N(lane) x[WIDE];
        for (int j = 0; j < wide; j++) x[j] = *(const N(lane) *)(from + j * LANES);
        for (int i = 0; i < many; i++) {
            N(lane) w = weight[i] - (N(lane)){0};
            for (int j = 0; j < wide; j++) sums[i][j] = SUM(w, x[j], sums[i][j]);
        }
    }
    for (int i = 0; i < many; i++)
        for (int j = 0; j < wide; j++) *(N(lane) *)(out + i * pitch + j * LANES) = sums[i][j];
}

/* How many of the results that are left are computed at a time. */
ALWAYS ptrdiff_t N(at_a_time)(ptrdiff_t left) { return left >= MANY ? MANY : left >= 4 ? 4 : left >= 2 ? 2 : 1; }

/* Weights in the order in which they are read: of result i and term k that at i * stride + of[k]. */
static void N(pack)(REAL *to, const REAL *weight, ptrdiff_t stride, const int64_t *of, ptrdiff_t terms, ptrdiff_t results) {
    for (ptrdiff_t i = 0, many; i < results; i += many) {
        many = N(at_a_time)(results - i);
        for (ptrdiff_t k = 0; k < terms; k++)
            for (ptrdiff_t r = 0; r < many; r++) *to++ = weight[(i + r) * stride + of[k]];
    }
}

/* The product of packed weights with stretches of planes, for all `places`, which are whole vectors. */
static void N(product)(REAL *out, ptrdiff_t pitch, const REAL *packed, const REAL *planes, const int64_t *at,
                       ptrdiff_t terms, ptrdiff_t results, ptrdiff_t places) {
    for (ptrdiff_t p = 0, wide; p < places; p += wide * LANES) {
        wide = places - p >= WIDE * LANES ? WIDE : 1;
        const REAL *weight = packed;
        for (ptrdiff_t i = 0, many; i < results; i += many, weight += many * terms) {
            many = N(at_a_time)(results - i);
            REAL *to = out + i * pitch + p;
#define SOME(m)                                                                                    \
    if (many == m && wide == WIDE) N(tile)(to, pitch, weight, planes + p, at, terms, m, WIDE); \
    if (many == m && wide == 1) N(tile)(to, pitch, weight, planes + p, at, terms, m, 1)
#if MANY == 8
            SOME(8);
#endif
            SOME(4);
            SOME(2);
            SOME(1);
#undef SOME
        }
    }
}

/* to[i][k] += sum over p of maps[i][p] * planes[at[k] + p], for `many` i and `some` k. */
ALWAYS void N(corner)(REAL *to, ptrdiff_t pitch, const REAL *maps, ptrdiff_t length, const REAL *planes, const int64_t *at,
                      ptrdiff_t places, const int many, const int some) {
    N(lane) sums[MAPS][TERMS];
    for (int i = 0; i < many; i++)
        for (int k = 0; k < some; k++) sums[i][k] = (N(lane)){0};
    const REAL *from[TERMS];
    for (int k = 0; k < some; k++) from[k] = planes + at[k];
    for (ptrdiff_t p = 0; p < places; p += LANES) {
        N(lane) g[MAPS];
        for (int i = 0; i < many; i++) g[i] = *(const N(lane) *)(maps + i * length + p);
        for (int k = 0; k < some; k++) {
            N(lane) x = *(const N(lane) *)(from[k] + p);
            for (int i = 0; i < many; i++) sums[i][k] = SUM(g[i], x, sums[i][k]);
        }
    }
    for (int i = 0; i < many; i++)
        for (int k = 0; k < some; k++) {
            REAL part[MOST_LANES];
            __builtin_memcpy(part, &sums[i][k], sizeof sums[i][k]);
            for (int half = LANES / 2; half; half /= 2)
                for (int r = 0; r < half; r++) part[r] += part[r + half];
            to[i * pitch + k] += part[0];
        }
}

#define STRETCH 2048 /* places, of which what is read of maps and planes stays in the cache */

/* The product of maps, `length` places each, with stretches of planes, added to (results, terms). */
static void N(outer)(REAL *to, const REAL *maps, ptrdiff_t length, const REAL *planes, const int64_t *at, ptrdiff_t terms,
                     ptrdiff_t results, ptrdiff_t whole) {
    for (ptrdiff_t p = 0; p < whole; p += STRETCH) {
        ptrdiff_t places = whole - p < STRETCH ? whole - p : STRETCH;
        for (ptrdiff_t i = 0, many; i < results; i += many) {
            many = results - i >= MAPS ? MAPS : 1;
            for (ptrdiff_t k = 0, some; k < terms; k += some) {
                some = terms - k >= TERMS ? TERMS : 1;
                REAL *into = to + i * terms + k;
                const REAL *g = maps + i * length + p;
#define SOME(m, s)             \
    if (many == m && some == s) \
    N(corner)(into, terms, g, length, planes + p, at + k, places, m, s)
                SOME(MAPS, TERMS);
                SOME(MAPS, 1);
                SOME(1, TERMS);
                SOME(1, 1);
#undef SOME
            }
        }
    }
}

/* Images into planes, `length` places each, which are zero before; or planes into images. */
ALWAYS void N(move)(REAL *planes, ptrdiff_t length, const lf_places *s, REAL *images, ptrdiff_t pitch, ptrdiff_t channels,
                    ptrdiff_t count, const int back) {
    for (ptrdiff_t b = 0; b < count; b++)
        for (ptrdiff_t row = 0; row < channels * s->lead * s->rows; row++) {
            ptrdiff_t c = row / (s->lead * s->rows), rest = row % (s->lead * s->rows), from = s->row_from[rest];
            if (from < 0) continue;
            ptrdiff_t plane = (c * s->lead + rest / s->rows) * s->last, place = (b * s->rows + rest % s->rows) * s->pitch;
            for (ptrdiff_t e = 0; e < s->last; e++) {
                REAL *here = planes + (plane + e) * length + place + s->begin[e];
                REAL *there = images + b * pitch + c * s->size + from + s->from[e];
                if (back && s->step > 1)
                    for (ptrdiff_t i = 0; i < s->count[e]; i++) there[i * s->step] = here[i];
                else if (s->step > 1)
                    for (ptrdiff_t i = 0; i < s->count[e]; i++) here[i] = there[i * s->step];
                else if (back)
                    __builtin_memcpy(there, here, s->count[e] * sizeof(REAL));
                else
                    __builtin_memcpy(here, there, s->count[e] * sizeof(REAL));
            }
        }
}

/* Maps into planes of one step, or these into maps, each with a number added. */
ALWAYS void N(move_maps)(REAL *planes, ptrdiff_t length, const lf_places *s, REAL *maps, ptrdiff_t pitch, ptrdiff_t count,
                         ptrdiff_t images, const REAL *bias, const int back) {
    for (ptrdiff_t b = 0; b < images; b++)
        for (ptrdiff_t o = 0; o < count; o++)
            for (ptrdiff_t r = 0; r < s->map_rows; r++) {
                REAL *here = planes + o * length + (b * s->rows + s->map_row[r]) * s->pitch;
                REAL *there = maps + b * pitch + (o * s->map_rows + r) * s->width;
                if (!back)
                    __builtin_memcpy(here, there, s->width * sizeof(REAL));
                else if (!bias)
                    __builtin_memcpy(there, here, s->width * sizeof(REAL));
                else
                    for (ptrdiff_t j = 0; j < s->width; j++) there[j] = here[j] + bias[o];
            }
}

/* What one group of some images needs: see images.h. `terms` of the product: their places in planes, and in a weight. */
typedef struct {
    const lf_convolution *all;
    const lf_places *s;
    ptrdiff_t count, places, length; /* images; their places, in whole vectors; these and the margin */
    REAL *planes, *maps, *packed;
    int64_t *at, *of;
} N(work);

/* The images as planes, and where in these the terms of a channel's and a kernel's element begin. */
static void N(lay_images)(N(work) *w, REAL *image) {
    const lf_places *s = w->s;
    ptrdiff_t channels = w->all->channels, planes = s->lead * s->last;
    __builtin_memset(w->planes, 0, channels * planes * w->length * sizeof(REAL));
    N(move)(w->planes, w->length, s, image, w->all->image_pitch, channels, w->count, 0);
    for (ptrdiff_t k = 0; k < channels * s->taps; k++) {
        w->at[k] = (k / s->taps * planes + s->plane[k % s->taps]) * w->length + s->shift[k % s->taps];
        w->of[k] = k;
    }
}

static void N(correlate)(N(work) *w, REAL *image, REAL *map, const REAL *weight, const REAL *bias) {
    ptrdiff_t maps = w->all->maps, terms = w->all->channels * w->s->taps;
    N(lay_images)(w, image);
    N(pack)(w->packed, weight, terms, w->of, terms, maps);
    N(product)(w->maps, w->places, w->packed, w->planes, w->at, terms, maps, w->places);
    N(move_maps)(w->maps, w->places, w->s, map, w->all->map_pitch, maps, w->count, bias, 1);
}

/* The elements of the kernel that reach plane f, for all maps; returns how many terms there are. */
static ptrdiff_t N(terms_of_plane)(N(work) *w, ptrdiff_t f) {
    const lf_places *s = w->s;
    ptrdiff_t terms = 0;
    for (ptrdiff_t o = 0; o < w->all->maps; o++)
        for (ptrdiff_t t = 0; t < s->taps; t++)
            if (s->plane[t] == f) {
                w->at[terms] = o * w->length + s->margin - s->shift[t];
                w->of[terms++] = o * w->all->channels * s->taps + t;
            }
    return terms;
}

static void N(add_bias)(REAL *image, ptrdiff_t size, ptrdiff_t channels, const REAL *bias) {
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t i = 0; i < size; i++) image[c * size + i] += bias[c];
}

static void N(spread)(N(work) *w, REAL *image, REAL *map, const REAL *weight, const REAL *bias) {
    const lf_places *s = w->s;
    ptrdiff_t channels = w->all->channels, maps = w->all->maps, planes = s->lead * s->last;
    __builtin_memset(w->maps, 0, maps * w->length * sizeof(REAL));
    N(move_maps)(w->maps + s->margin, w->length, s, map, w->all->map_pitch, maps, w->count, NULL, 0);
    for (ptrdiff_t f = 0; f < planes; f++) {
        ptrdiff_t terms = N(terms_of_plane)(w, f);
        N(pack)(w->packed, weight, s->taps, w->of, terms, channels);
        N(product)(w->planes + f * w->length, planes * w->length, w->packed, w->maps, w->at, terms, channels, w->places);
    }
    for (ptrdiff_t b = 0; b < w->count; b++)
        __builtin_memset(image + b * w->all->image_pitch, 0, channels * s->size * sizeof(REAL));
    N(move)(w->planes, w->length, s, image, w->all->image_pitch, channels, w->count, 1);
    for (ptrdiff_t b = 0; bias && b < w->count; b++)
        N(add_bias)(image + b * w->all->image_pitch, s->size, channels, bias);
}

/* Maps `low` to `high` (not included) of the group. */
static void N(weigh)(N(work) *w, REAL *image, REAL *map, REAL *weight, ptrdiff_t low, ptrdiff_t high) {
    const lf_places *s = w->s;
    ptrdiff_t terms = w->all->channels * s->taps;
    N(lay_images)(w, image);
    __builtin_memset(w->maps, 0, (high - low) * w->length * sizeof(REAL));
    N(move_maps)(w->maps, w->length, s, map + low * s->map_rows * s->width, w->all->map_pitch, high - low, w->count, NULL, 0);
    N(outer)(weight + low * terms, w->maps, w->length, w->planes, w->at, terms, high - low, w->places);
}

/* One of the products, for images `low` to `high` or, of weights, for these maps; `at_once` images at a time. */
static int N(convolve)(const lf_convolution *v, int what, ptrdiff_t at_once, ptrdiff_t low, ptrdiff_t high) {
    const lf_places *s = v->places;
    ptrdiff_t places = (at_once * s->rows * s->pitch + LANES - 1) / LANES * LANES, length = places + s->margin;
    ptrdiff_t planes = v->channels * s->lead * s->last * length, maps = v->maps * length;
    ptrdiff_t weights = v->channels * v->maps * s->taps, most = (v->channels > v->maps ? v->channels : v->maps) * s->taps;
    char *memory = malloc((planes + maps + weights) * sizeof(REAL) + 2 * most * sizeof(int64_t) + 16);
    if (!memory) return 0;
    int64_t *at = (int64_t *)memory;
    REAL *numbers = (REAL *)(at + 2 * most);
    N(work) w = {v, s, 0, 0, length, numbers, numbers + planes, numbers + planes + maps, at, at + most};
    ptrdiff_t begin = what == WEIGH ? 0 : low, end = what == WEIGH ? v->images : high;
    for (ptrdiff_t b = begin; b < end; b += at_once)
        for (ptrdiff_t g = 0; g < v->groups; g++) {
            w.count = end - b < at_once ? end - b : at_once;
            w.places = (w.count * s->rows * s->pitch + LANES - 1) / LANES * LANES;
            REAL *image = (REAL *)v->image + b * v->image_pitch + g * v->channels * s->size;
            REAL *map = (REAL *)v->map + b * v->map_pitch + g * v->maps * s->map_rows * s->width;
            REAL *weight = (REAL *)v->weight + g * weights;
            const REAL *bias = (const REAL *)v->bias + (v->bias ? g * (what == SPREAD ? v->channels : v->maps) : 0);
            if (what == CORRELATE) N(correlate)(&w, image, map, weight, bias);
            if (what == SPREAD) N(spread)(&w, image, map, weight, bias);
            if (what == WEIGH) N(weigh)(&w, image, map, weight, low, high);
        }
    free(memory);
    return 1;
}

/* to[j] = the larger of it and from[j * stride], NaN if one is. */
ALWAYS void N(larger)(REAL *to, const REAL *from, const ptrdiff_t stride, ptrdiff_t count) {
    for (ptrdiff_t j = 0; j < count; j++) {
        REAL x = from[j * stride];
        to[j] = x > to[j] || x != x ? x : to[j];
    }
}

/* The largest elements of windows along the last axis, of `rows` rows. */
static void N(max_of_rows)(const lf_axis *v, const REAL *from, REAL *to, ptrdiff_t rows) {
    if (v->stride * v->out == v->size && !v->before) /* row follows row */
        for (ptrdiff_t t = 0; t < v->kernel && v->kernel <= v->stride && v->dilation == 1; t++) {
            if (v->stride == 2)
                N(larger)(to, from + t, 2, rows * v->out);
            else
                N(larger)(to, from + t, v->stride, rows * v->out);
            if (t == v->kernel - 1) return;
        }
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t t = 0; t < v->kernel; t++) {
            within k = windows_with(v, t);
            const REAL *first = from + r * v->size + t * v->dilation - v->before;
            N(larger)(to + r * v->out + k.first, first + k.first * v->stride, v->stride, k.end - k.first);
        }
}

/* One plane: see images.h. First whole rows, of which `scratch` has room for one for each row of `out`. */
static void N(max_pool)(const lf_pooling *v, const void *x_, void *out, void *scratch) {
    const REAL *x = x_;
    REAL *row = scratch;
    const lf_axis *rows = v->axis, *columns = v->axis + 1, *last = v->axis + 2;
    ptrdiff_t count = rows->out * columns->out;
    for (ptrdiff_t i = 0; i < count * last->size; i++) row[i] = -HUGE_VAL;
    for (ptrdiff_t i = 0; i < count * last->out; i++) ((REAL *)out)[i] = -HUGE_VAL;
    for (ptrdiff_t a = 0; a < rows->out; a++)
        for (ptrdiff_t b = 0; b < columns->out; b++, row += last->size) {
            within i = within_window(rows, a), j = within_window(columns, b);
            for (ptrdiff_t r = i.first; r < i.end; r += rows->dilation)
                for (ptrdiff_t c = j.first; c < j.end; c += columns->dilation)
                    N(larger)(row, x + (r * columns->size + c) * last->size, 1, last->size);
        }
    N(max_of_rows)(last, scratch, out, count);
}

/* The first element of a window that is `y`, or NaN; -1 if there is none. */
ALWAYS ptrdiff_t N(first_of)(const lf_pooling *v, const REAL *x, REAL y, within i, within j, within k) {
    const lf_axis *rows = v->axis, *columns = v->axis + 1, *last = v->axis + 2;
    for (ptrdiff_t r = i.first; r < i.end; r += rows->dilation)
        for (ptrdiff_t c = j.first; c < j.end; c += columns->dilation)
            for (ptrdiff_t e = k.first; e < k.end; e += last->dilation) {
                ptrdiff_t at = (r * columns->size + c) * last->size + e;
                if (x[at] == y || x[at] != x[at]) return at;
            }
    return -1;
}

/* The same where the whole window is there: `taps` elements, at[t] behind the first of it. Which one it is cannot be
 * foretold, so nothing is jumped over. */
ALWAYS ptrdiff_t N(first_of_all)(const REAL *x, REAL y, const int64_t *at, const ptrdiff_t taps) {
    int64_t found = at[0];
    for (ptrdiff_t t = taps - 1; t >= 0; t--) {
        REAL e = x[at[t]];
        int64_t is_it = -(int64_t)((e == y) | (e != e));
        found = (at[t] & is_it) | (found & ~is_it);
    }
    return found;
}

static void N(max_pool_back)(const lf_pooling *v, const void *x_, const void *y_, const void *share_, void *back_,
                             const int64_t *at) {
    const REAL *x = x_, *y = y_, *share = share_;
    REAL *back = back_;
    ptrdiff_t taps = v->axis[0].kernel * v->axis[1].kernel * v->axis[2].kernel;
    for (ptrdiff_t a = 0; a < v->axis[0].out; a++)
        for (ptrdiff_t b = 0; b < v->axis[1].out; b++) {
            within i = within_window(v->axis, a), j = within_window(v->axis + 1, b);
            ptrdiff_t row = ((a * v->axis[0].stride) * v->axis[1].size + b * v->axis[1].stride) * v->axis[2].size;
            within whole = is_whole(v->axis, i) && is_whole(v->axis + 1, j) ? whole_windows(v->axis + 2) : (within){0, 0};
            for (ptrdiff_t c = 0; c < v->axis[2].out; c++, y++, share++) {
                ptrdiff_t found, first = row + c * v->axis[2].stride;
                if (c >= whole.first && c < whole.end)
                    found = first + (taps == 4 ? N(first_of_all)(x + first, *y, at, 4)
                                               : N(first_of_all)(x + first, *y, at, taps));
                else
                    found = N(first_of)(v, x, *y, i, j, within_window(v->axis + 2, c));
                if (found >= 0) back[found] += *share;
            }
        }
}

#undef LANES
#undef MOST_LANES
#undef SUM
#undef MANY
#undef MAPS
#undef TERMS
#undef WIDE
#undef STRETCH
