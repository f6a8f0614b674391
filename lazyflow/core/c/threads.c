/* A pool of threads that wait for work: see threads.h.
 *
 * Whoever has work writes down what it is and then publishes a ticket, which is the number of the work and that of the next
 * part. A part belongs to whoever counts the ticket up, the caller among them. So nobody waits for a thread that has not
 * begun, however late it wakes, and the ticket that it holds then is no longer the one that counts.
 */
#include "threads.h"

static _Thread_local int allowed = 1;

int lf_threads(void) { return allowed; }

int lf_use_threads(int number) {
    int before = allowed;
    allowed = number < 1 ? 1 : number;
    return before;
}

static void alone(lf_work work, void *context, int parts) {
    for (int part = 0; part < parts; part++) work(context, part, parts);
}

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>

#define MOST 64         /* threads of the pool */
#define NONE 0x7fffffff /* a part that no work has */
#define SPINS 4000      /* looks for work before a thread sleeps: some 0.1 ms, in which launch follows launch */

static _Atomic(uint64_t) ticket; /* number of the work << 32 | the next part */
static _Atomic(lf_work) the_work;
static _Atomic(void *) the_context;
static atomic_int the_parts, the_helpers, done, sleeping;
static atomic_flag taken = ATOMIC_FLAG_INIT; /* by whoever has work */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t news = PTHREAD_COND_INITIALIZER;
static int started; /* threads of the pool; changed by whoever has taken it */

static void relax(int spin) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
    if (spin % 1024 == 1023) sched_yield();
}

/* Parts of the work that is going on, until none is left. */
static void help(void) {
    uint64_t seen = atomic_load(&ticket);
    for (;;) {
        lf_work work = atomic_load(&the_work);
        void *context = atomic_load(&the_context);
        int parts = atomic_load(&the_parts);
        if ((int)(uint32_t)seen >= parts) return;
        uint64_t claimed = seen;
        if (!atomic_compare_exchange_weak(&ticket, &seen, seen + 1)) {
            if (seen >> 32 != claimed >> 32) return; /* this was over */
            continue;
        }
        /* The ticket was the one that counts and had a part, so what was read belongs to it. */
        work(context, (int)(uint32_t)claimed, parts);
        atomic_fetch_add(&done, 1);
        seen = claimed + 1;
    }
}

static uint64_t other_work(uint64_t number) {
    for (int spin = 0; spin < SPINS; spin++) {
        uint64_t now = atomic_load(&ticket) >> 32;
        if (now != number) return now;
        relax(spin);
    }
    pthread_mutex_lock(&mutex);
    atomic_fetch_add(&sleeping, 1);
    uint64_t now;
    while ((now = atomic_load(&ticket) >> 32) == number) pthread_cond_wait(&news, &mutex);
    atomic_fetch_sub(&sleeping, 1);
    pthread_mutex_unlock(&mutex);
    return now;
}

static void *helper(void *argument) {
    int index = (int)(intptr_t)argument;
    for (uint64_t number = 0;;) {
        number = other_work(number);
        if (index < atomic_load(&the_helpers)) help();
    }
    return NULL;
}

/* A fork copies the thread that forks: there is no pool in the child, whatever it was doing. */
static void forget(void) {
    started = 0;
    atomic_store(&sleeping, 0);
    atomic_flag_clear(&taken);
    pthread_mutex_t fresh_mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t fresh_news = PTHREAD_COND_INITIALIZER;
    mutex = fresh_mutex;
    news = fresh_news;
}

/* As many helpers as wanted, or as can be had. Signals are for the interpreter's threads. */
static int start(int wanted) {
    static int registered = 0;
    if (!registered) registered = !pthread_atfork(NULL, NULL, forget);
    sigset_t all, before;
    sigfillset(&all);
    if (started < wanted && registered && !pthread_sigmask(SIG_SETMASK, &all, &before)) {
        pthread_t thread;
        while (started < wanted && !pthread_create(&thread, NULL, helper, (void *)(intptr_t)started)) {
            pthread_detach(thread);
            started++;
        }
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    return started < wanted ? started : wanted;
}

void lf_share(lf_work work, void *context, int parts) {
    int wanted = (allowed < MOST ? allowed : MOST) - 1;
    if (wanted > parts - 1) wanted = parts - 1;
    if (wanted < 1 || atomic_flag_test_and_set(&taken)) {
        alone(work, context, parts);
        return;
    }
    int helpers = start(wanted);
    uint64_t number = (atomic_load(&ticket) >> 32) + 1;
    atomic_store(&ticket, (number - 1) << 32 | NONE); /* nothing to claim while the rest is written */
    atomic_store(&the_work, work);
    atomic_store(&the_context, context);
    atomic_store(&the_parts, parts);
    atomic_store(&the_helpers, helpers);
    atomic_store(&done, 0);
    atomic_store(&ticket, number << 32);
    if (atomic_load(&sleeping)) {
        pthread_mutex_lock(&mutex);
        pthread_cond_broadcast(&news);
        pthread_mutex_unlock(&mutex);
    }
    help();
    for (int spin = 0; atomic_load(&done) < parts; spin++) relax(spin);
    atomic_flag_clear(&taken);
}

#else

void lf_share(lf_work work, void *context, int parts) { alone(work, context, parts); }

#endif

/* What is shared has so many parts a thread, since threads do not run alike, and each part takes thirty microseconds or
 * more: `LEAST` passes of an element through the first cache. A thread that sleeps comes after 10 to 15, one that still
 * looks for work after 1. */
#define PARTS 3
#define LEAST 500000

/* How many parts there are of so much work. */
int lf_parts(ptrdiff_t work) {
    ptrdiff_t most = lf_threads() > 1 ? (ptrdiff_t)PARTS * lf_threads() : 1, parts = work / LEAST;
    return (int)(parts < 1 ? 1 : parts > most ? most : parts);
}

/* Where part `part` of `n` begins, in steps of `step`. */
ptrdiff_t lf_begin(ptrdiff_t n, ptrdiff_t step, int part, int parts) {
    ptrdiff_t steps = (n + step - 1) / step, at = steps * part / parts * step;
    return at < n ? at : n;
}
