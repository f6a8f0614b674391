/* Products by kernels of our own: included once for each type and instruction set. See products.c. */

#include "multiply.h"

/* All products, of matrices that have their rows (`PLAIN`) or columns (`UPRIGHT`) of b one element behind the other. */
static void N(multiply_directly)(const lf_product *p, int how) {
    const ptrdiff_t size = sizeof(REAL), *steps = p->steps;
    for (ptrdiff_t k = 0; k < p->sizes[0]; k++) {
        N(matrix) a = {(const REAL *)(p->a + k * steps[0]), steps[3] / size, steps[4] / size};
        const REAL *b = (const REAL *)(p->b + k * steps[1]);
        REAL *out = (REAL *)(p->out + k * steps[2]);
        if (how == PLAIN)
            N(multiplied)(out, steps[7] / size, a, b, steps[5] / size, p->sizes[1], p->sizes[3], p->sizes[2], 0, 0);
        else
            N(dots)(out, steps[7] / size, a, (N(matrix)){b, steps[6] / size, 1}, p->sizes[1], p->sizes[3], p->sizes[2]);
    }
}

#undef TALL
#undef BROAD
#undef DOTS
#undef NEAR
#undef MOST_LANES
#undef PER_LANE
#undef SUM
