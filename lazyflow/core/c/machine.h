/* A machine for fused elementwise programs: no code is made at run time, and no length is compiled in.
 *
 * A program is a list of instructions on rows of elements. It runs on one block of elements after the other, small
 * enough for the first cache; a register is a piece of memory for one such block, and an instruction a loop over it that
 * the compiler has turned into vector code. So what interpreting costs, a jump an instruction, is paid once for some
 * hundred elements (the block interpreter of MonetDB/X100: Boncz, Zukowski and Nes 2005).
 */
#ifndef LAZYFLOW_MACHINE_H
#define LAZYFLOW_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* How an argument lies in memory: a matrix, rows of a flat buffer by their element offsets, one row for all, one number
 * a row. */
enum { LF_BLOCK, LF_ROWS, LF_VECTOR, LF_NUMBER };

enum {
    LF_LOAD,
    LF_CONSTANT,
    LF_ADD,
    LF_SUBTRACT,
    LF_MULTIPLY,
    LF_DIVIDE,
    LF_FLOOR_DIVIDE,
    LF_REMAINDER,
    LF_POWER,
    LF_NEGATIVE,
    LF_ABS,
    LF_SIGN,
    LF_MAXIMUM,
    LF_MINIMUM,
    LF_SQRT,
    LF_EXP,
    LF_EXPM1,
    LF_LOG,
    LF_LOG1P,
    LF_SIN,
    LF_COS,
    LF_TAN,
    LF_ARCSIN,
    LF_ARCCOS,
    LF_ARCTAN,
    LF_ARCTAN2,
    LF_SINH,
    LF_COSH,
    LF_TANH,
    LF_ARCSINH,
    LF_ARCCOSH,
    LF_ARCTANH,
    LF_ERF,
    LF_ERFC,
    LF_FLOOR,
    LF_CEIL,
    LF_ROUND,
    LF_EQUAL,
    LF_NOT_EQUAL,
    LF_LESS,
    LF_LESS_EQUAL,
    LF_GREATER,
    LF_GREATER_EQUAL,
    LF_LOGICAL_AND,
    LF_LOGICAL_OR,
    LF_LOGICAL_NOT,
    LF_ISFINITE,
    LF_ISNAN,
    LF_WHERE,
    LF_WHERE_NONZERO,
    LF_MULTIPLY_OR_ZERO,
    LF_HYPOT,
    LF_NDTR,
    LF_CBRT,
    LF_EXP2,
    LF_LOG2,
    LF_LOG10,
    LF_FMAX,
    LF_FMIN,
    LF_DEG2RAD,
    LF_RAD2DEG,
    LF_LOGADDEXP,
    LF_LOGADDEXP2,
    /* What lf_prepare makes of the others: a load of one number for the whole run, what only one sum or difference reads
     * (rounded as before, in one loop), and what is left of that. */
    LF_SCALAR,
    LF_ADD_PRODUCT,       /* c + a b */
    LF_SUBTRACT_PRODUCT,  /* c - a b */
    LF_PRODUCT_SUBTRACT,  /* a b - c */
    LF_ADD_PRODUCTS,      /* a b + c d */
    LF_SUBTRACT_PRODUCTS, /* a b - c d */
    LF_ADD_ROOT,          /* sqrt(a) + b */
    LF_SUBTRACT_SHARE,    /* d - a / b c */
    LF_NOTHING,
    LF_COUNT
};

/* Instruction i makes value i. A load reads argument `a` from column `b` on; a constant is number `a` of the constants;
 * all others read values. `slot`: the register that the value is in, of a number that no loop reads as a row the place
 * among these; `store`: the store that may take it there instead, or -1; `numbers`: the operands, bit 0 for `a`, that are
 * such numbers, and of such a number itself 1; `next`: the instruction that is run after this one. */
typedef struct {
    int32_t op, a, b, c, d, slot, store, numbers, next;
} lf_instruction;

/* `value` goes to columns from `shift` on of an argument, added to what is there or in its place. In an argument of one
 * column, that is the sum of a row. */
typedef struct {
    int32_t argument, shift, value, adds;
} lf_store;

typedef struct {
    int32_t kind, single; /* single: one element stands for a whole row */
} lf_parameter;

typedef struct {
    ptrdiff_t width;      /* elements of a row */
    int32_t instructions, stores, parameters, slots, block, is_double;
    int32_t distinct; /* whether no argument lies in the memory of another */
    int32_t cost;     /* of an element, in passes over the first cache */
    int32_t first;    /* the instruction that a block begins with */
    int32_t loops;    /* how many are run for a block, without loads */
    lf_instruction *code;
    lf_store *store;
    lf_parameter *parameter;
    double *constant;
} lf_program;

/* Element 0 of row 0, elements from one row to the next, and for LF_ROWS where each row begins. */
typedef struct {
    char *data;
    ptrdiff_t pitch;
    const int64_t *starts;
} lf_argument;

/* Fill in the registers, the length of a block and the cost. */
void lf_prepare(lf_program *program);

/* Rows `low` to `high` (not included). What follows may run on as many threads as lf_use_threads has said, with the same
 * results to the bit; it returns 0 where there is no memory left. */
int lf_run(const lf_program *program, const lf_argument *arguments, ptrdiff_t low, ptrdiff_t high);

/* Rows of a flat buffer into columns of a matrix, of several parts of each row; and the transpose, adding: rows may
 * repeat. Part k of row i begins at element at[k * stride + i], and goes to, or comes from, columns[k] on. `pitch`: from
 * one row of the matrix to the next. */
void lf_gather(int is_double, void *out, ptrdiff_t pitch, const void *buffer, const int64_t *at, ptrdiff_t stride,
               const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t rows);
void lf_add_rows(int is_double, void *buffer, const int64_t *at, ptrdiff_t stride, const void *rows, ptrdiff_t pitch,
                 const int64_t *columns, const int64_t *widths, ptrdiff_t parts, ptrdiff_t count);

/* What groups of rows become: see rows.h. `positions` may be NULL: the rows in order. */
enum { LF_SUM, LF_SMALLEST, LF_LARGEST };
int lf_reduce_groups(int is_double, int how, void *out, const void *rows, ptrdiff_t pitch, const int64_t *positions,
                     const int64_t *starts, ptrdiff_t groups, ptrdiff_t width);

/* Cross-entropy of rows of scores, and its slopes. `*wrong` becomes a row whose index is no class, or stays. */
int lf_cross_entropy(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index, void *out, ptrdiff_t step,
                     ptrdiff_t rows, ptrdiff_t classes, ptrdiff_t *wrong);
int lf_cross_entropy_slopes(int is_double, const void *scores, ptrdiff_t pitch, const int64_t *index, const void *share,
                            ptrdiff_t step, void *out, ptrdiff_t out_pitch, ptrdiff_t rows, ptrdiff_t classes,
                            ptrdiff_t *wrong);

/* Along the rows of a matrix, which stand one after the other: softmax, its logarithm, and rows less their mean over their root
 * mean square, to whose square `eps` is added; and the cotangents of their operand, from those of the result, `g`. */
enum { LF_SOFTMAX, LF_LOG_SOFTMAX, LF_STANDARDISE, LF_SOFTMAX_SLOPES, LF_LOG_SOFTMAX_SLOPES, LF_STANDARDISE_SLOPES };
int lf_along(int is_double, int what, const void *x, const void *y, const void *g, void *out, ptrdiff_t rows,
             ptrdiff_t width, double eps);

/* Attention of `nodes` nodes, each of some rows of queries and of keys and values, in `heads` columns of `width` and `v_width`
 * elements each: out = softmax(scale q k^T) v. Where the rows of each node end stands in `ends`, of queries and then of keys;
 * `most`: the keys of the longest. Rows are a pitch apart. `causal`: query i sees the keys up to i. `back`: the cotangents of q, k
 * and v, contiguous, those of k and v added, from those of the result, `out`; NULL: not wanted.
 *
 * `mask`: truth values, where they are seen or hidden, or numbers that are added to the scores, for each key of a node, for each
 * query and key, or for these by heads; a query that sees nothing gets zeros. `kept`: what weights are multiplied by, by heads.
 * Both stand end to end for all nodes, or, not for `each`, are one for all. `to_mask`: the cotangents of numbers, by heads.
 *
 * `weights`: in place of the result the weights themselves, by heads, or their cotangents; then values have no columns. */
enum { LF_NO_MASK, LF_SEEN, LF_HIDDEN, LF_ADDED };
enum { LF_OF_KEYS, LF_OF_ALL, LF_OF_HEADS };
typedef struct {
    int is_double, causal, back, masked, mask_of, mask_each, kept_each;
    ptrdiff_t nodes, heads, width, v_width, most;
    double scale;
    const int64_t *ends;
    const void *q, *k, *v, *mask, *kept;
    void *out, *to_q, *to_k, *to_v, *to_mask, *weights;
    ptrdiff_t q_pitch, k_pitch, v_pitch, out_pitch;
} lf_attention;
int lf_attend(const lf_attention *attention);

/* The instruction set that runs: "avx512", "avx2", "baseline". Returns 0 if this machine has no such set. */
const char *lf_instruction_set(void);
/* Its place among all, the least first. */
int lf_set_number(void);
int lf_use_instruction_set(const char *name);

#endif
