/* See products.h. */
#include "products.h"

#include "threads.h"

/* So many multiplications take some 15 us: what is less is not worth a part. */
#define LEAST 1000000
/* Parts begin at multiples of so many rows or columns, for which BLAS has its kernels. */
#define STEP 16

enum { PRODUCTS, ROWS, COLUMNS };

typedef struct {
    const lf_product *product;
    int axis;
} a_product;

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
    char *arguments[] = {p.a, p.b, p.out};
    p.loop(arguments, p.sizes, p.steps, p.data);
}

void lf_multiply(const lf_product *p) {
    ptrdiff_t count = p->sizes[0], rows = p->sizes[1], columns = p->sizes[3];
    double work = (double)count * (double)rows * (double)p->sizes[2] * (double)columns;
    int threads = lf_threads(), parts = work / LEAST < threads ? (int)(work / LEAST) : threads;
    a_product whole = {p, count > 1 ? PRODUCTS : rows > columns ? ROWS : COLUMNS};
    ptrdiff_t longest = whole.axis == PRODUCTS ? count : (whole.axis == ROWS ? rows : columns) / STEP;
    if (longest < parts) parts = (int)longest;
    if (parts < 2)
        multiply_part(&whole, 0, 1);
    else
        lf_share(multiply_part, &whole, parts);
}
