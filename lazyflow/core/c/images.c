#include "images.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "machine.h"
#include "threads.h"

enum { CORRELATE, SPREAD, WEIGH };
enum { LAY, TAKE, ADD }; /* into planes, out of them, and added to what is there */

/* From `first` on, up to `end`. */
typedef struct {
    ptrdiff_t first, end;
} within;

/* The elements of window w that there are; the steps from one to the next are `dilation`. */
static inline within within_window(const lf_axis *v, ptrdiff_t w) {
    ptrdiff_t first = w * v->stride - v->before, end = first + (v->kernel - 1) * v->dilation + 1;
    if (first < 0) first += (-first + v->dilation - 1) / v->dilation * v->dilation;
    return (within){first, end < v->size ? end : v->size};
}

/* The windows of which there is element t. */
static inline within windows_with(const lf_axis *v, ptrdiff_t t) {
    ptrdiff_t at = t * v->dilation - v->before, first = at < 0 ? (-at + v->stride - 1) / v->stride : 0;
    ptrdiff_t end = at < v->size ? (v->size - 1 - at) / v->stride + 1 : 0;
    end = end < v->out ? end : v->out;
    return (within){first < end ? first : end, end};
}

/* Whether a window is whole, and which ones are. */
static inline int is_whole(const lf_axis *v, within w) { return w.end - w.first == (v->kernel - 1) * v->dilation + 1; }

static inline within whole_windows(const lf_axis *v) {
    ptrdiff_t reach = (v->kernel - 1) * v->dilation + 1, end = (v->size + v->before - reach) / v->stride + 1;
    return (within){(v->before + v->stride - 1) / v->stride, v->size + v->before < reach ? 0 : end < v->out ? end : v->out};
}

#define OF_A_TYPE "convolve.h"
#include "sets.h"

typedef struct {
    int (*convolve)(const lf_convolution *, int, ptrdiff_t, ptrdiff_t);
    int (*weigh)(const lf_convolution *, ptrdiff_t, ptrdiff_t);
    void (*max_pool)(const lf_pooling *, const void *, void *, void *);
    void (*max_pool_back)(const lf_pooling *, const void *, const void *, const void *, void *, const int64_t *);
} kernels;

#define KERNELS(type, set) \
    {convolve_##type##_##set, weigh_##type##_##set, max_pool_##type##_##set, max_pool_back_##type##_##set}

/* By instruction set, and whether of doubles. */
static const kernels KERNELS_OF[][2] = {
    {KERNELS(float, baseline), KERNELS(double, baseline)},
#ifdef X86
    {KERNELS(float, avx2), KERNELS(double, avx2)},
    {KERNELS(float, avx512), KERNELS(double, avx512)},
#endif
};

static const kernels *chosen(int is_double) { return &KERNELS_OF[lf_set_number()][is_double]; }

typedef struct {
    const lf_convolution *convolution;
    int what;
    ptrdiff_t all, step; /* what is shared, images or maps, and in what steps */
    volatile int failed;
} some_products;

static void products_part(void *context, int part, int parts) {
    some_products *p = context;
    ptrdiff_t low = lf_begin(p->all, p->step, part, parts), high = lf_begin(p->all, p->step, part + 1, parts);
    const kernels *k = chosen(p->convolution->is_double);
    if (low >= high) return;
    if (!(p->what == WEIGH ? k->weigh(p->convolution, low, high) : k->convolve(p->convolution, p->what, low, high)))
        p->failed = 1;
}

static int convolve(const lf_convolution *v, int what) {
    ptrdiff_t images = 0, work = 0;
    for (ptrdiff_t i = 0; i < v->sizes; i++) {
        const lf_places *s = v->images[i].places;
        images += v->images[i].count;
        work += v->images[i].count * s->taps * s->rows * s->pitch;
    }
    if (!images) return 1;
    some_products p = {v, what, what == WEIGH ? v->maps : images, what == WEIGH ? 12 : 1, 0};
    int parts = lf_parts(v->groups * v->channels * v->maps * work / 4);
    ptrdiff_t steps = (p.all + p.step - 1) / p.step;
    lf_share(products_part, &p, steps < parts ? (int)steps : parts);
    return !p.failed;
}

int lf_correlate(const lf_convolution *v) { return convolve(v, CORRELATE); }
int lf_spread(const lf_convolution *v) { return convolve(v, SPREAD); }
int lf_weigh(const lf_convolution *v) {
    ptrdiff_t taps = v->sizes ? v->images[0].places->taps : 0;
    memset(v->weight, 0, v->groups * v->channels * v->maps * taps * (v->is_double ? 8 : 4));
    return convolve(v, WEIGH);
}

typedef struct {
    const lf_pooling *pooling;
    const char *x, *y, *share;
    char *to;
    volatile int failed;
} some_planes;

/* Of each element of a window how far it is from where the window would begin without padding. */
static void elements_of_window(const lf_pooling *v, int64_t *at) {
    const lf_axis *a = v->axis;
    ptrdiff_t taps = a[0].kernel * a[1].kernel * a[2].kernel;
    for (ptrdiff_t t = 0; t < taps; t++) {
        ptrdiff_t i = t / a[2].kernel / a[1].kernel * a[0].dilation - a[0].before;
        ptrdiff_t j = t / a[2].kernel % a[1].kernel * a[1].dilation - a[1].before;
        at[t] = (i * a[1].size + j) * a[2].size + t % a[2].kernel * a[2].dilation - a[2].before;
    }
}

#define JOINED 4096 /* elements of planes that are pooled as one, about */

/* How many planes are one, of which the rows of one run on where those of another end: windows without padding, and none
 * left over. */
static ptrdiff_t planes_at_once(const lf_pooling *v) {
    const lf_axis *a = v->axis;
    int run_on = a[0].size == 1 && a[0].kernel == 1 && a[0].out == 1 && !a[0].before;
    run_on = run_on && !a[1].before && a[1].dilation == 1 && a[1].kernel <= a[1].stride && a[1].stride * a[1].out == a[1].size;
    ptrdiff_t most = run_on ? JOINED / (a[1].size * a[2].size + 1) : 1;
    return most > 1 ? most : 1;
}

static void planes_part(void *context, int part, int parts) {
    some_planes *p = context;
    const lf_pooling *v = p->pooling;
    const lf_axis *a = v->axis;
    const kernels *k = chosen(v->is_double);
    ptrdiff_t size = v->is_double ? 8 : 4, of_x = size * a[0].size * a[1].size * a[2].size;
    ptrdiff_t of_y = size * a[0].out * a[1].out * a[2].out, high = lf_begin(v->planes, 1, part + 1, parts);
    ptrdiff_t some = planes_at_once(v), taps = a[0].kernel * a[1].kernel * a[2].kernel * 8;
    ptrdiff_t rows = a[0].out * a[1].out * a[2].size * size * some;
    void *scratch = malloc(p->share ? taps : rows);
    if (!scratch) {
        p->failed = 1;
        return;
    }
    if (p->share) elements_of_window(v, scratch);
    for (ptrdiff_t i = lf_begin(v->planes, 1, part, parts); i < high; i += some) {
        lf_pooling joined = *v;
        some = some < high - i ? some : high - i;
        joined.axis[1].size *= some;
        joined.axis[1].out *= some;
        if (p->share)
            k->max_pool_back(&joined, p->x + i * of_x, p->y + i * of_y, p->share + i * of_y, p->to + i * of_x, scratch);
        else
            k->max_pool(&joined, p->x + i * of_x, p->to + i * of_y, scratch);
    }
    free(scratch);
}

static int pool(some_planes p) {
    ptrdiff_t work = 4 * p.pooling->planes;
    for (int k = 0; k < 3; k++) work *= p.pooling->axis[k].out * p.pooling->axis[k].kernel;
    int parts = lf_parts(work);
    lf_share(planes_part, &p, parts < p.pooling->planes ? parts : (int)(p.pooling->planes ? p.pooling->planes : 1));
    return !p.failed;
}

int lf_max_pool(const lf_pooling *pooling, const void *x, void *out) {
    return pool((some_planes){pooling, x, NULL, NULL, out, 0});
}

int lf_max_pool_back(const lf_pooling *pooling, const void *x, const void *y, const void *share, void *back) {
    return pool((some_planes){pooling, x, y, share, back, 0});
}
