/* See products.h. */
#include "products.h"

#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "machine.h"
#include "threads.h"

/* A product by a kernel of ours: one of PLAIN, whose b has its rows one element behind the other, and UPRIGHT, whose b is
 * the transpose of such a matrix, as is that of weights with rows of inputs. */
enum { BY_NUMPY, PLAIN, UPRIGHT };

#define OF_A_TYPE "directly.h"
#include "sets.h"

typedef void (*kernel)(const lf_product *, int how);

static const kernel KERNELS[][2] = {
    {multiply_directly_float_baseline, multiply_directly_double_baseline},
#ifdef X86
    {multiply_directly_float_avx2, multiply_directly_double_avx2},
    {multiply_directly_float_avx512, multiply_directly_double_avx512},
#endif
};

/* Up to so many rows our kernels are faster than BLAS, for each instruction set: PLAIN, and UPRIGHT. Of more rows, such as
 * those of a gradient of weights, it is the number of inner elements that counts; what has very few is bound by writing,
 * which BLAS does as well, but for a single one, for which NumPy has no call of it. */
typedef struct {
    ptrdiff_t vector, rows, inner, upright;
} reach;
static const reach REACH[] = {{16, 16, 8, 16}, {32, 128, 64, 8}, {64, 256, 128, 128}};

/* Whether BLAS runs kernels for processors without the instructions that ours use: then the number of rows says nothing. */
static volatile int slow_blas = 0;

int lf_expect_slow_blas(int slow) {
    int before = slow_blas;
    slow_blas = slow;
    return before;
}

/* So many elements of b fit into the second cache, or nearly. */
#define MOST (1 << 20)
/* Of up to so many inner elements the writing of the result takes longest. */
#define FEW 12

/* So many multiplications take some 15 us: what is less is not worth a part. */
#define LEAST 1000000
/* Parts begin at multiples of so many rows or columns, for which BLAS has its kernels. */
#define STEP 16

enum { PRODUCTS, ROWS, COLUMNS };

typedef struct {
    const lf_product *product;
    int axis, set, how;
} a_product;

/* How to make a product of all of its rows, whatever part of them a thread will have: all have the same bits. */
static int how_of(const lf_product *p, const reach *r) {
    ptrdiff_t rows = p->sizes[1], inner = p->sizes[2], columns = p->sizes[3], size = p->is_double ? 8 : 4;
    ptrdiff_t lanes = r->vector / size;
    if (p->steps[8] != size || inner * columns > MOST) return BY_NUMPY;
    int few_inner = inner == 1 || (inner > FEW && inner <= r->inner);
    if (p->steps[6] == size && columns >= lanes && (rows <= r->rows || few_inner || slow_blas)) return PLAIN;
    if (p->steps[5] == size && p->steps[4] == size && inner >= lanes && (rows <= r->upright || slow_blas)) return UPRIGHT;
    return BY_NUMPY;
}

/* Where part `part` of `n` begins, at a multiple of `step`. */
static ptrdiff_t begin_of(ptrdiff_t n, ptrdiff_t step, int part, int parts) {
    ptrdiff_t at = (n + step - 1) / step * part / parts * step;
    return at < n ? at : n;
}

static void multiply_part(void *context, int part, int parts) {
    const a_product *whole = context;
    lf_product p = *whole->product;
    const int place[] = {[PRODUCTS] = 0, [ROWS] = 1, [COLUMNS] = 3}; /* in `sizes` */
    ptrdiff_t *size = p.sizes + place[whole->axis], step = whole->axis == PRODUCTS ? 1 : STEP;
    ptrdiff_t low = begin_of(*size, step, part, parts), high = begin_of(*size, step, part + 1, parts);
    if (low == high) return;
    *size = high - low;
    if (whole->axis == PRODUCTS) {
        p.a += low * p.steps[0];
        p.b += low * p.steps[1];
        p.out += low * p.steps[2];
    } else if (whole->axis == ROWS) {
        p.a += low * p.steps[3];
        p.out += low * p.steps[7];
    } else {
        p.b += low * p.steps[6];
        p.out += low * p.steps[8];
    }
    if (whole->how != BY_NUMPY) {
        KERNELS[whole->set][p.is_double](&p, whole->how);
        return;
    }
    char *arguments[] = {p.a, p.b, p.out};
    p.loop(arguments, p.sizes, p.steps, p.data);
}

void lf_multiply(const lf_product *p) {
    ptrdiff_t count = p->sizes[0], rows = p->sizes[1], columns = p->sizes[3];
    double work = (double)count * (double)rows * (double)p->sizes[2] * (double)columns;
    int threads = lf_threads(), parts = work / LEAST < threads ? (int)(work / LEAST) : threads;
    int set = lf_set_number();
    a_product whole = {p, count > 1 ? PRODUCTS : rows > columns ? ROWS : COLUMNS, set, how_of(p, REACH + set)};
    ptrdiff_t longest = whole.axis == PRODUCTS ? count : (whole.axis == ROWS ? rows : columns) / STEP;
    if (longest < parts) parts = (int)longest;
    if (parts < 2)
        multiply_part(&whole, 0, 1);
    else
        lf_share(multiply_part, &whole, parts);
}
