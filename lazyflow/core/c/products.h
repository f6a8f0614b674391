/* Products of matrices, those of few rows by kernels of our own and others by NumPy's loop, cut into parts for several
 * threads. */
#ifndef LF_PRODUCTS_H
#define LF_PRODUCTS_H

#include <stddef.h>

/* The inner loop of NumPy's matmul for one dtype: what numpy/ufuncobject.h calls a PyUFuncGenericFunction. It calls BLAS
 * where it can, needs no lock of the interpreter, and is told sizes and byte strides. */
typedef void (*lf_loop)(char **arguments, const ptrdiff_t *sizes, const ptrdiff_t *steps, void *data);

/* `sizes`: how many products, then rows, inner elements and columns of each. `steps`: from product to product in `a`, `b`
 * and `out`, and then along rows and inner elements of `a`, inner elements and columns of `b`, rows and columns of `out`. */
typedef struct {
    int is_double;
    lf_loop loop;
    void *data;
    char *a, *b, *out;
    ptrdiff_t sizes[4], steps[9];
} lf_product;

/* `out` shares no memory with `a` and `b`. */
void lf_multiply(const lf_product *product);

/* Whether NumPy's loops are much slower than they could be on this processor; returns what was said before. */
int lf_expect_slow_blas(int slow);

#endif
