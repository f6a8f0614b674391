/* Included once for each type and instruction set, behind functions.h; see machine.h. */

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

/* A loop over a block; the length is a multiple of LANES, so that no element is left for a scalar loop. What is written
 * may be what is read at the same index, but nothing else. */
#if defined(__clang__)
#define EACH _Pragma("clang loop vectorize(assume_safety)") for (ptrdiff_t i = 0; i < n; i++)
#else
#define EACH _Pragma("GCC ivdep") for (ptrdiff_t i = 0; i < n; i++)
#endif
#define LANES 16
#define LINE 64     /* bytes of a cache line */
#define FAR 262144  /* elements of a run whose arguments will not be in cache */
#define STREAMS 8   /* of how many of them the next block is fetched at most */

#define UNARY(name, expression)                                                   \
    static void N(loop_##name)(REAL *out, const REAL *p, ptrdiff_t count) {        \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        EACH { REAL x = p[i]; out[i] = (REAL)(expression); }                      \
    }
#define BINARY(name, expression)                                                  \
    static void N(loop_##name)(REAL *out, const REAL *p, const REAL *q, ptrdiff_t count) { \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        EACH { REAL a = p[i], b = q[i]; out[i] = (REAL)(expression); }            \
    }

/* The operands of which `numbers` has a bit are one number each. */
#define ARITHMETIC(name, expression)                                              \
    static void N(loop_##name)(REAL *out, const REAL *p, const REAL *q, int numbers, ptrdiff_t count) { \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        const REAL x = *p, y = *q;                                                \
        if (!numbers) {                                                           \
            EACH { REAL a = p[i], b = q[i]; out[i] = (REAL)(expression); }        \
        } else if (numbers == 1) {                                                \
            EACH { REAL a = x, b = q[i]; out[i] = (REAL)(expression); }           \
        } else if (numbers == 2) {                                                \
            EACH { REAL a = p[i], b = y; out[i] = (REAL)(expression); }           \
        } else {                                                                  \
            EACH { REAL a = x, b = y; out[i] = (REAL)(expression); }              \
        }                                                                         \
    }
ARITHMETIC(add, a + b)
ARITHMETIC(subtract, a - b)
ARITHMETIC(multiply, a * b)
ARITHMETIC(divide, a / b)
BINARY(floor_divide, N(floor_divide)(a, b))
BINARY(remainder, N(remainder)(a, b))
BINARY(maximum, N(maximum)(a, b))
BINARY(minimum, N(minimum)(a, b))
BINARY(equal, a == b ? C(1.0) : C(0.0))
BINARY(not_equal, a != b ? C(1.0) : C(0.0))
BINARY(less, a < b ? C(1.0) : C(0.0))
BINARY(less_equal, a <= b ? C(1.0) : C(0.0))
BINARY(greater, a > b ? C(1.0) : C(0.0))
BINARY(greater_equal, a >= b ? C(1.0) : C(0.0))
BINARY(logical_and, (a != C(0.0)) & (b != C(0.0)) ? C(1.0) : C(0.0))
BINARY(logical_or, (a != C(0.0)) | (b != C(0.0)) ? C(1.0) : C(0.0))
UNARY(logical_not, x == C(0.0) ? C(1.0) : C(0.0))
UNARY(isfinite, ABS(x) < INFINITY ? C(1.0) : C(0.0))
UNARY(isnan, x != x ? C(1.0) : C(0.0))
UNARY(negative, -x)
UNARY(abs, ABS(x))
UNARY(sign, N(sign)(x))
UNARY(sqrt, SQRT(x))
UNARY(floor, FLOOR(x))
UNARY(ceil, CEIL(x))
UNARY(round, N(round)(x))
UNARY(exp, N(exp)(x))
UNARY(expm1, N(expm1)(x))
UNARY(log, N(log)(x))
UNARY(log1p, N(log1p)(x))
UNARY(sinh, N(sinh)(x))
UNARY(cosh, N(cosh)(x))
UNARY(tanh, N(tanh)(x))
UNARY(arcsinh, N(arcsinh)(x))
UNARY(arccosh, N(arccosh)(x))
UNARY(arctanh, N(arctanh)(x))
UNARY(arcsin, N(arcsin)(x))
UNARY(arccos, N(arccos)(x))
UNARY(arctan, N(arctan)(x))
BINARY(arctan2, N(arctan2)(a, b))
UNARY(erf, D(erf)((double)x))
UNARY(erfc, D(erfc)((double)x))
UNARY(ndtr, D(ndtr)((double)x))
BINARY(power, N(power)(a, b))
BINARY(hypot, D(hypot)((double)a, (double)b))
UNARY(cbrt, N(cbrt)(x))
UNARY(exp2, N(exp2)(x))
UNARY(log2, N(log2)(x))
UNARY(log10, N(log10)(x))
BINARY(fmax, N(fmax)(a, b))
BINARY(fmin, N(fmin)(a, b))
UNARY(deg2rad, x * C(0.017453292519943295))
UNARY(rad2deg, x * C(57.29577951308232))
BINARY(logaddexp, N(logaddexp)(a, b))
BINARY(logaddexp2, D(logaddexp2)((double)a, (double)b))

static void N(loop_where)(REAL *out, const REAL *c, const REAL *p, const REAL *q, ptrdiff_t count) {
    ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);
    EACH { REAL a = p[i], b = q[i]; out[i] = c[i] != C(0.0) ? a : b; }
}

/* Products and sums; the second factor of a product, and what one is added to, may be a number. */
#define PRODUCT(name, expression)                                                 \
    ALWAYS void N(each_##name)(REAL *out, const REAL *p, const REAL *q, const REAL *r, const int numbers, ptrdiff_t n) { \
        const REAL y = *q, z = *r;                                                \
        EACH { REAL ab = p[i] * (numbers & 2 ? y : q[i]), c = numbers & 4 ? z : r[i]; out[i] = expression; } \
    }                                                                             \
    static void N(loop_##name)(REAL *out, const REAL *p, const REAL *q, const REAL *r, int numbers, ptrdiff_t count) { \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        if (!numbers) N(each_##name)(out, p, q, r, 0, n);                         \
        else if (numbers == 2) N(each_##name)(out, p, q, r, 2, n);                \
        else if (numbers == 4) N(each_##name)(out, p, q, r, 4, n);                \
        else N(each_##name)(out, p, q, r, 6, n);                                  \
    }
PRODUCT(add_product, c + ab)
PRODUCT(subtract_product, c - ab)
PRODUCT(product_subtract, ab - c)

#define PRODUCTS(name, expression)                                                \
    ALWAYS void N(each_##name)(REAL *out, const REAL *p, const REAL *q, const REAL *r, const REAL *s, const int numbers, \
                               ptrdiff_t n) {                                     \
        const REAL y = *q, z = *s;                                                \
        EACH { REAL ab = p[i] * (numbers & 2 ? y : q[i]), cd = r[i] * (numbers & 8 ? z : s[i]); out[i] = expression; } \
    }                                                                             \
    static void N(loop_##name)(REAL *out, const REAL *p, const REAL *q, const REAL *r, const REAL *s, int numbers, \
                               ptrdiff_t count) {                                 \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        if (!numbers) N(each_##name)(out, p, q, r, s, 0, n);                      \
        else if (numbers == 2) N(each_##name)(out, p, q, r, s, 2, n);             \
        else if (numbers == 8) N(each_##name)(out, p, q, r, s, 8, n);             \
        else N(each_##name)(out, p, q, r, s, 10, n);                              \
    }
PRODUCTS(add_products, ab + cd)
PRODUCTS(subtract_products, ab - cd)

static void N(loop_add_root)(REAL *out, const REAL *p, const REAL *q, int numbers, ptrdiff_t count) {
    ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);
    const REAL y = *q;
    if (numbers) {
        EACH { out[i] = SQRT(p[i]) + y; }
    } else {
        EACH { out[i] = SQRT(p[i]) + q[i]; }
    }
}

static void N(loop_subtract_share)(REAL *out, const REAL *p, const REAL *q, const REAL *r, const REAL *s, int numbers,
                                   ptrdiff_t count) {
    ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);
    const REAL z = *r;
    if (numbers) {
        EACH { REAL share = p[i] / q[i] * z; out[i] = s[i] - share; }
    } else {
        EACH { REAL share = p[i] / q[i] * r[i]; out[i] = s[i] - share; }
    }
}

/* A cotangent that is zero stays zero, of either sign, whatever the slope is. */
BINARY(where_nonzero, (a != C(0.0)) | (b == b) ? b : C(0.0))
BINARY(multiply_or_zero, ((a != C(0.0)) & (b != C(0.0))) | (a * b == a * b) ? a * b : C(0.0))

/* Angles beyond the reach of the reduction, one element at a time by the C library: what an element becomes must not
 * depend on its neighbours. */
static int N(has_large)(const REAL *p, ptrdiff_t n) {
    int found = 0;
    for (ptrdiff_t i = 0; i < n; i++) found |= !(ABS(p[i]) <= (REAL)LARGE_ANGLE);
    return found;
}

#define ANGLE(name)                                                               \
    static void N(loop_##name)(REAL *out, const REAL *p, ptrdiff_t count, ptrdiff_t filled) { \
        ptrdiff_t n = count & ~(ptrdiff_t)(LANES - 1);                            \
        if (!N(has_large)(p, filled)) { /* what lies behind is anything */        \
            EACH { out[i] = (REAL)D(name)((double)p[i]); }                        \
            return;                                                               \
        }                                                                         \
        for (ptrdiff_t i = 0; i < n; i++) {                                       \
            double x = p[i];                                                      \
            out[i] = (REAL)(fabs(x) <= LARGE_ANGLE ? D(name)(x) : name(x));       \
        }                                                                         \
    }
ANGLE(sin)
ANGLE(cos)
ANGLE(tan)

/* The sum of a row in double precision, in an order that no instruction set changes. */
static double N(row_sum)(const REAL *p, ptrdiff_t n) {
    double part[LANES] = {0};
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) part[k] += p[i + k];
    for (; i < n; i++) part[i & (LANES - 1)] += p[i];
    for (int half = LANES / 2; half; half /= 2)
        for (int k = 0; k < half; k++) part[k] += part[k + half];
    return part[0];
}

static inline void N(fill)(REAL *out, REAL x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) out[i] = x;
}

static inline void N(copy)(REAL *out, const REAL *p, ptrdiff_t n) { __builtin_memcpy(out, p, n * sizeof(REAL)); }

/* Where row `row` of an argument begins. */
static inline REAL *N(row)(const lf_argument *argument, int kind, ptrdiff_t row) {
    REAL *data = (REAL *)argument->data;
    if (kind == LF_ROWS) return data + argument->starts[row];
    if (kind == LF_VECTOR) return data;
    return data + row * argument->pitch;
}

/* One block: `rows` rows from `row` on, `columns` columns from `column` on; rows > 1 only if these are all columns of a
 * run. */
typedef struct {
    ptrdiff_t row, rows, column, columns, count;
    int far; /* whether to fetch what the next block reads */
} N(block);

/* What the next block reads where it lies, all of it: the lines of each argument are asked for some at a time, a share behind
 * each loop of this block. Loops as short as these are over before the processor sees that they walk through memory. */
typedef struct {
    int streams;
    ptrdiff_t done, size, share;
    const char *from[STREAMS];
} N(ahead);

static inline void N(fetch)(N(ahead) *ahead) {
    ptrdiff_t end = ahead->done + ahead->share < ahead->size ? ahead->done + ahead->share : ahead->size;
    for (; ahead->done < end; ahead->done += LINE)
        for (int k = 0; k < ahead->streams; k++) __builtin_prefetch(ahead->from[k] + ahead->done);
}

/* A loaded value: where it lies, if the loops can read it there, else a copy in its register. */
static const REAL *N(load)(const lf_program *program, const lf_instruction *load, const lf_argument *arguments,
                           const N(block) *b, N(ahead) *ahead, REAL *to) {
    const lf_argument *argument = arguments + load->a;
    int kind = program->parameter[load->a].kind, narrow = program->width == 1;
    ptrdiff_t shift = kind == LF_NUMBER ? 0 : load->b;
    if (kind == LF_VECTOR && (narrow || program->parameter[load->a].single)) {
        N(fill)(to, ((REAL *)argument->data)[shift], b->count);
        return to;
    }
    if (!narrow && (kind == LF_NUMBER || program->parameter[load->a].single)) {
        for (ptrdiff_t r = 0; r < b->rows; r++)
            N(fill)(to + r * b->columns, N(row)(argument, kind, b->row + r)[shift], b->columns);
        return to;
    }
    shift += b->column;
    int joined = b->rows == 1 || (kind != LF_ROWS && kind != LF_VECTOR && argument->pitch == b->columns);
    if (joined) {
        const REAL *from = N(row)(argument, kind, b->row) + shift;
        if (b->far && ahead->streams < STREAMS) ahead->from[ahead->streams++] = (const char *)(from + b->count);
        if (!(b->count & (LANES - 1))) return from;
        N(copy)(to, from, b->count);
        return to;
    }
    for (ptrdiff_t r = 0; r < b->rows; r++)
        N(copy)(to + r * b->columns, N(row)(argument, kind, b->row + r) + shift, b->columns);
    return to;
}

/* Where a block of a store lies, if a loop may write there: its rows behind each other, and whole lanes. */
static REAL *N(destination)(const lf_program *program, const lf_store *store, const lf_argument *arguments,
                            const N(block) *b) {
    const lf_argument *argument = arguments + store->argument;
    const lf_parameter *parameter = program->parameter + store->argument;
    int joined = b->rows == 1 || argument->pitch == b->columns;
    if (parameter->kind != LF_BLOCK || (parameter->single && program->width != 1) || !joined || b->count & (LANES - 1))
        return NULL;
    return N(row)(argument, parameter->kind, b->row) + store->shift + b->column;
}

static void N(store)(const lf_program *program, const lf_store *store, const lf_argument *arguments, const N(block) *b,
                     const REAL *value, double *sums) {
    const lf_argument *argument = arguments + store->argument;
    int kind = program->parameter[store->argument].kind;
    if (program->parameter[store->argument].single && program->width != 1) {
        for (ptrdiff_t r = 0; r < b->rows; r++) {
            double sum = N(row_sum)(value + r * b->columns, b->columns) + (b->column ? sums[r] : 0.0);
            sums[r] = sum;
            if (b->column + b->columns < program->width) continue;
            REAL *to = N(row)(argument, kind, b->row + r) + store->shift;
            *to = store->adds ? *to + (REAL)sum : (REAL)sum;
        }
        return;
    }
    int joined = kind == LF_BLOCK && argument->pitch == b->columns;
    ptrdiff_t rows = joined ? 1 : b->rows, n = joined ? b->count : b->columns;
    for (ptrdiff_t r = 0; r < rows; r++) {
        REAL *to = N(row)(argument, kind, b->row + r) + store->shift + b->column;
        const REAL *from = value + r * n;
        if (store->adds) {
            EACH { to[i] += from[i]; }
        } else
            N(copy)(to, from, n);
    }
}

#define ONE(OP, name) case LF_##OP: N(loop_##name)(out, v[s->a], n); break;
#define TURN(OP, name) case LF_##OP: N(loop_##name)(out, v[s->a], n, b->count); break;
#define TWO(OP, name) case LF_##OP: N(loop_##name)(out, v[s->a], v[s->b], n); break;
#define SUM_OF(OP, name) case LF_##OP: N(loop_##name)(out, v[s->a], v[s->b], s->numbers, n); break;
#define SUM_OF_PRODUCT(OP, name) case LF_##OP: N(loop_##name)(out, v[s->a], v[s->b], v[s->c], s->numbers, n); break;
#define SUM_OF_PRODUCTS(OP, name) \
    case LF_##OP: N(loop_##name)(out, v[s->a], v[s->b], v[s->c], v[s->d], s->numbers, n); break;

static void N(run_block)(const lf_program *program, const lf_argument *arguments, const N(block) *b, const REAL **v,
                         REAL *registers, double *sums) {
    ptrdiff_t n = (b->count + LANES - 1) & ~(ptrdiff_t)(LANES - 1);
    N(ahead) ahead;
    ahead.streams = 0, ahead.done = 0, ahead.size = b->count * sizeof(REAL);
    ahead.share = program->loops ? ahead.size / program->loops + LINE : ahead.size;
    for (int k = program->first; k < program->instructions; k = program->code[k].next) {
        const lf_instruction *s = program->code + k;
        REAL *out = registers + (ptrdiff_t)s->slot * program->block;
        REAL *there = s->store >= 0 ? N(destination)(program, program->store + s->store, arguments, b) : NULL;
        out = there ? there : out;
        switch (s->op) {
        case LF_LOAD: v[k] = N(load)(program, s, arguments, b, &ahead, out); continue;
        SUM_OF(ADD, add) SUM_OF(SUBTRACT, subtract) SUM_OF(MULTIPLY, multiply) SUM_OF(DIVIDE, divide)
        SUM_OF(ADD_ROOT, add_root) SUM_OF_PRODUCT(ADD_PRODUCT, add_product)
        SUM_OF_PRODUCT(SUBTRACT_PRODUCT, subtract_product) SUM_OF_PRODUCT(PRODUCT_SUBTRACT, product_subtract)
        SUM_OF_PRODUCTS(ADD_PRODUCTS, add_products) SUM_OF_PRODUCTS(SUBTRACT_PRODUCTS, subtract_products)
        SUM_OF_PRODUCTS(SUBTRACT_SHARE, subtract_share)
        TWO(FLOOR_DIVIDE, floor_divide) TWO(REMAINDER, remainder) TWO(POWER, power)
        TWO(MAXIMUM, maximum) TWO(MINIMUM, minimum) TWO(ARCTAN2, arctan2)
        TWO(EQUAL, equal) TWO(NOT_EQUAL, not_equal) TWO(LESS, less) TWO(LESS_EQUAL, less_equal)
        TWO(GREATER, greater) TWO(GREATER_EQUAL, greater_equal)
        TWO(LOGICAL_AND, logical_and) TWO(LOGICAL_OR, logical_or)
        ONE(LOGICAL_NOT, logical_not) ONE(ISFINITE, isfinite) ONE(ISNAN, isnan)
        ONE(NEGATIVE, negative) ONE(ABS, abs) ONE(SIGN, sign) ONE(SQRT, sqrt)
        ONE(EXP, exp) ONE(EXPM1, expm1) ONE(LOG, log) ONE(LOG1P, log1p)
        TURN(SIN, sin) TURN(COS, cos) TURN(TAN, tan) ONE(ARCSIN, arcsin) ONE(ARCCOS, arccos) ONE(ARCTAN, arctan)
        ONE(SINH, sinh) ONE(COSH, cosh) ONE(TANH, tanh)
        ONE(ARCSINH, arcsinh) ONE(ARCCOSH, arccosh) ONE(ARCTANH, arctanh)
        ONE(ERF, erf) ONE(ERFC, erfc) ONE(FLOOR, floor) ONE(CEIL, ceil) ONE(ROUND, round)
        ONE(NDTR, ndtr) ONE(CBRT, cbrt) ONE(EXP2, exp2) ONE(LOG2, log2) ONE(LOG10, log10)
        ONE(DEG2RAD, deg2rad) ONE(RAD2DEG, rad2deg) TWO(FMAX, fmax) TWO(FMIN, fmin)
        TWO(HYPOT, hypot) TWO(LOGADDEXP, logaddexp) TWO(LOGADDEXP2, logaddexp2)
        TWO(WHERE_NONZERO, where_nonzero) TWO(MULTIPLY_OR_ZERO, multiply_or_zero)
        case LF_WHERE: N(loop_where)(out, v[s->a], v[s->b], v[s->c], n); break;
        }
        v[k] = out;
        if (ahead.streams) N(fetch)(&ahead);
    }
    for (int k = 0; k < program->stores; k++) {
        const lf_store *s = program->store + k;
        if (program->code[s->value].store == k && v[s->value] == N(destination)(program, s, arguments, b)) continue;
        N(store)(program, s, arguments, b, v[s->value], sums + k * (ptrdiff_t)program->block);
    }
}

/* Numbers, each filled in once a run: those that some loop reads as a row with whole lanes of a block of `n` elements, in a
 * register, all others behind the values `v`. */
static void N(fill_numbers)(const lf_program *program, const lf_argument *arguments, const REAL **v, REAL *registers,
                            ptrdiff_t n) {
    ptrdiff_t lanes = (n + LANES - 1) & ~(ptrdiff_t)(LANES - 1);
    REAL *single = (REAL *)(v + program->instructions);
    for (int k = 0; k < program->instructions; k++) {
        const lf_instruction *s = program->code + k;
        if (s->op != LF_CONSTANT && s->op != LF_SCALAR) continue;
        REAL *to = s->numbers ? single + s->slot : registers + (ptrdiff_t)s->slot * program->block;
        REAL number = s->op == LF_CONSTANT ? (REAL)program->constant[s->a] : ((REAL *)arguments[s->a].data)[s->b];
        N(fill)(to, number, s->numbers ? 1 : lanes);
        v[k] = to;
    }
}

/* Elements that lie before the first whole line of what is written: blocks behind them begin with one, and as a rule
 * those of what is read do, too. The sum of a row stays the sum of the same parts, and what is added in several places of
 * one argument is added in the same order. */
static ptrdiff_t N(lead)(const lf_program *program, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t left) {
    for (int k = 0; k < program->stores; k++) {
        const lf_store *one = program->store + k;
        if (program->parameter[one->argument].single && program->width != 1) return 0;
        for (int j = 0; j < k; j++)
            if (program->store[j].argument == one->argument) return 0;
    }
    const lf_store *first = program->store;
    if (!program->stores || program->parameter[first->argument].kind != LF_BLOCK) return 0;
    uintptr_t at = (uintptr_t)(N(row)(arguments + first->argument, LF_BLOCK, low) + first->shift + left);
    return (ptrdiff_t)((LINE - at % LINE) % LINE / sizeof(REAL));
}

static void N(run)(const lf_program *program, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t high,
                   ptrdiff_t left, ptrdiff_t right, char *scratch) {
    REAL *registers = (REAL *)scratch;
    double *sums = (double *)(scratch + sizeof(REAL) * (size_t)program->slots * program->block);
    const REAL **v = (const REAL **)(sums + (size_t)program->stores * program->block);
    ptrdiff_t width = right - left, most = program->block, all = (high - low) * width;
    N(fill_numbers)(program, arguments, v, registers, all < most ? all : most);
    /* By the whole width, so that several sums into one place are added in one order, however columns are shared. */
    ptrdiff_t together = program->width && program->width <= most ? most / program->width : 1;
    ptrdiff_t head = all > 2 * most && (width == 1 || high - low == 1) ? N(lead)(program, arguments, low, left) : 0;
    for (ptrdiff_t row = low, rows; row < high; row += rows) {
        rows = width == 1 && row == low && head ? head : together;
        rows = high - row < rows ? high - row : rows;
        for (ptrdiff_t column = left, columns; column < right; column += columns) {
            columns = width != 1 && column == left && head ? head : most;
            columns = right - column < columns ? right - column : columns;
            N(block) b = {row, rows, column, columns, rows * columns, all > FAR};
            N(run_block)(program, arguments, &b, v, registers, sums);
        }
    }
}
