// <cuda_fp16.h> as C++: half precision, computed in double precision and rounded to nearest even after each operation, as
// the hardware does it. In place of the #include of a kernel that asks for it: without one, there is no half.
#pragma once

struct __half_raw { unsigned short x; };

// A NaN is the one of CUDA, 0x7fff; what is halfway or more beyond the largest number is infinite.
static inline unsigned short sim_half_bits(double value) {
    if (value != value) return 0x7fff;
    unsigned sign = std::signbit(value) ? 0x8000 : 0;
    double size = std::fabs(value);
    if (size >= 65520.0) return (unsigned short)(sign | 0x7c00);
    if (size == 0) return (unsigned short)sign;
    int exponent = std::max(std::ilogb(size), -14);
    double parts = std::nearbyint(std::ldexp(size, 10 - exponent));  // 1024 to 2048, fewer below the normal numbers
    return (unsigned short)(sign | (unsigned(exponent + 14) << 10) + unsigned(parts));
}
static inline float sim_half_value(unsigned short bits) {
    int exponent = bits >> 10 & 31, parts = bits & 1023;
    float size = exponent == 31 ? (parts ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity())
               : exponent ? std::ldexp(float(parts + 1024), exponent - 25) : std::ldexp(float(parts), -24);
    return bits & 0x8000 ? -size : size;
}

struct __half {
    unsigned short __x;
    __half() = default;
    __half(__half_raw raw) : __x(raw.x) {}
    __half(float v) : __x(sim_half_bits(v)) {}
    __half(double v) : __x(sim_half_bits(v)) {}
    __half(short v) : __x(sim_half_bits(v)) {}
    __half(unsigned short v) : __x(sim_half_bits(v)) {}
    __half(int v) : __x(sim_half_bits(v)) {}
    __half(unsigned v) : __x(sim_half_bits(v)) {}
    __half(long long v) : __x(sim_half_bits(double(v))) {}
    __half(unsigned long long v) : __x(sim_half_bits(double(v))) {}
    operator float() const { return sim_half_value(__x); }
    explicit operator bool() const { return (__x & 0x7fff) != 0; }
    explicit operator short() const { return short(sim_half_value(__x)); }
    explicit operator unsigned short() const { return (unsigned short)sim_half_value(__x); }
    explicit operator int() const { return int(sim_half_value(__x)); }
    explicit operator unsigned() const { return unsigned(sim_half_value(__x)); }
    explicit operator long long() const { return (long long)sim_half_value(__x); }
    explicit operator unsigned long long() const { return (unsigned long long)sim_half_value(__x); }
};
typedef __half half;

static inline double sim_wide(__half a) { return sim_half_value(a.__x); }
static inline __half __float2half(float a) { return __half(a); }
static inline __half __float2half_rn(float a) { return __half(a); }
static inline __half __double2half(double a) { return __half(a); }
static inline float __half2float(__half a) { return sim_half_value(a.__x); }
static inline __half __int2half_rn(int a) { return __half(a); }
static inline __half __uint2half_rn(unsigned a) { return __half(a); }
static inline int __half2int_rn(__half a) { return int(std::nearbyint(sim_wide(a))); }
static inline int __half2int_rz(__half a) { return int(sim_wide(a)); }
static inline unsigned short __half_as_ushort(__half a) { return a.__x; }
static inline short __half_as_short(__half a) { return short(a.__x); }
static inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
static inline __half __short_as_half(short bits) { return __half_raw{(unsigned short)bits}; }

static inline __half __hadd(__half a, __half b) { return sim_wide(a) + sim_wide(b); }
static inline __half __hsub(__half a, __half b) { return sim_wide(a) - sim_wide(b); }
static inline __half __hmul(__half a, __half b) { return sim_wide(a) * sim_wide(b); }
static inline __half __hdiv(__half a, __half b) { return sim_wide(a) / sim_wide(b); }
static inline __half __hfma(__half a, __half b, __half c) { return sim_wide(a) * sim_wide(b) + sim_wide(c); }
static inline __half __hneg(__half a) { return __half_raw{(unsigned short)(a.__x ^ 0x8000)}; }
static inline __half __habs(__half a) { return __half_raw{(unsigned short)(a.__x & 0x7fff)}; }
static inline bool __heq(__half a, __half b) { return sim_wide(a) == sim_wide(b); }
static inline bool __hne(__half a, __half b) { return sim_wide(a) < sim_wide(b) || sim_wide(a) > sim_wide(b); }
static inline bool __hlt(__half a, __half b) { return sim_wide(a) < sim_wide(b); }
static inline bool __hle(__half a, __half b) { return sim_wide(a) <= sim_wide(b); }
static inline bool __hgt(__half a, __half b) { return sim_wide(a) > sim_wide(b); }
static inline bool __hge(__half a, __half b) { return sim_wide(a) >= sim_wide(b); }
static inline bool __hisnan(__half a) { return (a.__x & 0x7fff) > 0x7c00; }
static inline int __hisinf(__half a) { return a.__x == 0x7c00 ? 1 : a.__x == 0xfc00 ? -1 : 0; }
static inline __half __hmax(__half a, __half b) { return std::fmax(sim_wide(a), sim_wide(b)); }
static inline __half __hmin(__half a, __half b) { return std::fmin(sim_wide(a), sim_wide(b)); }
static inline __half __hmax_nan(__half a, __half b) { return __hisnan(a) || __hisnan(b) ? __ushort_as_half(0x7fff) : __hmax(a, b); }
static inline __half __hmin_nan(__half a, __half b) { return __hisnan(a) || __hisnan(b) ? __ushort_as_half(0x7fff) : __hmin(a, b); }

#define SIM_HALF(name, value) static inline __half name(__half a) { double x = sim_wide(a); return value; }
SIM_HALF(hexp, std::exp(x)) SIM_HALF(hexp2, std::exp2(x)) SIM_HALF(hexp10, std::pow(10.0, x))
SIM_HALF(hlog, std::log(x)) SIM_HALF(hlog2, std::log2(x)) SIM_HALF(hlog10, std::log10(x))
SIM_HALF(hsqrt, std::sqrt(x)) SIM_HALF(hrsqrt, 1 / std::sqrt(x)) SIM_HALF(hrcp, 1 / x)
SIM_HALF(hsin, std::sin(x)) SIM_HALF(hcos, std::cos(x))
SIM_HALF(hfloor, std::floor(x)) SIM_HALF(hceil, std::ceil(x)) SIM_HALF(htrunc, std::trunc(x)) SIM_HALF(hrint, std::nearbyint(x))

static inline __half operator+(__half a, __half b) { return __hadd(a, b); }
static inline __half operator-(__half a, __half b) { return __hsub(a, b); }
static inline __half operator*(__half a, __half b) { return __hmul(a, b); }
static inline __half operator/(__half a, __half b) { return __hdiv(a, b); }
static inline __half operator+(__half a) { return a; }
static inline __half operator-(__half a) { return __hneg(a); }
static inline __half& operator+=(__half& a, __half b) { return a = a + b; }
static inline __half& operator-=(__half& a, __half b) { return a = a - b; }
static inline __half& operator*=(__half& a, __half b) { return a = a * b; }
static inline __half& operator/=(__half& a, __half b) { return a = a / b; }
static inline bool operator==(__half a, __half b) { return __heq(a, b); }
static inline bool operator!=(__half a, __half b) { return !__heq(a, b); }
static inline bool operator<(__half a, __half b) { return __hlt(a, b); }
static inline bool operator<=(__half a, __half b) { return __hle(a, b); }
static inline bool operator>(__half a, __half b) { return __hgt(a, b); }
static inline bool operator>=(__half a, __half b) { return __hge(a, b); }

// Two of them.
struct __half2 {
    __half x, y;
    __half2() = default;
    __half2(__half a, __half b) : x(a), y(b) {}
};
typedef __half2 half2;
static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
static inline __half2 __half2half2(__half a) { return {a, a}; }
static inline __half2 __float2half2_rn(float a) { return {a, a}; }
static inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
static inline __half2 __float22half2_rn(float2 a) { return {a.x, a.y}; }
static inline float2 __half22float2(__half2 a) { return {__half2float(a.x), __half2float(a.y)}; }
static inline __half __low2half(__half2 a) { return a.x; }
static inline __half __high2half(__half2 a) { return a.y; }
static inline float __low2float(__half2 a) { return __half2float(a.x); }
static inline float __high2float(__half2 a) { return __half2float(a.y); }
static inline __half2 __low2half2(__half2 a) { return {a.x, a.x}; }
static inline __half2 __high2half2(__half2 a) { return {a.y, a.y}; }
static inline __half2 __lowhigh2highlow(__half2 a) { return {a.y, a.x}; }
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
#define SIM_HALF2(name, one) static inline __half2 name(__half2 a, __half2 b) { return {one(a.x, b.x), one(a.y, b.y)}; }
SIM_HALF2(__hadd2, __hadd) SIM_HALF2(__hsub2, __hsub) SIM_HALF2(__hmul2, __hmul) SIM_HALF2(__h2div, __hdiv)
SIM_HALF2(__hmax2, __hmax) SIM_HALF2(__hmin2, __hmin)
SIM_HALF2(operator+, __hadd) SIM_HALF2(operator-, __hsub) SIM_HALF2(operator*, __hmul) SIM_HALF2(operator/, __hdiv)
static inline __half2& operator+=(__half2& a, __half2 b) { return a = a + b; }
static inline __half2& operator*=(__half2& a, __half2 b) { return a = a * b; }
#define SIM_BOTH(name, one) static inline __half2 name(__half2 a) { return {one(a.x), one(a.y)}; }
SIM_BOTH(__hneg2, __hneg) SIM_BOTH(__habs2, __habs) SIM_BOTH(h2exp, hexp) SIM_BOTH(h2log, hlog) SIM_BOTH(h2sqrt, hsqrt)
SIM_BOTH(h2rsqrt, hrsqrt) SIM_BOTH(h2rcp, hrcp)
