#include "machine.h"

#include <math.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

#define SET baseline
#define HAS_FMA 0
#include "set.h"

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define SET avx2
#define HAS_FMA 1
#include "set.h"
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,prefer-vector-width=512")
#endif
#define SET avx512
#define HAS_FMA 1
#include "set.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* What there is of each type and instruction set. */
typedef struct {
    void (*run)(const lf_program *, const lf_argument *, ptrdiff_t, ptrdiff_t, char *);
    void (*gather)(void *, ptrdiff_t, const void *, const int64_t *, ptrdiff_t, const int64_t *, const int64_t *,
                   ptrdiff_t, ptrdiff_t);
    void (*add_rows)(void *, const int64_t *, ptrdiff_t, const void *, ptrdiff_t, const int64_t *, const int64_t *,
                     ptrdiff_t, ptrdiff_t);
    void (*sum_groups)(void *, const void *, ptrdiff_t, const int64_t *, const int64_t *, ptrdiff_t, ptrdiff_t, double *);
    void (*dots)(const void *, ptrdiff_t, const void *, ptrdiff_t, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);
    ptrdiff_t (*cross_entropy)(const void *, ptrdiff_t, const int64_t *, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, void *);
    ptrdiff_t (*cross_entropy_slopes)(const void *, ptrdiff_t, const int64_t *, const void *, ptrdiff_t, void *, ptrdiff_t,
                                      ptrdiff_t, ptrdiff_t, void *);
} kernels;

typedef struct {
    const char *name;
    kernels of[2]; /* float, double */
} instruction_set;

#define KERNELS(type, set)                                                                                          \
    {run_##type##_##set, gather_##type##_##set, add_rows_##type##_##set, sum_groups_##type##_##set,                 \
     dots_##type##_##set, cross_entropy_##type##_##set, cross_entropy_slopes_##type##_##set}

static const instruction_set BASELINE = {"baseline", {KERNELS(float, baseline), KERNELS(double, baseline)}};
#ifdef X86
static const instruction_set AVX2 = {"avx2", {KERNELS(float, avx2), KERNELS(double, avx2)}};
static const instruction_set AVX512 = {"avx512", {KERNELS(float, avx512), KERNELS(double, avx512)}};
#endif
static const instruction_set *chosen = &BASELINE;

const char *lf_instruction_set(void) { return chosen->name; }

int lf_use_instruction_set(const char *name) {
#ifdef X86
    if (!strcmp(name, "avx512")) {
        if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
            !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
            return 0;
        chosen = &AVX512;
        return 1;
    }
    if (!strcmp(name, "avx2")) {
        if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
        chosen = &AVX2;
        return 1;
    }
#endif
    if (strcmp(name, "baseline")) return 0;
    chosen = &BASELINE;
    return 1;
}

/* Registers in the first cache, in bytes. */
#define REGISTERS 24576

/* Instructions that read no values. */
static int reads_nothing(int op) { return op == LF_LOAD || op == LF_CONSTANT || op == LF_SCALAR || op == LF_NOTHING; }

/* Numbers, which have a register of their own that is filled once a run. */
static int is_number(int op) { return op == LF_CONSTANT || op == LF_SCALAR; }

static void find_scalars(lf_program *p) {
    for (int i = 0; i < p->instructions; i++) {
        const lf_parameter *read = p->code[i].op == LF_LOAD ? p->parameter + p->code[i].a : NULL;
        if (read && read->kind == LF_VECTOR && (read->single || p->width == 1)) p->code[i].op = LF_SCALAR;
    }
}

static void count_uses(const lf_program *p, int *uses) {
    for (int i = 0; i < p->instructions; i++) uses[i] = 0;
    for (int i = 0; i < p->instructions; i++) {
        const lf_instruction *s = p->code + i;
        if (reads_nothing(s->op)) continue;
        if (s->a >= 0) uses[s->a]++;
        if (s->b >= 0) uses[s->b]++;
        if (s->c >= 0) uses[s->c]++;
    }
    for (int i = 0; i < p->stores; i++) uses[p->store[i].value] += 2; /* which keeps it */
}

/* A product that is read once, by a sum or difference, is computed there. */
static void join_products(lf_program *p, int *uses) {
    count_uses(p, uses);
    for (int i = 0; i < p->instructions; i++) {
        lf_instruction *s = p->code + i;
        if (s->op != LF_ADD && s->op != LF_SUBTRACT) continue;
        int right = p->code[s->b].op == LF_MULTIPLY && uses[s->b] == 1;
        int left = p->code[s->a].op == LF_MULTIPLY && uses[s->a] == 1;
        if (!left && !right) continue;
        lf_instruction *product = p->code + (right ? s->b : s->a);
        int other = right ? s->a : s->b;
        s->op = s->op == LF_ADD ? LF_ADD_PRODUCT : right ? LF_SUBTRACT_PRODUCT : LF_PRODUCT_SUBTRACT;
        s->a = product->a;
        s->b = product->b;
        s->c = other;
        product->op = LF_NOTHING;
    }
}

/* The last instruction that reads what was loaded: of one argument, or of any where they may overlap. */
static int last_read(const lf_program *p, int argument) {
    int last = -1;
    for (int i = 0; i < p->instructions; i++) {
        const lf_instruction *s = p->code + i;
        int read[3] = {s->a, s->b, s->c};
        for (int k = 0; k < 3 && !reads_nothing(s->op); k++) {
            const lf_instruction *from = read[k] >= 0 ? p->code + read[k] : s;
            if (from->op == LF_LOAD && (!p->distinct || from->a == argument)) last = i;
        }
    }
    return last;
}

/* Whether another store is put into the same argument: the last one counts. */
static int is_put_twice(const lf_program *p, int store) {
    for (int k = 0; k < p->stores; k++)
        if (k != store && p->store[k].argument == p->store[store].argument) return 1;
    return 0;
}

/* A value may be computed where it is stored if nothing is read there afterwards. */
static void find_destinations(lf_program *p) {
    for (int i = 0; i < p->instructions; i++) p->code[i].store = -1;
    for (int k = 0; k < p->stores; k++)
        if (p->code[p->store[k].value].op == LF_LOAD) return;
    for (int k = 0; k < p->stores; k++) {
        const lf_store *store = p->store + k;
        lf_instruction *s = p->code + store->value;
        if (store->adds || is_number(s->op) || is_put_twice(p, k)) continue;
        if (store->value >= last_read(p, store->argument)) s->store = k;
    }
}

static void give_slots(lf_program *p, int *last, int *free_slots) {
    int free_count = 0, count = 0;
    for (int i = 0; i < p->instructions; i++) last[i] = i;
    for (int i = 0; i < p->instructions; i++) {
        const lf_instruction *s = p->code + i;
        if (reads_nothing(s->op)) continue;
        if (s->a >= 0) last[s->a] = i;
        if (s->b >= 0) last[s->b] = i;
        if (s->c >= 0) last[s->c] = i;
    }
    for (int i = 0; i < p->stores; i++) last[p->store[i].value] = p->instructions;
    for (int i = 0; i < p->instructions; i++) {
        lf_instruction *s = p->code + i;
        s->slot = 0;
        if (s->op == LF_NOTHING) continue;
        if (!reads_nothing(s->op)) {
            /* A loop may write where it reads, at the same index: a register whose value ends here is free. */
            int read[3] = {s->a, s->b, s->c};
            for (int k = 0; k < 3; k++) {
                int again = 0;
                for (int j = 0; j < k; j++) again |= read[j] == read[k];
                if (read[k] >= 0 && !again && last[read[k]] == i && !is_number(p->code[read[k]].op))
                    free_slots[free_count++] = p->code[read[k]].slot;
            }
        }
        s->slot = !is_number(s->op) && free_count ? free_slots[--free_count] : count++;
    }
    p->slots = count;
}

void lf_prepare(lf_program *p) {
    int work[2 * p->instructions + 2];
    find_scalars(p);
    join_products(p, work);
    find_destinations(p);
    give_slots(p, work, work + p->instructions + 1);
    ptrdiff_t size = p->is_double ? 8 : 4;
    ptrdiff_t block = REGISTERS / (size * (p->slots ? p->slots : 1)) & ~63;
    p->block = (int32_t)(block < 128 ? 128 : block > 2048 ? 2048 : block);
}

size_t lf_scratch(const lf_program *p, ptrdiff_t rows) {
    (void)rows;
    size_t size = p->is_double ? 8 : 4, block = (size_t)p->block;
    return (size_t)p->slots * block * size + (size_t)p->stores * block * 8 + (size_t)p->instructions * sizeof(void *) + 64;
}

void lf_run(const lf_program *p, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t high, char *scratch) {
    chosen->of[p->is_double].run(p, arguments, low, high, scratch);
}

void lf_gather(int is_double, void *out, ptrdiff_t pitch, const void *buffer, const int64_t *at, ptrdiff_t stride,
               const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t rows) {
    chosen->of[is_double].gather(out, pitch, buffer, at, stride, columns, widths, parts, rows);
}

void lf_add_rows(int is_double, void *buffer, const int64_t *at, ptrdiff_t stride, const void *rows, ptrdiff_t pitch,
                 const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t count) {
    chosen->of[is_double].add_rows(buffer, at, stride, rows, pitch, columns, widths, parts, count);
}

void lf_sum_groups(int is_double, void *out, const void *rows, ptrdiff_t pitch, const int64_t *positions,
                   const int64_t *starts, ptrdiff_t groups, ptrdiff_t width, double *sums) {
    chosen->of[is_double].sum_groups(out, rows, pitch, positions, starts, groups, width, sums);
}

void lf_dots(int is_double, const void *x, ptrdiff_t x_pitch, const void *weight, ptrdiff_t w_pitch, void *out,
             ptrdiff_t out_pitch, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t inner) {
    chosen->of[is_double].dots(x, x_pitch, weight, w_pitch, out, out_pitch, rows, columns, inner);
}

ptrdiff_t lf_cross_entropy(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index, void *out,
                           ptrdiff_t step, ptrdiff_t rows, ptrdiff_t classes, void *scratch) {
    return chosen->of[is_double].cross_entropy(scores, pitch, index, out, step, rows, classes, scratch);
}

ptrdiff_t lf_cross_entropy_slopes(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index,
                                  const void *share, ptrdiff_t step, void *out, ptrdiff_t out_pitch, ptrdiff_t rows,
                                  ptrdiff_t classes, void *scratch) {
    return chosen->of[is_double].cross_entropy_slopes(scores, pitch, index, share, step, out, out_pitch, rows, classes,
                                                      scratch);
}
