#include "machine.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "threads.h"

#define ATTENDED 64 /* rows of scores at once */
#define OF_A_TYPE "kernels.h"
#include "sets.h"

/* What there is of each type and instruction set. */
typedef struct {
    void (*run)(const lf_program *, const lf_argument *, ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t, char *);
    void (*gather)(void *, ptrdiff_t, const void *, const int64_t *, ptrdiff_t, const int64_t *, const int64_t *,
                   ptrdiff_t, ptrdiff_t);
    void (*add_rows)(void *, const int64_t *, ptrdiff_t, const void *, ptrdiff_t, const int64_t *, const int64_t *,
                     ptrdiff_t, ptrdiff_t, ptrdiff_t, ptrdiff_t);
    void (*reduce_groups)(int, void *, const void *, ptrdiff_t, const int64_t *, const int64_t *, ptrdiff_t, ptrdiff_t,
                          double *);
    ptrdiff_t (*cross_entropy)(const void *, ptrdiff_t, const int64_t *, void *, ptrdiff_t, ptrdiff_t, ptrdiff_t, void *);
    ptrdiff_t (*cross_entropy_slopes)(const void *, ptrdiff_t, const int64_t *, const void *, ptrdiff_t, void *, ptrdiff_t,
                                      ptrdiff_t, ptrdiff_t, void *);
    void (*along)(int, const void *, const void *, const void *, void *, ptrdiff_t, ptrdiff_t, double, void *);
    void (*attend)(const lf_attention *, ptrdiff_t, ptrdiff_t, void *);
} kernels;

typedef struct {
    const char *name;
    int number;
    kernels of[2]; /* float, double */
} instruction_set;

#define KERNELS(type, set)                                                                                          \
    {run_##type##_##set, gather_##type##_##set, add_rows_##type##_##set, reduce_groups_##type##_##set,              \
     cross_entropy_##type##_##set, cross_entropy_slopes_##type##_##set, along_##type##_##set,       \
     attend_##type##_##set}

static const instruction_set BASELINE = {"baseline", 0, {KERNELS(float, baseline), KERNELS(double, baseline)}};
#ifdef X86
static const instruction_set AVX2 = {"avx2", 1, {KERNELS(float, avx2), KERNELS(double, avx2)}};
static const instruction_set AVX512 = {"avx512", 2, {KERNELS(float, avx512), KERNELS(double, avx512)}};
#endif
static const instruction_set *chosen = &BASELINE;

const char *lf_instruction_set(void) { return chosen->name; }

int lf_set_number(void) { return chosen->number; }

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

/* Bytes of the first cache, for registers and what the next block reads. */
#define CACHE 32768

/* Instructions that read no values. */
static int reads_nothing(int op) { return op == LF_LOAD || op == LF_CONSTANT || op == LF_SCALAR || op == LF_NOTHING; }

/* Numbers, which are filled in once a run. */
static int is_number(int op) { return op == LF_CONSTANT || op == LF_SCALAR; }

/* The values that an instruction reads, and how many they are. */
static int operands(const lf_instruction *s, int *read) {
    int all[4] = {s->a, s->b, s->c, s->d}, count = 0;
    for (int k = 0; k < 4 && !reads_nothing(s->op) && all[k] >= 0; k++) read[count++] = all[k];
    return count;
}

static void find_scalars(lf_program *p) {
    for (int i = 0; i < p->instructions; i++) {
        const lf_parameter *read = p->code[i].op == LF_LOAD ? p->parameter + p->code[i].a : NULL;
        if (read && read->kind == LF_VECTOR && (read->single || p->width == 1)) p->code[i].op = LF_SCALAR;
    }
}

static void count_uses(const lf_program *p, int *uses) {
    int read[4];
    for (int i = 0; i < p->instructions; i++) uses[i] = 0;
    for (int i = 0; i < p->instructions; i++)
        for (int k = operands(p->code + i, read); k--;) uses[read[k]]++;
    for (int i = 0; i < p->stores; i++) uses[p->store[i].value] += 2; /* which keeps it */
}

/* A number as the second factor, where loops can take it as such. */
static void put_number_second(const lf_program *p, int *a, int *b) {
    int first = *a;
    if (!is_number(p->code[first].op) || is_number(p->code[*b].op)) return;
    *a = *b;
    *b = first;
}

static void join_product(lf_program *p, lf_instruction *s, int right) {
    lf_instruction *product = p->code + (right ? s->b : s->a);
    int other = right ? s->a : s->b;
    s->op = s->op == LF_ADD ? LF_ADD_PRODUCT : right ? LF_SUBTRACT_PRODUCT : LF_PRODUCT_SUBTRACT;
    s->a = product->a;
    s->b = product->b;
    s->c = other;
    product->op = LF_NOTHING;
}

static void join_both_products(lf_program *p, lf_instruction *s) {
    lf_instruction *left = p->code + s->a, *right = p->code + s->b;
    s->op = s->op == LF_ADD ? LF_ADD_PRODUCTS : LF_SUBTRACT_PRODUCTS;
    s->a = left->a;
    s->b = left->b;
    s->c = right->a;
    s->d = right->b;
    left->op = right->op = LF_NOTHING;
    put_number_second(p, &s->c, &s->d);
}

static void join_root(lf_program *p, lf_instruction *s, int right) {
    lf_instruction *root = p->code + (right ? s->b : s->a);
    s->op = LF_ADD_ROOT;
    s->b = right ? s->a : s->b;
    s->a = root->a;
    root->op = LF_NOTHING;
}

/* A quotient that only the product reads, too: such a loop waits for divisions, and does the rest meanwhile. */
static void join_quotient(lf_program *p, lf_instruction *s, const int *uses) {
    if (uses[s->a] != 1 || p->code[s->a].op != LF_DIVIDE) return;
    lf_instruction *quotient = p->code + s->a;
    s->op = LF_SUBTRACT_SHARE;
    s->d = s->c;
    s->c = s->b;
    s->a = quotient->a;
    s->b = quotient->b;
    quotient->op = LF_NOTHING;
}

/* A product, or a root, that is read once, by a sum or difference, is computed there. */
static void join(lf_program *p, int *uses) {
    count_uses(p, uses);
    for (int i = 0; i < p->instructions; i++) {
        lf_instruction *s = p->code + i;
        if (s->op != LF_ADD && s->op != LF_SUBTRACT) continue;
        int left = uses[s->a] == 1 ? p->code[s->a].op : LF_NOTHING, right = uses[s->b] == 1 ? p->code[s->b].op : LF_NOTHING;
        if (left == LF_MULTIPLY && right == LF_MULTIPLY)
            join_both_products(p, s);
        else if (left == LF_MULTIPLY || right == LF_MULTIPLY)
            join_product(p, s, right == LF_MULTIPLY);
        else if (s->op == LF_ADD && (left == LF_SQRT || right == LF_SQRT))
            join_root(p, s, right == LF_SQRT);
        else
            continue;
        if (s->op != LF_ADD_ROOT) put_number_second(p, &s->a, &s->b);
        if (s->op == LF_SUBTRACT_PRODUCT) join_quotient(p, s, uses);
    }
}

/* The operands, bit 0 for `a`, that the loops of an instruction take as a number, too. */
static int may_be_numbers(int op) {
    if (op == LF_ADD || op == LF_SUBTRACT || op == LF_MULTIPLY || op == LF_DIVIDE) return 1 | 2;
    if (op == LF_ADD_PRODUCT || op == LF_SUBTRACT_PRODUCT || op == LF_PRODUCT_SUBTRACT) return 2 | 4;
    if (op == LF_ADD_PRODUCTS || op == LF_SUBTRACT_PRODUCTS) return 2 | 8;
    return op == LF_ADD_ROOT ? 2 : op == LF_SUBTRACT_SHARE ? 4 : 0;
}

/* Which operands are numbers that no loop reads as a row; `wide`: for each value whether it is needed as one. */
static void find_numbers(lf_program *p, int *wide) {
    int read[4];
    for (int i = 0; i < p->instructions; i++) wide[i] = !is_number(p->code[i].op);
    for (int i = 0; i < p->stores; i++) wide[p->store[i].value] = 1;
    for (int i = 0; i < p->instructions; i++)
        for (int k = operands(p->code + i, read); k--;) wide[read[k]] |= !(may_be_numbers(p->code[i].op) >> k & 1);
    for (int i = 0; i < p->instructions; i++) {
        p->code[i].numbers = !wide[i];
        for (int k = operands(p->code + i, read); k--;) p->code[i].numbers |= !wide[read[k]] << k;
    }
}

/* What is run for each block, one after the other. */
static void find_order(lf_program *p) {
    p->first = p->instructions;
    p->loops = 0;
    for (int i = p->instructions - 1; i >= 0; i--) {
        p->code[i].next = p->first;
        p->loops += !reads_nothing(p->code[i].op);
        if (!is_number(p->code[i].op) && p->code[i].op != LF_NOTHING) p->first = i;
    }
}

/* The last instruction that reads what was loaded: of one argument, or of any where they may overlap. */
static int last_read(const lf_program *p, int argument) {
    int last = -1, read[4];
    for (int i = 0; i < p->instructions; i++)
        for (int k = operands(p->code + i, read); k--;) {
            const lf_instruction *from = p->code + read[k];
            if (from->op == LF_LOAD && (!p->distinct || from->a == argument)) last = i;
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
    int free_count = 0, count = 0, numbers = 0, read[4];
    for (int i = 0; i < p->instructions; i++) last[i] = i;
    for (int i = 0; i < p->instructions; i++)
        for (int k = operands(p->code + i, read); k--;) last[read[k]] = i;
    for (int i = 0; i < p->stores; i++) last[p->store[i].value] = p->instructions;
    for (int i = 0; i < p->instructions; i++) {
        lf_instruction *s = p->code + i;
        s->slot = 0;
        if (s->op == LF_NOTHING) continue;
        /* A loop may write where it reads, at the same index: a register whose value ends here is free. */
        for (int k = 0, n = operands(s, read); k < n; k++) {
            int again = 0;
            for (int j = 0; j < k; j++) again |= read[j] == read[k];
            if (!again && last[read[k]] == i && !is_number(p->code[read[k]].op))
                free_slots[free_count++] = p->code[read[k]].slot;
        }
        if (is_number(s->op) && s->numbers)
            s->slot = numbers++;
        else
            s->slot = !is_number(s->op) && free_count ? free_slots[--free_count] : count++;
    }
    p->slots = count;
}

/* About what the loops of an instruction take, beside one that adds. */
static int cost_of(int op) {
    if (reads_nothing(op)) return op == LF_LOAD;
    if (op == LF_DIVIDE || op == LF_SQRT || op == LF_ADD_ROOT || op == LF_SUBTRACT_SHARE) return 3;
    if (op == LF_EXP || op == LF_TANH || op == LF_LOG || op == LF_EXPM1 || op == LF_LOG1P) return 8;
    return op == LF_POWER || (op >= LF_SIN && op <= LF_ERFC) || op == LF_NDTR ? 20 : 1;
}

void lf_prepare(lf_program *p) {
    int work[2 * p->instructions + 2];
    find_scalars(p);
    join(p, work);
    find_numbers(p, work);
    find_order(p);
    find_destinations(p);
    give_slots(p, work, work + p->instructions + 1);
    ptrdiff_t size = p->is_double ? 8 : 4;
    ptrdiff_t pieces = p->slots ? p->slots : 1;
    p->cost = p->stores;
    for (int i = 0; i < p->instructions; i++) {
        p->cost += cost_of(p->code[i].op);
        pieces += p->code[i].op == LF_LOAD && p->parameter[p->code[i].a].kind == LF_BLOCK;
    }
    ptrdiff_t block = CACHE / (size * pieces) & ~63;
    p->block = (int32_t)(block < 128 ? 128 : block > 2048 ? 2048 : block);
}

/* Memory for one run, on the thread that runs. */
static size_t scratch_size(const lf_program *p) {
    size_t size = p->is_double ? 8 : 4, block = (size_t)p->block, count = (size_t)p->instructions;
    return (size_t)p->slots * block * size + (size_t)p->stores * block * 8 + count * (sizeof(void *) + size) + 64;
}

typedef struct {
    const lf_program *program;
    const lf_argument *arguments;
    ptrdiff_t low, high;
    int by_columns;
    volatile int failed; /* written by any part, read behind all of them */
} a_run;

static void run_part(void *context, int part, int parts) {
    a_run *r = context;
    ptrdiff_t low = r->low, high = r->high, left = 0, right = r->program->width;
    if (r->by_columns) {
        left = lf_begin(r->program->width, 64, part, parts);
        right = lf_begin(r->program->width, 64, part + 1, parts);
    } else {
        ptrdiff_t step = r->program->width == 1 ? 64 : 1;
        low = r->low + lf_begin(r->high - r->low, step, part, parts);
        high = r->low + lf_begin(r->high - r->low, step, part + 1, parts);
    }
    if (low >= high || left >= right) return;
    char *memory = malloc(scratch_size(r->program) + 64);
    if (!memory) {
        r->failed = 1;
        return;
    }
    char *scratch = memory + (64 - (uintptr_t)memory % 64);
    chosen->of[r->program->is_double].run(r->program, r->arguments, low, high, left, right, scratch);
    free(memory);
}

/* Whether rows can be computed apart: what a row writes is its own. */
static int rows_are_apart(const lf_program *p) {
    for (int k = 0; k < p->stores; k++) {
        int kind = p->parameter[p->store[k].argument].kind;
        if (kind != LF_BLOCK && kind != LF_NUMBER) return 0;
    }
    return 1;
}

/* Whether columns can be: nothing is summed over them, and rows of a buffer that are written are the same or apart, with
 * each element in the same column of all that have it. */
static int columns_are_apart(const lf_program *p, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t high) {
    ptrdiff_t rest = -1;
    for (int k = 0; k < p->stores; k++) {
        const lf_store *s = p->store + k;
        if (p->width == 1 || p->parameter[s->argument].single) return 0;
        if (p->parameter[s->argument].kind != LF_ROWS) continue;
        for (ptrdiff_t row = low; row < high; row++) {
            ptrdiff_t found = (arguments[s->argument].starts[row] + s->shift) % p->width;
            if (rest >= 0 && found != rest) return 0;
            rest = found;
        }
    }
    return 1;
}

int lf_run(const lf_program *p, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t high) {
    a_run r = {p, arguments, low, high, 0, 0};
    int parts = lf_parts((high - low) * p->width * p->cost);
    if (parts > 1 && (high - low < parts || !rows_are_apart(p))) {
        r.by_columns = 1;
        if (p->width < 64 * parts) parts = (int)(p->width / 64);
        if (parts < 2 || !columns_are_apart(p, arguments, low, high)) parts = 1;
    }
    lf_share(run_part, &r, parts < 1 ? 1 : parts);
    return !r.failed;
}

/* Rows of a matrix that are parts of a flat buffer: see machine.h. */
typedef struct {
    int is_double;
    char *matrix;
    ptrdiff_t pitch;
    void *buffer;
    const int64_t *at;
    ptrdiff_t stride;
    const int64_t *columns, *widths;
    ptrdiff_t parts, rows;
} some_rows;

static int parts_of_rows(const some_rows *r) {
    ptrdiff_t found = 0;
    for (ptrdiff_t k = 0; k < r->parts; k++) found += r->widths[k];
    return lf_parts(4 * found * r->rows);
}

static void gather_part(void *context, int part, int parts) {
    const some_rows *r = context;
    ptrdiff_t low = lf_begin(r->rows, 1, part, parts), high = lf_begin(r->rows, 1, part + 1, parts);
    char *out = r->matrix + low * r->pitch * (r->is_double ? 8 : 4);
    chosen->of[r->is_double].gather(out, r->pitch, r->buffer, r->at + low, r->stride, r->columns, r->widths, r->parts,
                                    high - low);
}

void lf_gather(int is_double, void *out, ptrdiff_t pitch, const void *buffer, const int64_t *at, ptrdiff_t stride,
               const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t rows) {
    some_rows r = {is_double, out, pitch, (void *)buffer, at, stride, columns, widths, parts, rows};
    lf_share(gather_part, &r, parts_of_rows(&r));
}

static void add_part(void *context, int part, int parts) {
    const some_rows *r = context;
    chosen->of[r->is_double].add_rows(r->buffer, r->at, r->stride, r->matrix, r->pitch, r->columns, r->widths, r->parts,
                                      r->rows, part, parts);
}

void lf_add_rows(int is_double, void *buffer, const int64_t *at, ptrdiff_t stride, const void *rows, ptrdiff_t pitch,
                 const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t count) {
    some_rows r = {is_double, (void *)rows, pitch, buffer, at, stride, columns, widths, parts, count};
    int shared = parts_of_rows(&r);
    lf_share(add_part, &r, shared < lf_threads() ? shared : lf_threads());
}

typedef struct {
    int is_double, how;
    char *out;
    const void *rows;
    ptrdiff_t pitch;
    const int64_t *positions, *starts;
    ptrdiff_t groups, width;
    volatile int failed;
} some_groups;

static void groups_part(void *context, int part, int parts) {
    some_groups *g = context;
    ptrdiff_t low = lf_begin(g->groups, 1, part, parts), high = lf_begin(g->groups, 1, part + 1, parts);
    double *sums = malloc(sizeof(double) * (g->width + 1));
    if (!sums)
        g->failed = 1;
    else
        chosen->of[g->is_double].reduce_groups(g->how, g->out + low * g->width * (g->is_double ? 8 : 4), g->rows,
                                               g->pitch, g->positions, g->starts + low, high - low, g->width, sums);
    free(sums);
}

int lf_reduce_groups(int is_double, int how, void *out, const void *rows, ptrdiff_t pitch, const int64_t *positions,
                     const int64_t *starts, ptrdiff_t groups, ptrdiff_t width) {
    some_groups g = {is_double, how, out, rows, pitch, positions, starts, groups, width, 0};
    int parts = groups ? lf_parts(4 * (starts[groups] - starts[0]) * width) : 1;
    lf_share(groups_part, &g, groups < parts ? 1 : parts);
    return !g.failed;
}

typedef struct {
    int is_double, slopes;
    const char *scores;
    ptrdiff_t pitch;
    const int64_t *index;
    const char *share;
    ptrdiff_t step;
    char *out;
    ptrdiff_t out_pitch, rows, classes;
    volatile int failed;
    volatile ptrdiff_t wrong;
} losses;

static void losses_part(void *context, int part, int parts) {
    losses *l = context;
    ptrdiff_t low = lf_begin(l->rows, 1, part, parts), high = lf_begin(l->rows, 1, part + 1, parts), found;
    ptrdiff_t size = l->is_double ? 8 : 4;
    const kernels *k = &chosen->of[l->is_double];
    const char *scores = l->scores + low * l->pitch * size;
    void *scratch = malloc(8 * (l->classes + 32));
    if (!scratch) {
        l->failed = 1;
        return;
    }
    if (l->slopes)
        found = k->cross_entropy_slopes(scores, l->pitch, l->index + low, l->share + low * l->step * size, l->step,
                                        l->out + low * l->out_pitch * size, l->out_pitch, high - low, l->classes, scratch);
    else
        found = k->cross_entropy(scores, l->pitch, l->index + low, l->out + low * l->step * size, l->step, high - low,
                                 l->classes, scratch);
    free(scratch);
    if (found >= 0) l->wrong = low + found;
}

static int run_losses(losses *l, ptrdiff_t *wrong) {
    lf_share(losses_part, l, lf_parts(12 * l->rows * l->classes));
    if (l->wrong >= 0) *wrong = l->wrong;
    return !l->failed;
}

int lf_cross_entropy(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index, void *out, ptrdiff_t step,
                     ptrdiff_t rows, ptrdiff_t classes, ptrdiff_t *wrong) {
    losses l = {is_double, 0, scores, pitch, index, NULL, step, out, 0, rows, classes, 0, -1};
    return run_losses(&l, wrong);
}

int lf_cross_entropy_slopes(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index, const void *share,
                            ptrdiff_t step, void *out, ptrdiff_t out_pitch, ptrdiff_t rows, ptrdiff_t classes,
                            ptrdiff_t *wrong) {
    losses l = {is_double, 1, scores, pitch, index, share, step, out, out_pitch, rows, classes, 0, -1};
    return run_losses(&l, wrong);
}

typedef struct {
    int is_double, what;
    const char *x, *y, *g;
    char *out;
    ptrdiff_t rows, width;
    double eps;
    volatile int failed;
} rows_along;

static void along_part(void *context, int part, int parts) {
    rows_along *r = context;
    ptrdiff_t low = lf_begin(r->rows, 1, part, parts), high = lf_begin(r->rows, 1, part + 1, parts);
    ptrdiff_t at = low * r->width * (r->is_double ? 8 : 4);
    void *scratch = malloc(8 * (r->width + 32));
    if (!scratch)
        r->failed = 1;
    else
        chosen->of[r->is_double].along(r->what, r->x + at, r->y ? r->y + at : NULL, r->g ? r->g + at : NULL, r->out + at,
                                       high - low, r->width, r->eps, scratch);
    free(scratch);
}

int lf_along(int is_double, int what, const void *x, const void *y, const void *g, void *out, ptrdiff_t rows,
             ptrdiff_t width, double eps) {
    rows_along r = {is_double, what, x, y, g, out, rows, width, eps, 0};
    int parts = lf_parts(12 * rows * width);
    lf_share(along_part, &r, rows < parts ? 1 : parts);
    return !r.failed;
}

typedef struct {
    const lf_attention *attention;
    ptrdiff_t scratch; /* bytes */
    volatile int failed;
} some_heads;

static void heads_part(void *context, int part, int parts) {
    some_heads *s = context;
    const lf_attention *v = s->attention;
    void *scratch = malloc(s->scratch);
    if (scratch)
        chosen->of[v->is_double].attend(v, lf_begin(v->nodes * v->heads, 1, part, parts),
                                        lf_begin(v->nodes * v->heads, 1, part + 1, parts), scratch);
    else
        s->failed = 1;
    free(scratch);
}

int lf_attend(const lf_attention *v) {
    ptrdiff_t widest = (v->width > v->v_width ? v->width : v->v_width) + 16, most = v->most + 16, heads = v->nodes * v->heads;
    some_heads s = {v, 8 * (most * (2 * ATTENDED + 3 * widest) + ATTENDED * widest), 0};
    int parts = lf_parts(heads ? v->ends[v->nodes - 1] * v->heads * v->most * (v->width + v->v_width) / 8 : 0);
    if (heads) lf_share(heads_part, &s, heads < parts ? (int)heads : parts);
    return !s.failed;
}
