/* Work that several cores share: one pool of threads for the process, and how many of them a thread may use. */
#ifndef LAZYFLOW_THREADS_H
#define LAZYFLOW_THREADS_H

#include <stddef.h>

/* Part `part` of `parts`. It may run on any thread, at the same time as the others, and in any order. */
typedef void (*lf_work)(void *context, int part, int parts);

/* How many threads what this thread calls may run on, 1 at first; returns what it was. */
int lf_use_threads(int number);
int lf_threads(void);

/* Run all parts, on other threads too if this one may use any. Where no threads can be had, or others use them, this one
 * does all of it. */
void lf_share(lf_work work, void *context, int parts);

/* How many parts there are of so much work, in passes of an element through the first cache; and where part `part` of `n`
 * begins, in steps of `step`. */
int lf_parts(ptrdiff_t work);
ptrdiff_t lf_begin(ptrdiff_t n, ptrdiff_t step, int part, int parts);

#endif
