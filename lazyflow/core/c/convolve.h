/* Convolutions: included once for each type and instruction set. See images.h. */

#include "lanes.h"

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
        for (int j = 0; j < wide; j++) x[j] = *(const N(lane) *)(from + j * PER_LANE);
        for (int i = 0; i < many; i++) {
            N(lane) w = weight[i] - (N(lane)){0};
            for (int j = 0; j < wide; j++) sums[i][j] = SUM(w, x[j], sums[i][j]);
        }
    }
    for (int i = 0; i < many; i++)
        for (int j = 0; j < wide; j++) *(N(lane) *)(out + i * pitch + j * PER_LANE) = sums[i][j];
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
    for (ptrdiff_t p = 0, wide; p < places; p += wide * PER_LANE) {
        wide = places - p >= WIDE * PER_LANE ? WIDE : 1;
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

/* sums[i][k] += maps[i][p] * planes[at[k] + p] for all places, lane by lane, for `many` i and `some` k. */
ALWAYS void N(corner)(REAL *sums, ptrdiff_t pitch, const REAL *maps, ptrdiff_t length, const REAL *planes, const int64_t *at,
                      ptrdiff_t places, const int many, const int some) {
    N(lane) found[MAPS][TERMS];
    for (int i = 0; i < many; i++)
        for (int k = 0; k < some; k++) found[i][k] = *(N(lane) *)(sums + (i * pitch + k) * PER_LANE);
    const REAL *from[TERMS];
    for (int k = 0; k < some; k++) from[k] = planes + at[k];
    for (ptrdiff_t p = 0; p < places; p += PER_LANE) {
        N(lane) g[MAPS];
        for (int i = 0; i < many; i++) g[i] = *(const N(lane) *)(maps + i * length + p);
        for (int k = 0; k < some; k++) {
            N(lane) x = *(const N(lane) *)(from[k] + p);
            for (int i = 0; i < many; i++) found[i][k] = SUM(g[i], x, found[i][k]);
        }
    }
    for (int i = 0; i < many; i++)
        for (int k = 0; k < some; k++) *(N(lane) *)(sums + (i * pitch + k) * PER_LANE) = found[i][k];
}

#define STRETCH 512 /* places, of which what is read of maps and planes stays in the first cache */

/* The product of maps, `length` places each, with stretches of planes, added to (results, terms) of vectors. */
static void N(outer)(REAL *sums, const REAL *maps, ptrdiff_t length, const REAL *planes, const int64_t *at, ptrdiff_t terms,
                     ptrdiff_t results, ptrdiff_t whole) {
    for (ptrdiff_t p = 0; p < whole; p += STRETCH) {
        ptrdiff_t places = whole - p < STRETCH ? whole - p : STRETCH;
        for (ptrdiff_t i = 0, many; i < results; i += many) {
            many = results - i >= MAPS ? MAPS : 1;
            for (ptrdiff_t k = 0, some; k < terms; k += some) {
                some = terms - k >= TERMS ? TERMS : 1;
                REAL *into = sums + (i * terms + k) * PER_LANE;
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

/* to[i] += the sum of the lanes of a vector, for `count` of them, of as many at a time as have lanes. */
static void N(add_lanes)(REAL *to, const REAL *sums, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += PER_LANE, sums += PER_LANE * PER_LANE) {
        N(lane) v[MOST_LANES];
        ptrdiff_t some = count - i < PER_LANE ? count - i : PER_LANE;
        for (int k = 0; k < PER_LANE; k++) v[k] = k < some ? *(const N(lane) *)(sums + k * PER_LANE) : (N(lane)){0};
        N(lane) found = N(summed)(v);
        for (int k = 0; k < some; k++) to[i + k] += found[k];
    }
}

/* A row of a few elements, for which a call would take longer than it does: copied, or added to what is there. */
ALWAYS void N(copy)(REAL *to, const REAL *from, ptrdiff_t count, const int add) {
    ptrdiff_t i = 0;
    for (; i + PER_LANE <= count; i += PER_LANE) {
        N(lane) x = *(const N(lane) *)(from + i);
        if (add) x += *(N(lane) *)(to + i);
        *(N(lane) *)(to + i) = x;
    }
#if VECTOR_BYTES == 64 && IS_FLOAT
    __mmask16 some = (__mmask16)((1u << (count - i)) - 1);
    __m512 x = _mm512_maskz_loadu_ps(some, from + i);
    _mm512_mask_storeu_ps(to + i, some, add ? _mm512_add_ps(_mm512_maskz_loadu_ps(some, to + i), x) : x);
#else
    for (ptrdiff_t some = PER_LANE / 2; some; some /= 2)
        if ((count - i) & some) {
            for (ptrdiff_t j = i; j < i + some; j++) to[j] = add ? to[j] + from[j] : from[j];
            i += some;
        }
#endif
}

/* to[i * to_step] = from[i * from_step], or that added. */
ALWAYS void N(step)(REAL *to, const ptrdiff_t to_step, const REAL *from, const ptrdiff_t from_step, ptrdiff_t count,
                    const int add) {
    for (ptrdiff_t i = 0; i < count; i++) {
        REAL x = from[i * from_step];
        to[i * to_step] = add ? to[i * to_step] + x : x;
    }
}

/* One row of a plane, or a part of one: into it, or out of it. */
ALWAYS void N(move_row)(REAL *here, REAL *there, const ptrdiff_t step, ptrdiff_t count, const int what) {
    if (step == 1)
        N(copy)(what == LAY ? here : there, what == LAY ? there : here, count, what == ADD);
    else if (what == LAY)
        N(step)(here, 1, there, step, count, 0);
    else
        N(step)(there, step, here, 1, count, what == ADD);
}

/* Images into planes, `length` places each, which are zero before; or planes into images, or added to them. */
ALWAYS void N(move_by)(REAL *planes, ptrdiff_t length, const lf_places *s, REAL *images, ptrdiff_t pitch, ptrdiff_t channels,
                       ptrdiff_t count, const int what, const ptrdiff_t step) {
    for (ptrdiff_t b = 0; b < count; b++)
        for (ptrdiff_t c = 0; c < channels; c++)
            for (ptrdiff_t f = 0; f < s->lead; f++)
                for (ptrdiff_t e = 0; e < s->last; e++) {
                    REAL *plane = planes + ((c * s->lead + f) * s->last + e) * length + b * s->rows * s->pitch + s->begin[e];
                    REAL *image = images + b * pitch + c * s->size + s->from[e];
                    const int64_t *from = s->row_from + f * s->rows;
                    ptrdiff_t places = s->count[e], rows = s->rows, apart = s->pitch;
                    for (ptrdiff_t r = 0; r < rows; r++, plane += apart)
                        if (from[r] >= 0) N(move_row)(plane, image + from[r], step, places, what);
                }
}

ALWAYS void N(move)(REAL *planes, ptrdiff_t length, const lf_places *s, REAL *images, ptrdiff_t pitch, ptrdiff_t channels,
                    ptrdiff_t count, const int what) {
    if (s->step == 1)
        N(move_by)(planes, length, s, images, pitch, channels, count, what, 1);
    else if (s->step == 2)
        N(move_by)(planes, length, s, images, pitch, channels, count, what, 2);
    else
        N(move_by)(planes, length, s, images, pitch, channels, count, what, s->step);
}

/* Maps into planes of one step, or these into maps, each with a number added, or added to what is there. */
ALWAYS void N(move_maps)(REAL *planes, ptrdiff_t length, const lf_places *s, REAL *maps, ptrdiff_t pitch, ptrdiff_t count,
                         ptrdiff_t images, const REAL *bias, const int what) {
    ptrdiff_t width = s->width, rows = s->map_rows, apart = s->pitch;
    const int64_t *row = s->map_row;
    for (ptrdiff_t b = 0; b < images; b++)
        for (ptrdiff_t o = 0; o < count; o++) {
            REAL *plane = planes + o * length + b * s->rows * apart, *there = maps + b * pitch + o * rows * width;
            for (ptrdiff_t r = 0; r < rows; r++, there += width) {
                REAL *here = plane + row[r] * apart;
                if (what != LAY && bias)
                    for (ptrdiff_t j = 0; j < width; j++) there[j] = here[j] + bias[o];
                else
                    N(copy)(what == LAY ? here : there, what == LAY ? there : here, width, what == ADD);
            }
        }
}

/* Whether one of the rows of `places` elements, `pitch` apart, has a NaN. */
static int N(has_nan)(const REAL *rows, ptrdiff_t pitch, ptrdiff_t count, ptrdiff_t places) {
    int found = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        INT some = 0;
        for (ptrdiff_t p = 0; p < places; p++) some |= -(INT)(rows[i * pitch + p] != rows[i * pitch + p]);
        found |= some != 0;
    }
    return found;
}

#define AT_ONCE (1 << 18) /* bytes of planes and maps, which stay in the second cache */
#define VECTORS (1 << 19) /* bytes of sums, likewise */

/* What one group of some images needs: see images.h. `terms` of the product: their places in planes, and in a weight. */
typedef struct {
    const lf_convolution *all;
    const lf_places *s;
    ptrdiff_t count, places, length; /* images; their places, in whole vectors; these and the margin */
    REAL *memory, *planes, *maps, *packed;
    int64_t *at, *of;
} N(work);

/* How many of `most` images are worked on at once. */
static ptrdiff_t N(at_once)(const lf_convolution *v, const lf_places *s, ptrdiff_t most) {
    ptrdiff_t planes = v->channels * s->lead * s->last + v->maps;
    ptrdiff_t fit = AT_ONCE / (planes * s->rows * s->pitch * (ptrdiff_t)sizeof(REAL) + 1);
    return fit < 1 ? 1 : fit < most ? fit : most;
}

/* Get ready for so many images of a size. */
static void N(ready)(N(work) *w, const lf_places *s, ptrdiff_t count) {
    w->s = s;
    w->count = count;
    w->places = (count * s->rows * s->pitch + PER_LANE - 1) / PER_LANE * PER_LANE;
    w->length = w->places + s->margin;
    w->planes = w->memory;
    w->maps = w->memory + w->all->channels * s->lead * s->last * w->length;
}

/* Memory for the largest part of the images `low` to `high` that is worked on at once, and for `more` elements. */
static int N(take)(N(work) *w, const lf_convolution *v, ptrdiff_t low, ptrdiff_t high, ptrdiff_t more) {
    ptrdiff_t most = 0, taps = v->images[0].places->taps;
    *w = (N(work)){.all = v};
    for (ptrdiff_t i = 0, first = 0; i < v->sizes; first += v->images[i++].count) {
        if (!v->images[i].count || first >= high || first + v->images[i].count <= low) continue;
        const lf_places *s = v->images[i].places;
        ptrdiff_t places = N(at_once)(v, s, v->images[i].count) * s->rows * s->pitch + PER_LANE + s->margin;
        ptrdiff_t room = (v->channels * s->lead * s->last + v->maps) * places;
        most = room > most ? room : most;
    }
    ptrdiff_t terms = (v->channels > v->maps ? v->channels : v->maps) * taps, weights = v->channels * v->maps * taps;
    char *memory = malloc(2 * terms * sizeof(int64_t) + (weights + most + more) * sizeof(REAL) + 16);
    w->at = (int64_t *)memory;
    w->of = w->at + terms;
    w->packed = (REAL *)(w->of + terms);
    w->memory = w->packed + weights + more;
    return memory != NULL;
}

/* Whether images are planes as they lie, and maps as they are computed: kernels of one element, and whole vectors. */
static int N(lies_ready)(const N(work) *w) {
    const lf_places *s = w->s;
    if (s->margin || s->taps > 1 || w->count > 1 || s->size != w->places || s->size != s->map_rows * s->width) return 0;
    return s->count[0] == s->pitch && s->row_from[0] == 0 && s->row_from[s->rows - 1] == s->size - s->pitch;
}

/* The images as planes, and where in these the terms of a channel's and a kernel's element begin. */
static void N(lay_images)(N(work) *w, REAL *image) {
    const lf_places *s = w->s;
    ptrdiff_t channels = w->all->channels, planes = s->lead * s->last;
    if (N(lies_ready)(w)) {
        w->planes = image;
        for (ptrdiff_t c = 0; c < channels; c++) w->at[c] = c * s->size;
        return;
    }
    __builtin_memset(w->planes, 0, channels * planes * w->length * sizeof(REAL));
    N(move)(w->planes, w->length, s, image, w->all->groups * channels * s->size, channels, w->count, LAY);
    for (ptrdiff_t c = 0, k = 0; c < channels; c++)
        for (ptrdiff_t t = 0; t < s->taps; t++, k++) w->at[k] = (c * planes + s->plane[t]) * w->length + s->shift[t];
}

/* Some maps as planes of one step, behind as many zeros. */
static void N(lay_maps)(N(work) *w, REAL *map, ptrdiff_t count, ptrdiff_t zeros) {
    const lf_places *s = w->s;
    if (N(lies_ready)(w)) {
        w->maps = map;
        return;
    }
    __builtin_memset(w->maps, 0, count * w->length * sizeof(REAL));
    N(move_maps)
    (w->maps + zeros, w->length, s, map, w->all->groups * w->all->maps * s->map_rows * s->width, count, w->count, NULL, LAY);
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

/* The weight of a group, packed for one of the first two products: for all sizes with the same elements of the kernel. */
static void N(pack_weight)(N(work) *w, int what, const REAL *weight) {
    const lf_places *s = w->s;
    ptrdiff_t channels = w->all->channels, terms = channels * s->taps;
    if (what == CORRELATE) {
        for (ptrdiff_t k = 0; k < terms; k++) w->of[k] = k;
        N(pack)(w->packed, weight, terms, w->of, terms, w->all->maps);
        return;
    }
    REAL *to = w->packed;
    for (ptrdiff_t f = 0; f < s->lead * s->last; f++) {
        terms = N(terms_of_plane)(w, f);
        N(pack)(to, weight, s->taps, w->of, terms, channels);
        to += channels * terms;
    }
}

/* These return whether a result may be NaN. */
static int N(correlate)(N(work) *w, REAL *image, REAL *map, const REAL *bias) {
    const lf_convolution *v = w->all;
    ptrdiff_t maps = v->maps, pitch = v->groups * maps * w->s->map_rows * w->s->width;
    int ready = N(lies_ready)(w) && !bias && !v->add;
    N(lay_images)(w, image);
    if (ready) w->maps = map;
    N(product)(w->maps, w->places, w->packed, w->planes, w->at, v->channels * w->s->taps, maps, w->places);
    int nan = v->nans && N(has_nan)(w->maps, w->places, maps, w->places);
    if (!v->add && !ready)
        N(move_maps)(w->maps, w->places, w->s, map, pitch, maps, w->count, bias, TAKE);
    else if (v->add && !nan)
        N(move_maps)(w->maps, w->places, w->s, map, pitch, maps, w->count, NULL, ADD);
    return nan;
}

static void N(add_bias)(REAL *image, ptrdiff_t size, ptrdiff_t channels, const REAL *bias) {
    for (ptrdiff_t c = 0; c < channels; c++)
        for (ptrdiff_t i = 0; i < size; i++) image[c * size + i] += bias[c];
}

static int N(spread)(N(work) *w, REAL *image, REAL *map, const REAL *bias) {
    const lf_convolution *v = w->all;
    const lf_places *s = w->s;
    ptrdiff_t channels = v->channels, planes = s->lead * s->last, pitch = v->groups * channels * s->size;
    N(lay_maps)(w, map, v->maps, s->margin);
    const REAL *packed = w->packed;
    for (ptrdiff_t f = 0; f < planes; f++) {
        ptrdiff_t terms = N(terms_of_plane)(w, f);
        N(product)(w->planes + f * w->length, planes * w->length, packed, w->maps, w->at, terms, channels, w->places);
        packed += channels * terms;
    }
    int nan = v->nans && N(has_nan)(w->planes, w->length, channels * planes, w->places);
    if (!v->add) {
        for (ptrdiff_t b = 0; b < w->count; b++) __builtin_memset(image + b * pitch, 0, channels * s->size * sizeof(REAL));
        N(move)(w->planes, w->length, s, image, pitch, channels, w->count, TAKE);
        for (ptrdiff_t b = 0; bias && b < w->count; b++) N(add_bias)(image + b * pitch, s->size, channels, bias);
    } else if (!nan)
        N(move)(w->planes, w->length, s, image, pitch, channels, w->count, ADD);
    return nan;
}

/* Whether elements of the kernel read the same planes. */
static int N(alike)(const lf_places *a, const lf_places *b) {
    if (a == b) return 1;
    if (a->taps != b->taps || a->lead != b->lead || a->last != b->last) return 0;
    for (ptrdiff_t t = 0; t < a->taps; t++)
        if (a->plane[t] != b->plane[t]) return 0;
    return 1;
}

/* One of the first two products, for images `low` to `high`. */
static int N(convolve)(const lf_convolution *v, int what, ptrdiff_t low, ptrdiff_t high) {
    N(work) w;
    if (!N(take)(&w, v, low, high, 0)) return 0;
    for (ptrdiff_t g = 0; g < v->groups; g++) {
        const lf_places *packed = NULL;
        const REAL *bias = v->bias ? (const REAL *)v->bias + g * (what == SPREAD ? v->channels : v->maps) : NULL;
        for (ptrdiff_t i = 0, first = 0; i < v->sizes; first += v->images[i++].count) {
            const lf_images *some = v->images + i;
            const lf_places *s = some->places;
            ptrdiff_t begin = low > first ? low - first : 0, end = high - first < some->count ? high - first : some->count;
            ptrdiff_t step = N(at_once)(v, s, some->count);
            for (ptrdiff_t b = begin; b < end; b += step) {
                REAL *image = (REAL *)some->image + (b * v->groups + g) * v->channels * s->size;
                REAL *map = (REAL *)some->map + (b * v->groups + g) * v->maps * s->map_rows * s->width;
                N(ready)(&w, s, end - b < step ? end - b : step);
                if (!packed || !N(alike)(packed, s))
                    N(pack_weight)(&w, what, (REAL *)v->weight + g * v->channels * v->maps * s->taps);
                packed = s;
                int nan = what == CORRELATE ? N(correlate)(&w, image, map, bias) : N(spread)(&w, image, map, bias);
                if (nan) v->nans[i] = 1;
            }
        }
    }
    free(w.at);
    return 1;
}

/* The product over places of one group, for maps `low` to `high` of it, added to the vectors of sums. */
static void N(weigh_group)(N(work) *w, REAL *sums, ptrdiff_t g, ptrdiff_t low, ptrdiff_t high) {
    const lf_convolution *v = w->all;
    for (ptrdiff_t i = 0; i < v->sizes; i++) {
        const lf_images *some = v->images + i;
        const lf_places *s = some->places;
        ptrdiff_t step = N(at_once)(v, s, some->count), of_maps = s->map_rows * s->width;
        for (ptrdiff_t b = 0; b < some->count; b += step) {
            REAL *image = (REAL *)some->image + (b * v->groups + g) * v->channels * s->size;
            REAL *map = (REAL *)some->map + ((b * v->groups + g) * v->maps + low) * of_maps;
            N(ready)(w, s, some->count - b < step ? some->count - b : step);
            N(lay_images)(w, image);
            N(lay_maps)(w, map, high - low, 0);
            N(outer)(sums, w->maps, w->length, w->planes, w->at, v->channels * s->taps, high - low, w->places);
        }
    }
}

/* The third, for maps `low` to `high` of each group, as many at a time as have their sums in the cache. */
static int N(weigh)(const lf_convolution *v, ptrdiff_t low, ptrdiff_t high) {
    N(work) w;
    ptrdiff_t terms = v->channels * v->images[0].places->taps, step = VECTORS / VECTOR_BYTES / (terms + 1) / MAPS * MAPS;
    step = step < MAPS ? MAPS : step;
    if (!N(take)(&w, v, 0, PTRDIFF_MAX, step * terms * PER_LANE)) return 0;
    REAL *sums = w.packed + v->channels * v->maps * v->images[0].places->taps;
    for (ptrdiff_t g = 0; g < v->groups; g++)
        for (ptrdiff_t o = low; o < high; o += step) {
            ptrdiff_t end = high - o < step ? high : o + step;
            __builtin_memset(sums, 0, (end - o) * terms * VECTOR_BYTES);
            N(weigh_group)(&w, sums, g, o, end);
            N(add_lanes)((REAL *)v->weight + (g * v->maps + o) * terms, sums, (end - o) * terms);
        }
    free(w.at);
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
 * foretold, so those that are smaller are counted, and nothing is jumped over. */
ALWAYS ptrdiff_t N(first_of_all)(const REAL *x, REAL y, const int64_t *at, const ptrdiff_t taps) {
    ptrdiff_t found = 0, smaller = 1;
    for (ptrdiff_t t = 0; y != y && t < taps; t++)
        if (x[at[t]] != x[at[t]]) return at[t];
    for (ptrdiff_t t = 0; t < taps - 1; t++) {
        smaller &= x[at[t]] < y;
        found += smaller;
    }
    return at[found];
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

#undef PER_LANE
#undef UNROLLED
#undef MOST_LANES
#undef SUM
#undef MANY
#undef MAPS
#undef TERMS
#undef WIDE
#undef STRETCH
#undef AT_ONCE
#undef VECTORS
