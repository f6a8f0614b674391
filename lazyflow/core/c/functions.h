/* The functions of one element, as straight-line code that a compiler turns into vector code: no branches, no tables.
 *
 * Included once for each type and instruction set, with
 *   REAL, INT, UINT   the floating type and the integers of its size,
 *   IS_FLOAT          1 for float, 0 for double,
 *   N(name)           the name that a function gets here,
 *   FMA(a, b, c)      a * b + c, in one rounding where the instruction set has that.
 *
 * FMA stands inside of the functions only, never across two operations of a user's program: so a product and a sum
 * give the same bits fused and alone, with every instruction set. The polynomials are minimax fits by the algorithm of
 * Remez in 60 digits. The reductions are those of Cody and Waite
 * (1980) and of Sun's fdlibm (1993); bounds of the errors stand in the table of accuracy, which the tests read.
 */

#if IS_FLOAT
#define MANTISSA 23
#define BIAS 127
#define MAGIC 12582912.0f /* 1.5 * 2**23: adding it rounds to an integer, which then stands in the low bits */
#define LN2_HI 0.693145751953125f
#define LN2_LO 1.428606820309417e-06f
#define LOG2E 1.4426950408889634f
#define EXP_LEAST (-105.0f)
#define EXP_MOST 89.0f
#define EXPM1_LEAST (-30.0f)
#define EXP2_LEAST (-160.0f)
#define EXP2_MOST 130.0f
#define PI_2 1.57079637f
#define PI_2_LOW -4.37113883e-8f
#define TINY 1.8626451e-09f /* below, expm1 and the like are their argument */
#define SQRT_HALF_BITS 0x3f3504f3
#define LEAST_NORMAL 1.17549435e-38f
#define RAISE 8388608.0f
#define RAISED 23.0f
#define ABS fabsf
#define SQRT sqrtf
#define COPYSIGN copysignf
#define FLOOR floorf
#define CEIL ceilf
#define FMOD fmodf
#define C(x) x##f
#else
#define MANTISSA 52
#define BIAS 1023
#define MAGIC 6755399441055744.0
#define LN2_HI 0.6931471805582987144589424
#define LN2_LO 1.646594958289708128098443e-12
#define LOG2E 1.4426950408889634074
#define EXP_LEAST (-750.0)
#define EXP_MOST 710.0
#define EXPM1_LEAST (-60.0)
#define EXP2_LEAST (-1100.0)
#define EXP2_MOST 1025.0
#define PI_2 1.5707963267948966
#define PI_2_LOW 6.123233995736766e-17
#define TINY 3.4694469519536142e-18
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdLL
#define LEAST_NORMAL 2.2250738585072014e-308
#define RAISE 18014398509481984.0
#define RAISED 54.0
#define ABS fabs
#define SQRT sqrt
#define COPYSIGN copysign
#define FLOOR floor
#define CEIL ceil
#define FMOD fmod
#define C(x) x
#endif

ALWAYS UINT N(bits)(REAL x) {
    UINT u;
    __builtin_memcpy(&u, &x, sizeof x);
    return u;
}

ALWAYS REAL N(real)(UINT u) {
    REAL x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

/* 2**k, of an integer given as an unsigned one. */
ALWAYS REAL N(two_to)(UINT k) { return N(real)((k + BIAS) << MANTISSA); }

/* exp(r) - 1 for |r| up to log(2) / 2. */
ALWAYS REAL N(exp_rest)(REAL r) {
#if IS_FLOAT
    REAL q = FMA(0.000199111866f, r, 0.00139342024f);
    q = FMA(q, r, 0.00833327986f);
    q = FMA(q, r, 0.0416664745f);
    q = FMA(q, r, 0.166666668f);
#else
    REAL q = FMA(1.6093080516586172117e-10, r, 2.0920557590141705665e-9);
    q = FMA(q, r, 2.505204915349033011e-8);
    q = FMA(q, r, 2.7557256088593820902e-7);
    q = FMA(q, r, 2.755731927459835575e-6);
    q = FMA(q, r, 0.000024801587343855931167);
    q = FMA(q, r, 0.0001984126984124813357);
    q = FMA(q, r, 0.0013888888888876065846);
    q = FMA(q, r, 0.0083333333333333375219);
    q = FMA(q, r, 0.041666666666666680204);
    q = FMA(q, r, 0.16666666666666666664);
#endif
    return FMA(r * r, FMA(q, r, C(0.5)), r);
}

/* What exp and expm1 have in common: exp(x) = 2**k (1 + p). */
ALWAYS REAL N(reduced)(REAL x, UINT *k) {
    REAL shifted = FMA(x, LOG2E, MAGIC);
    REAL n = shifted - MAGIC;
    *k = N(bits)(shifted) - N(bits)(MAGIC);
    return N(exp_rest)(FMA(-n, LN2_LO, FMA(-n, LN2_HI, x)));
}

/* x 2**k in two steps, for the results near both ends of the range. */
ALWAYS REAL N(scaled)(REAL x, UINT k) {
    UINT half = ((k + 4096) >> 1) - 2048;
    return x * N(two_to)(half) * N(two_to)(k - half);
}

ALWAYS REAL N(exp)(REAL x) {
    REAL y = x < EXP_LEAST ? EXP_LEAST : x;
    y = y > EXP_MOST ? EXP_MOST : y;
    UINT k;
    REAL p = N(reduced)(y, &k);
    return N(scaled)(C(1.0) + p, k);
}

ALWAYS REAL N(expm1)(REAL x) {
    REAL y = x < EXPM1_LEAST ? EXPM1_LEAST : x;
    y = y > EXP_MOST ? EXP_MOST : y;
    UINT k;
    REAL p = N(reduced)(y, &k);
    REAL half = N(two_to)(k - 1); /* half of 2**k, which may be too large */
    REAL found = C(2.0) * FMA(half, p, half - C(0.5));
    return ABS(x) < TINY ? x : found;
}

/* log(u + u c), for small c. */
ALWAYS REAL N(log_of)(REAL u, REAL c) {
    int small = u < LEAST_NORMAL;
    REAL raised = small ? u * RAISE : u;
    UINT all = N(bits)(raised) - (UINT)SQRT_HALF_BITS;
    UINT mantissa = (all & (((UINT)1 << MANTISSA) - 1)) + (UINT)SQRT_HALF_BITS;
    /* An integer as a floating number, by the bits: not all instruction sets convert. */
    UINT exponent = (UINT)((INT)all >> MANTISSA);
#if !IS_FLOAT
    /* AVX2 has no arithmetic shift of 64 bits. */
    exponent = ((all >> MANTISSA) ^ 0x800) - 0x800;
#endif
    REAL e = N(real)(N(bits)(MAGIC) + exponent) - MAGIC;
    e = small ? e - RAISED : e;
    REAL f = N(real)(mantissa) - C(1.0);
    REAL s = f / (C(2.0) + f);
    REAL z = s * s;
#if IS_FLOAT
    REAL r = FMA(0.298987757f, z, 0.399766083f);
    r = FMA(r, z, 0.666667833f) * z;
#else
    REAL r = FMA(0.13283272427612008005, z, 0.13246589238087457847);
    r = FMA(r, z, 0.15387247964944841346);
    r = FMA(r, z, 0.18181772054207082932);
    r = FMA(r, z, 0.22222222692121419037);
    r = FMA(r, z, 0.28571428568783726807);
    r = FMA(r, z, 0.40000000000007194133);
    r = FMA(r, z, 0.66666666666666659981) * z;
#endif
    REAL half = C(0.5) * f * f;
    REAL low = FMA(s, half + r, FMA(e, LN2_LO, c));
    REAL found = FMA(e, LN2_HI, f - (half - low));
    REAL outside = u == C(0.0) ? -(REAL)INFINITY : (REAL)NAN;
    found = u > C(0.0) ? found : outside;
    return u == (REAL)INFINITY ? u : found;
}

ALWAYS REAL N(log)(REAL x) { return N(log_of)(x, C(0.0)); }

ALWAYS REAL N(log1p)(REAL x) {
    REAL u = C(1.0) + x;
    REAL lost = u < C(2.0) ? x - (u - C(1.0)) : C(1.0) - (u - x);
    REAL c = lost / u;
    c = (u > C(0.0)) & (u < (REAL)INFINITY) ? c : C(0.0);
    REAL found = N(log_of)(u, c);
    return ABS(x) < TINY ? x : found;
}

/* With e = exp(-2 |x|): (1 - e) / (1 + e) by expm1 where 1 - e would cancel, else 1 - 2 e / (1 + e), whose error is that of
 * a small number. */
ALWAYS REAL N(tanh)(REAL x) {
    REAL a = ABS(x), b = C(-2.0) * a;
    b = b < EXPM1_LEAST ? EXPM1_LEAST : b;
    UINT k;
    REAL p = N(reduced)(b, &k);
    REAL half = N(two_to)(k - 1);
    REAL e = C(2.0) * FMA(half, p, half);
    int near = a < C(0.5);
    REAL q = (near ? C(-2.0) * FMA(half, p, half - C(0.5)) : C(2.0) * e) / (C(1.0) + e);
    REAL y = near ? q : C(1.0) - q;
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(sinh)(REAL x) {
    REAL a = ABS(x);
    REAL t = N(expm1)(a);
    REAL near = C(0.5) * (t + t / (t + C(1.0)));
    REAL w = N(exp)(C(0.5) * a);
    REAL y = a < C(20.0) ? near : (C(0.5) * w) * w;
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(cosh)(REAL x) {
    REAL a = ABS(x);
    REAL e = N(exp)(a);
    REAL w = N(exp)(C(0.5) * a);
    return a < C(20.0) ? C(0.5) * e + C(0.5) / e : (C(0.5) * w) * w;
}

ALWAYS REAL N(arcsinh)(REAL x) {
    REAL a = ABS(x);
    REAL square = a * a;
    REAL near = N(log1p)(a + square / (C(1.0) + SQRT(square + C(1.0))));
    REAL far = N(log)(a) + C(0.69314718055994531);
    REAL y = a < C(1e9) ? near : far;
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(arccosh)(REAL x) {
    REAL t = x - C(1.0);
    REAL near = N(log1p)(t + SQRT(t * (t + C(2.0))));
    REAL far = N(log)(x) + C(0.69314718055994531);
    REAL y = x < C(1e9) ? near : far;
    return x < C(1.0) ? (REAL)NAN : y;
}

ALWAYS REAL N(arctanh)(REAL x) {
    REAL a = ABS(x);
    REAL twice = a + a;
    REAL t = a < C(0.5) ? twice + twice * a / (C(1.0) - a) : twice / (C(1.0) - a);
    REAL y = C(0.5) * N(log1p)(t);
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(maximum)(REAL a, REAL b) { return (a > b) | (a != a) ? a : b; }
ALWAYS REAL N(minimum)(REAL a, REAL b) { return (a < b) | (a != a) ? a : b; }
ALWAYS REAL N(sign)(REAL x) { return x > C(0.0) ? C(1.0) : x < C(0.0) ? C(-1.0) : x == C(0.0) ? C(0.0) : x; }

/* A number before NaN. */
ALWAYS REAL N(fmax)(REAL a, REAL b) { return (a > b) | (b != b) ? a : b; }
ALWAYS REAL N(fmin)(REAL a, REAL b) { return (a < b) | (b != b) ? a : b; }

/* log(exp(a) + exp(b)) */
ALWAYS REAL N(logaddexp)(REAL a, REAL b) {
    REAL apart = a == b ? C(0.0) : ABS(a - b); /* infinities of one sign are not apart */
    return (a > b ? a : b) + N(log1p)(N(exp)(-apart));
}

/* To an integer, halves to even, with the sign of x. */
ALWAYS REAL N(round)(REAL x) {
    REAL edge = IS_FLOAT ? C(8388608.0) : C(4503599627370496.0);
    REAL a = ABS(x);
    REAL y = (a + edge) - edge;
    return a < edge ? COPYSIGN(y, x) : x;
}

/* As in Python: the remainder has the sign of the divisor. */
ALWAYS REAL N(remainder)(REAL a, REAL b) {
    REAL r = FMOD(a, b);
    if (b == C(0.0) || r != r) return r;
    if (r == C(0.0)) return COPYSIGN(C(0.0), b);
    return (b < C(0.0)) != (r < C(0.0)) ? r + b : r;
}

ALWAYS REAL N(floor_divide)(REAL a, REAL b) {
    REAL r = FMOD(a, b);
    if (b == C(0.0)) return a / b;
    REAL quotient = (a - r) / b;
    if (r != C(0.0) && (b < C(0.0)) != (r < C(0.0))) quotient -= C(1.0);
    if (quotient == C(0.0)) return COPYSIGN(C(0.0), a / b);
    REAL whole = FLOOR(quotient);
    return quotient - whole > C(0.5) ? whole + C(1.0) : whole;
}

ALWAYS REAL N(exp2)(REAL x) {
    REAL y = x < EXP2_LEAST ? EXP2_LEAST : x;
    y = y > EXP2_MOST ? EXP2_MOST : y;
    REAL shifted = y + MAGIC;
    REAL p = N(exp_rest)((y - (shifted - MAGIC)) * C(0.69314718055994531));
    return N(scaled)(C(1.0) + p, N(bits)(shifted) - N(bits)(MAGIC));
}

#if !IS_FLOAT

/* Numbers of about 106 bits, the sum of a large and a small part (Dekker 1971). */
typedef struct {
    double high, low;
} N(pair);

ALWAYS N(pair) N(sum_of)(double a, double b) { /* |a| >= |b|, or a = 0 */
    double high = a + b;
    return (N(pair)){high, b - (high - a)};
}

ALWAYS N(pair) N(product_of)(double a, double b) {
    double high = a * b;
#if HAS_FMA
    return (N(pair)){high, FMA(a, b, -high)};
#else
    double t = a * 134217729.0, a1 = t - (t - a), a2 = a - a1;
    double u = b * 134217729.0, b1 = u - (u - b), b2 = b - b1;
    return (N(pair)){high, ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2};
#endif
}

ALWAYS N(pair) N(times)(N(pair) a, N(pair) b) {
    N(pair) p = N(product_of)(a.high, b.high);
    return N(sum_of)(p.high, p.low + (a.high * b.low + a.low * b.high));
}

/* log(a) of a > 0, off by 2**-62 of its value: 2 atanh(s) + e log 2 with s = (m - 1) / (m + 1) and a = m 2**e. The first
 * term of the series in z = s * s is a pair, as the others are small beside it. */
ALWAYS N(pair) N(log_pair)(double a) {
    int small = a < LEAST_NORMAL;
    UINT all = N(bits)(small ? a * RAISE : a) - (UINT)SQRT_HALF_BITS;
    UINT mantissa = (all & (((UINT)1 << MANTISSA) - 1)) + (UINT)SQRT_HALF_BITS;
    UINT exponent = ((all >> MANTISSA) ^ 0x800) - 0x800;
    double e = N(real)(N(bits)(MAGIC) + exponent) - MAGIC;
    e = small ? e - RAISED : e;
    double f = N(real)(mantissa) - 1.0;
    double below = 2.0 + f, lost = f - (below - 2.0), quotient = f / below;
    N(pair) back = N(product_of)(quotient, below);
    N(pair) s = {quotient, (((f - back.high) - back.low) - quotient * lost) / below};
    N(pair) z = N(times)(s, s);
    double r = FMA(0.058749248398187979729, z.high, 0.058518254381335132192);
    r = FMA(r, z.high, 0.066674513127110589655);
    r = FMA(r, z.high, 0.076922965673591370285);
    r = FMA(r, z.high, 0.090909091763870391002);
    r = FMA(r, z.high, 0.11111111110788943498);
    r = FMA(r, z.high, 0.1428571428571474801);
    r = FMA(r, z.high, 0.19999999999999999891);
    N(pair) third = N(times)(z, (N(pair)){0.3333333333333333, 1.850371707708594e-17});
    N(pair) rest = N(times)(s, N(sum_of)(third.high, FMA(z.high * z.high, r, third.low)));
    N(pair) sum = N(sum_of)(s.high, rest.high);
    double low = 2.0 * (sum.low + (s.low + rest.low));
    N(pair) whole = N(sum_of)(e * LN2_HI, 2.0 * sum.high);
    return N(sum_of)(whole.high, whole.low + FMA(e, LN2_LO, low));
}

/* log(x) times a constant; -infinity at zero, NaN below. */
ALWAYS double N(log_times)(double x, double high, double low) {
    N(pair) y = N(times)(N(log_pair)(x), (N(pair)){high, low});
    double found = x > 0.0 ? y.high + y.low : x == 0.0 ? -INFINITY : (double)NAN;
    return x == INFINITY ? x : found;
}

ALWAYS double N(log2)(double x) { return N(log_times)(x, 1.4426950408889634, 2.0355273740931033e-17); }
ALWAYS double N(log10)(double x) { return N(log_times)(x, 0.4342944819032518, 1.098319650216765e-17); }

/* e + log2(1 + f) for f from sqrt(1/2) - 1 to sqrt(2) - 1, with the digits that float needs of it to raise it to powers.
 * Odd and even terms by themselves: what bounds it is how long one step waits for the one before. */
ALWAYS double N(log2_of)(double e, double f) {
    double z = f * f;
    double odd = FMA(-0.069738516103054253478, z, -0.1346292780539581978);
    double even = FMA(0.13251140239690401368, z, 0.13027574889933529052);
    odd = FMA(odd, z, -0.14249866022441436464);
    even = FMA(even, z, 0.16021665697472381662);
    odd = FMA(odd, z, -0.18043674856305590685);
    even = FMA(even, z, 0.20610712342844916655);
    odd = FMA(odd, z, -0.24044643364880877909);
    even = FMA(even, z, 0.2885387957218067317);
    odd = FMA(odd, z, -0.36067379313640036304);
    even = FMA(even, z, 0.48089834880290866246);
    odd = FMA(odd, z, -0.72134752032755382591);
    even = FMA(even, z, 1.4426950408865743433);
    return FMA(FMA(odd, f, even), f, e);
}

/* What a power is made of |x|**y: its sign, and where C's pow says something else. */
ALWAYS double N(power_of)(double x, double y, double found) {
    double a = fabs(x), large = y > 0.0 ? INFINITY : 0.0, small = y > 0.0 ? 0.0 : INFINITY;
    int whole = N(round)(y) == y, odd = whole & (2.0 * N(round)(0.5 * y) != y);
    found = a == 0.0 ? small : found;
    found = a == INFINITY ? large : found;
    found = (x < 0.0) & (a < INFINITY) & !whole ? (double)NAN : found;
    found = odd ? copysign(found, x) : found;
    found = (x != x) | (y != y) ? x + y : found;
    found = (a == 1.0) & (fabs(y) == INFINITY) ? 1.0 : found;
    return (y == 0.0) | (x == 1.0) ? 1.0 : found;
}

ALWAYS double N(power)(double x, double y) {
    N(pair) l = N(log_pair)(fabs(x));
    /* Scaled, as a pair of halves of a large number would overflow; where it underflows the result is 1. */
    double less = y * 0x1p-64;
    N(pair) p = N(product_of)(less, l.high * 0x1p64);
    double low = FMA(y, l.low, p.low);
    double b = p.high < EXP_LEAST ? EXP_LEAST : p.high;
    b = b > EXP_MOST ? EXP_MOST : b;
    low = b == p.high ? low : 0.0;
    UINT k;
    double rest = N(reduced)(b, &k);
    return N(power_of)(x, y, N(scaled)(1.0 + FMA(low, 1.0 + rest, rest), k));
}

/* A first guess, and a step of Newton's whose residual is exact. */
ALWAYS double N(cbrt)(double x) {
    double a = fabs(x);
    int small = a < 1e-200, large = a > 1e200;
    double b = small ? a * 0x1p600 : large ? a * 0x1p-600 : a;
    double y = N(exp)(N(log)(b) * 0.33333333333333333);
    N(pair) square = N(product_of)(y, y), cube = N(product_of)(square.high, y);
    double residual = (cube.high - b) + (cube.low + square.low * y);
    y -= residual / (3.0 * square.high);
    y *= small ? 0x1p-200 : large ? 0x1p200 : 1.0;
    return (a > 0.0) & (a < INFINITY) ? copysign(y, x) : x;
}

#else

/* log2(a) of a >= 0, off by 2**-38 of its value: as much as float needs of what is raised to a power. */
ALWAYS double N(log2_wide)(REAL a) {
    int small = a < LEAST_NORMAL;
    UINT all = N(bits)(a * (small ? RAISE : C(1.0))) - (UINT)SQRT_HALF_BITS;
    UINT mantissa = (all & (((UINT)1 << MANTISSA) - 1)) + (UINT)SQRT_HALF_BITS;
    REAL e = N(real)(N(bits)(MAGIC) + (UINT)((INT)all >> MANTISSA)) - (small ? MAGIC + RAISED : MAGIC);
    e = a == C(0.0) ? -(REAL)INFINITY : e;
    e = a < (REAL)INFINITY ? e : a;
    return D(log2_of)(e, N(real)(mantissa) - C(1.0));
}

ALWAYS REAL N(log_times)(REAL x, double factor) {
    REAL found = (REAL)(N(log2_wide)(x) * factor);
    return x < C(0.0) ? (REAL)NAN : found;
}

ALWAYS REAL N(log2)(REAL x) { return N(log_times)(x, 1.0); }
ALWAYS REAL N(log10)(REAL x) { return N(log_times)(x, 0.30102999566398120); }

/* 2**t */
ALWAYS REAL N(exp2_wide)(double t) {
    double whole = (t + 6755399441055744.0) - 6755399441055744.0;
    REAL n = (REAL)whole, r = (REAL)(t - whole);
    int outside = (n < EXP2_LEAST) | (n > EXP2_MOST);
    n = n < EXP2_LEAST ? EXP2_LEAST : n;
    n = n > EXP2_MOST ? EXP2_MOST : n;
    r = outside ? C(0.0) : r;
    UINT k = N(bits)(n + MAGIC) - N(bits)(MAGIC);
    return N(scaled)(C(1.0) + N(exp_rest)(r * C(0.69314718055994531)), k);
}

/* Zeros, infinities and NaN are those of log2, but for what C's pow says of 1, of y = 0, and of x below 0. */
ALWAYS REAL N(power)(REAL x, REAL y) {
    REAL a = ABS(x), found = N(exp2_wide)(y * N(log2_wide)(a));
    int whole = N(round)(y) == y, even = N(round)(C(0.5) * y) == C(0.5) * y;
    found = whole & !even ? COPYSIGN(found, x) : found;
    found = (x < C(0.0)) & (a < (REAL)INFINITY) & !whole ? (REAL)NAN : found;
    return (y == C(0.0)) | (x == C(1.0)) | ((x == C(-1.0)) & (ABS(y) == (REAL)INFINITY)) ? C(1.0) : found;
}

ALWAYS REAL N(cbrt)(REAL x) {
    REAL a = ABS(x);
    REAL y = N(exp2_wide)(N(log2_wide)(a) * 0.33333333333333333);
    return (a > C(0.0)) & (a < (REAL)INFINITY) ? COPYSIGN(y, x) : x;
}

#endif

/* The angle of `top` and `bottom`, both 0 or more and not both 0. */
ALWAYS REAL N(arctan_of)(REAL top, REAL bottom) {
#if IS_FLOAT
    int far = top > bottom;
    REAL t = (far ? -bottom : top) / (far ? top : bottom);
    REAL z = t * t;
    REAL p = FMA(-0.001793605252f, z, 0.010914528484f);
    p = FMA(p, z, -0.031177693886f);
    p = FMA(p, z, 0.057957431356f);
    p = FMA(p, z, -0.084034401591f);
    p = FMA(p, z, 0.10952181997f);
    p = FMA(p, z, -0.14264240884f);
    p = FMA(p, z, 0.199985482f);
    p = FMA(p, z, -0.33333299086f);
    REAL high = far ? PI_2 : 0.0f, low = far ? PI_2_LOW : 0.0f;
#else
    REAL ratio = top / bottom;
    int far = ratio > 2.414213562373095, middle = ratio > 0.41421356237309503;
    REAL numerator = far ? -bottom : middle ? top - bottom : top;
    REAL denominator = far ? top : middle ? top + bottom : bottom;
    REAL t = numerator / denominator;
    REAL z = t * t;
    REAL p = FMA(0.014933820362914134244, z, -0.03321548927951193991);
    p = FMA(p, z, 0.044923539530887401275);
    p = FMA(p, z, -0.052156332369051314886);
    p = FMA(p, z, 0.05876588521137069837);
    p = FMA(p, z, -0.066661822276512797727);
    p = FMA(p, z, 0.076922797243647195856);
    p = FMA(p, z, -0.090909080095365486676);
    p = FMA(p, z, 0.11111111084415868421);
    p = FMA(p, z, -0.14285714285327361861);
    p = FMA(p, z, 0.19999999999997183974);
    p = FMA(p, z, -0.3333333333333332618);
    REAL high = far ? PI_2 : middle ? 0.5 * PI_2 : 0.0;
    REAL low = far ? PI_2_LOW : middle ? 0.5 * PI_2_LOW : 0.0;
#endif
    return high + (FMA(p * z, t, low) + t);
}

ALWAYS REAL N(arctan)(REAL x) {
    REAL a = ABS(x);
    REAL most = IS_FLOAT ? C(1e30) : C(1e30) * C(1e30);
    REAL y = N(arctan_of)(a < most ? a : most, C(1.0));
    y = x != x ? x : y;
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(arctan2)(REAL y, REAL x) {
    REAL a = ABS(y), b = ABS(x), infinite = (REAL)INFINITY;
    int both = ((a == infinite) & (b == infinite)) | ((a == C(0.0)) & (b == C(0.0)));
    /* The larger one below: a ratio beyond the range of numbers is no ratio that matters. */
    int steep = a > b;
    REAL top = both ? (a == C(0.0) ? C(0.0) : C(1.0)) : steep ? b : a;
    REAL bottom = both ? C(1.0) : steep ? a : b;
    top = bottom == infinite ? C(0.0) : top;
    bottom = bottom == infinite ? C(1.0) : bottom;
    REAL angle = N(arctan_of)(top, bottom);
    angle = steep ? (PI_2 - angle) + PI_2_LOW : angle;
    angle = COPYSIGN(C(1.0), x) < C(0.0) ? (C(2.0) * PI_2 - angle) + C(2.0) * PI_2_LOW : angle;
    angle = COPYSIGN(angle, y);
    return (x != x) | (y != y) ? x + y : angle;
}

/* arcsin(t) - t for t = sqrt(z), z <= 1/4. */
ALWAYS REAL N(arcsin_rest)(REAL z, REAL t) {
#if IS_FLOAT
    REAL p = FMA(0.042166320489f, z, 0.024179507145f);
    p = FMA(p, z, 0.045470377634f);
    p = FMA(p, z, 0.074952976275f);
    p = FMA(p, z, 0.16666752483f);
#else
    REAL p = FMA(0.033692580863650345059, z, -0.026234931869512773451);
    p = FMA(p, z, 0.024893240278989543831);
    p = FMA(p, z, 0.00065133538518591951365);
    p = FMA(p, z, 0.010019081572141706733);
    p = FMA(p, z, 0.0094819949981841068235);
    p = FMA(p, z, 0.011585984046679966353);
    p = FMA(p, z, 0.013961871348241063193);
    p = FMA(p, z, 0.017352945561023479014);
    p = FMA(p, z, 0.022372151585428617589);
    p = FMA(p, z, 0.030381944645265787013);
    p = FMA(p, z, 0.04464285713967633268);
    p = FMA(p, z, 0.075000000000025438554);
    p = FMA(p, z, 0.16666666666666659544);
#endif
    return p * z * t;
}

ALWAYS REAL N(arcsin)(REAL x) {
    REAL a = ABS(x);
    int big = a > C(0.5);
    REAL z = big ? C(0.5) * (C(1.0) - a) : a * a;
    REAL t = big ? SQRT(z) : a;
    REAL rest = N(arcsin_rest)(z, t);
    REAL y = big ? (PI_2 - C(2.0) * t) - (C(2.0) * rest - PI_2_LOW) : t + rest;
    return a < TINY ? x : COPYSIGN(y, x);
}

ALWAYS REAL N(arccos)(REAL x) {
    REAL a = ABS(x);
    int big = a > C(0.5);
    REAL z = big ? C(0.5) * (C(1.0) - a) : a * a;
    REAL t = big ? SQRT(z) : x;
    REAL rest = N(arcsin_rest)(z, t);
    REAL far = x > C(0.0) ? C(2.0) * (t + rest) : C(2.0) * (PI_2 - (t + rest - PI_2_LOW));
    return big ? far : PI_2 - (x - (PI_2_LOW - rest));
}

/* Those below are computed in double precision for both types. */
#if !IS_FLOAT

ALWAYS double N(hypot)(double x, double y) {
    double a = fabs(x), b = fabs(y), most = a > b ? a : b;
    double scale = most > 1e150 ? 0x1p-600 : most < 1e-150 ? 0x1p600 : 1.0;
    double back = most > 1e150 ? 0x1p600 : most < 1e-150 ? 0x1p-600 : 1.0;
    double p = a * scale, q = b * scale;
    double found = sqrt(FMA(p, p, q * q)) * back;
    return (a == INFINITY) | (b == INFINITY) ? INFINITY : found;
}

ALWAYS double N(logaddexp2)(double a, double b) {
    double apart = a == b ? 0.0 : fabs(a - b);
    return (a > b ? a : b) + N(log1p)(N(exp2)(-apart)) * 1.4426950408889634;
}

#define LARGE_ANGLE 1e6 /* beyond, the reduction loses digits: the C library's functions */

/* x - n pi/2 for the nearest n, whose low bits are the quadrant. */
ALWAYS double N(quadrant)(double x, UINT *n) {
    double shifted = FMA(x, 0.63661977236758134, MAGIC);
    double k = shifted - MAGIC;
    *n = N(bits)(shifted);
    double r = x - k * 1.57079632673412561416626; /* exact: 33 bits times at most 20 */
    double w = k * 6.077100506303965976595549e-11;
    double next = r - w;
    double lost = (r - next) - w;
    return next - (k * 2.022266248795950732399685e-21 - lost);
}

ALWAYS double N(sin_of)(double r) {
    double z = r * r;
    double s = FMA(-7.5773925117246502023e-13, z, 1.6058340520204438097e-10);
    s = FMA(s, z, -2.5052104708634735421e-8);
    s = FMA(s, z, 2.7557319213419729127e-6);
    s = FMA(s, z, -0.00019841269841253600286);
    s = FMA(s, z, 0.0083333333333333214976);
    s = FMA(s, z, -0.16666666666666666637);
    return FMA(s * z, r, r);
}

ALWAYS double N(cos_of)(double r) {
    double z = r * r;
    double c = FMA(-1.1357447885324510269e-11, z, 2.0875681864901798169e-9);
    c = FMA(c, z, -2.7557314056471516392e-7);
    c = FMA(c, z, 0.000024801587288491736156);
    c = FMA(c, z, -0.001388888888887259824);
    c = FMA(c, z, 0.041666666666666591059);
    double half = 0.5 * z, top = 1.0 - half;
    return top + FMA(c, z * z, (1.0 - top) - half);
}

ALWAYS double N(sin)(double x) {
    UINT n;
    double r = N(quadrant)(x, &n);
    double s = N(sin_of)(r), c = N(cos_of)(r);
    double y = n & 1 ? c : s;
    y = n & 2 ? -y : y;
    return fabs(x) < TINY ? x : y;
}

ALWAYS double N(cos)(double x) {
    UINT n;
    double r = N(quadrant)(x, &n);
    double s = N(sin_of)(r), c = N(cos_of)(r);
    double y = n & 1 ? s : c;
    return (n + 1) & 2 ? -y : y;
}

ALWAYS double N(tan)(double x) {
    UINT n;
    double r = N(quadrant)(x, &n);
    double s = N(sin_of)(r), c = N(cos_of)(r);
    double y = n & 1 ? -c / s : s / c;
    return fabs(x) < TINY ? x : y;
}

/* exp(x * x) erfc(x) for x >= 1/2, by a polynomial in (x - K) / (x + K) (Shepherd and Laframboise 1981). */
ALWAYS double N(erfcx)(double x) {
    double t = (x - 2.25) / (x + 2.25);
    double p = FMA(2.5724967668757703247e-8, t, -7.9717106354028923273e-8);
    p = FMA(p, t, -7.6264854213778164575e-8);
    p = FMA(p, t, 2.9121543746690261211e-7);
    p = FMA(p, t, 3.6951867089640671124e-7);
    p = FMA(p, t, -4.0257763227856372978e-7);
    p = FMA(p, t, -1.6733084724308046121e-6);
    p = FMA(p, t, -1.2417283431718179331e-6);
    p = FMA(p, t, 4.7180016847748551439e-6);
    p = FMA(p, t, 0.000012050298333112326612);
    p = FMA(p, t, -4.3847298173735970477e-6);
    p = FMA(p, t, -0.000059549750953486811366);
    p = FMA(p, t, -0.000044112876102815470044);
    p = FMA(p, t, 0.00025110471208929681893);
    p = FMA(p, t, 0.00041199907970575154245);
    p = FMA(p, t, -0.0011735172110779321807);
    p = FMA(p, t, -0.0026191103271428550523);
    p = FMA(p, t, 0.0080936414027407421653);
    p = FMA(p, t, 0.011441014921047916009);
    p = FMA(p, t, -0.083132537049832349962);
    p = FMA(p, t, 0.16525643251604052908);
    p = FMA(p, t, -0.13078010182994675016);
    p = FMA(p, t, -0.11025561594301483919);
    p = FMA(p, t, 1.2709799230171552864);
    return p / FMA(2.0, x, 1.0);
}

ALWAYS double N(erf_rest)(double z) { /* erf(x) / x - 1 for z = x * x <= 1/4 */
    double p = FMA(1.3154643269697633372e-8, z, -1.6265906451211274361e-7);
    p = FMA(p, z, 1.6458663189024685673e-6);
    p = FMA(p, z, -0.000014925576047877725156);
    p = FMA(p, z, 0.00012055331951862951673);
    p = FMA(p, z, -0.0008548327014273535385);
    p = FMA(p, z, 0.0052239776253911751328);
    p = FMA(p, z, -0.026866170645129596956);
    p = FMA(p, z, 0.11283791670955122985);
    p = FMA(p, z, -0.37612638903183752445);
    return FMA(p, z, 0.12837916709551257390);
}

/* erfc(a) for 1/2 <= a. The square in two parts: exp would make an error of a unit in a * a one of a * a units. */
ALWAYS double N(erfc_far)(double a) {
    double b = a < 28.0 ? a : 28.0;
    double high = N(real)(N(bits)(b) & ~(UINT)0x7ffffff);
    double low = (b - high) * (b + high);
    double scale = N(exp)(-high * high);
    return scale * FMA(-low, FMA(-low, FMA(low, -1.0 / 6.0, 0.5), 1.0), 1.0) * N(erfcx)(b);
}

ALWAYS double N(erf)(double x) {
    double a = fabs(x), near = FMA(x, N(erf_rest)(x * x), x);
    double far = copysign(1.0 - N(erfc_far)(a), x);
    return (a < 0.5) | (x != x) ? near : far;
}

/* The normal distribution function, erfc(-x / sqrt(2)) / 2. The square of x itself in two parts: x / sqrt(2) is rounded. */
ALWAYS double N(ndtr)(double x) {
    double a = fabs(x), u = 0.70710678118654752 * x;
    double near = 0.5 + 0.5 * FMA(u, N(erf_rest)(u * u), u);
    double b = a < 39.0 ? a : 39.0;
    double high = N(real)(N(bits)(b) & ~(UINT)0x7ffffff);
    double low = 0.5 * (b - high) * (b + high);
    double scale = 0.5 * N(exp)(-0.5 * high * high);
    double tail = scale * FMA(-low, FMA(-low, FMA(low, -1.0 / 6.0, 0.5), 1.0), 1.0) * N(erfcx)(0.70710678118654752 * b);
    return (a < 0.70710678118654752) | (x != x) ? near : x < 0.0 ? tail : 1.0 - tail;
}

ALWAYS double N(erfc)(double x) {
    double a = fabs(x), near = 1.0 - FMA(x, N(erf_rest)(x * x), x);
    double far = N(erfc_far)(a);
    far = x < 0.0 ? 2.0 - far : far;
    return (a < 0.5) | (x != x) ? near : far;
}

#endif
