// CUDA C as C++: what a kernel takes from CUDA, for one CPU thread. It stands in front of a kernel (emulate.py), and of
// what runs kernels (run_on_cpu.cpp), which is compiled once: so little is left to compile for each of them.
//
// Shared memory is static, in a section of its own, which a block fills with its own when it goes on.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __attribute__((section("sim_shared")))
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define warpSize 32
#define CUDART_INF_F std::numeric_limits<float>::infinity()
#define CUDART_NAN_F std::numeric_limits<float>::quiet_NaN()
#define CUDART_INF std::numeric_limits<double>::infinity()
#define CUDART_NAN std::numeric_limits<double>::quiet_NaN()

struct dim3 { unsigned x, y, z; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct double2 { double x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;
using std::isfinite;
using std::isnan;
using std::isinf;

static inline double normcdf(double x) { return double(0.5L * std::erfc(-(long double)x * 0.707106781186547524401L)); }
static inline float normcdff(float x) { return float(normcdf(double(x))); }
static inline float sim_expf(float x) { return std::exp(x); }
static inline float sim_logf(float x) { return std::log(x); }
static inline float sim_rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double sim_rsqrt(double x) { return 1.0 / std::sqrt(x); }
#define __expf sim_expf  // names that the C library has, too; the last two since glibc 2.42
#define __logf sim_logf
#define rsqrtf sim_rsqrtf
#define rsqrt sim_rsqrt
static inline float __fdividef(float x, float y) { return x / y; }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
template <class T> static inline T atomicMax(T* p, T v) { T old = *p; *p = std::max(old, v); return old; }
template <class T> static inline T atomicMin(T* p, T v) { T old = *p; *p = std::min(old, v); return old; }
static inline void __threadfence() {}

// Barriers, as run_on_cpu.cpp keeps them.
enum sim_state { SIM_RUNS, SIM_SLEEP, SIM_GRID, SIM_BLOCK, SIM_WARP, SIM_DONE };
void sim_wait(sim_state state);
void sim_exchange(void* value, unsigned size, unsigned from);
extern unsigned sim_now;
extern char* sim_dynamic_shared;
struct sim_kernel { void (*body)(void**); bool fibers; char *shared, *shared_end; };
bool sim_run(const unsigned* grid, const unsigned* block, unsigned shared, bool cooperative, void** args,
             sim_kernel kernel);
extern "C" char __start_sim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_sim_shared[] __attribute__((weak, visibility("hidden")));

static inline void __syncthreads() { sim_wait(SIM_BLOCK); }
static inline void __syncwarp(unsigned = ~0u) { sim_wait(SIM_WARP); }
static inline void __nanosleep(unsigned) { sim_wait(SIM_SLEEP); }
namespace cooperative_groups {
struct thread_block {
    void sync() const { __syncthreads(); }
    unsigned thread_rank() const { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }
    unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
};
struct grid_group {
    void sync() const { sim_wait(SIM_GRID); }
    unsigned long long size() const { return 1ull * gridDim.x * gridDim.y * gridDim.z * thread_block().size(); }
    unsigned long long thread_rank() const {
        unsigned long long block = blockIdx.x + gridDim.x * (blockIdx.y + 1ull * gridDim.y * blockIdx.z);
        return block * thread_block().size() + thread_block().thread_rank();
    }
};
static inline thread_block this_thread_block() { return {}; }
static inline grid_group this_grid() { return {}; }
}  // namespace cooperative_groups
template <class T> static inline T sim_shuffle(T value, unsigned from) {
    sim_exchange(&value, sizeof value, from);
    return value;
}
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int lane, int = 32) {
    return sim_shuffle(v, (sim_now % 32) ^ unsigned(lane));
}
template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned by, int = 32) {
    return sim_shuffle(v, sim_now % 32 + by);
}
template <class T> static inline T __shfl_sync(unsigned, T v, int lane, int = 32) { return sim_shuffle(v, lane); }
