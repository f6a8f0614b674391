// CUDA C as C++: what a kernel takes from CUDA, for one CPU thread. Included in front of the kernel by emulate.py.
//
// Blocks run one after the other. In a kernel that has no barriers the threads of a block do, too; in others each is a
// fiber (ucontext) that runs up to its next barrier. So atomics are plain operations, and shared memory is static.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
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

static dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;
using std::isfinite;
using std::isnan;
using std::isinf;

static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float sim_expf(float x) { return std::exp(x); }
static inline float sim_logf(float x) { return std::log(x); }
#define __expf sim_expf  // names that the C library has, too
#define __logf sim_logf
static inline float __fdividef(float x, float y) { return x / y; }
template <class T> static inline T __ldg(const T* p) { return *p; }
template <class T> static inline T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
template <class T> static inline T atomicMax(T* p, T v) { T old = *p; *p = std::max(old, v); return old; }
template <class T> static inline T atomicMin(T* p, T v) { T old = *p; *p = std::min(old, v); return old; }
static inline void __threadfence() {}

// Fibers.
enum sim_state { SIM_RUNS, SIM_BLOCK, SIM_WARP, SIM_DONE };
struct sim_fiber { ucontext_t context; sim_state state; std::vector<char> stack; };
static std::vector<sim_fiber> sim_fibers;
static ucontext_t sim_scheduler;
static unsigned sim_now;
static const std::function<void()>* sim_body;
static std::vector<char> sim_dynamic_shared;
static std::vector<double> sim_exchange;

static inline void sim_wait(sim_state state) {
    unsigned me = sim_now;
    dim3 mine = threadIdx;
    sim_fibers[me].state = state;
    swapcontext(&sim_fibers[me].context, &sim_scheduler);
    threadIdx = mine;
}
static inline void __syncthreads() { sim_wait(SIM_BLOCK); }
static inline void __syncwarp(unsigned = ~0u) { sim_wait(SIM_WARP); }
template <class T> static inline T sim_shuffle(T value, unsigned from) {
    unsigned me = sim_now, first = me / 32 * 32;
    std::memcpy(&sim_exchange[me], &value, sizeof value);
    sim_wait(SIM_WARP);
    T found = value;
    if (from < 32 && first + from < sim_exchange.size()) std::memcpy(&found, &sim_exchange[first + from], sizeof found);
    sim_wait(SIM_WARP);
    return found;
}
template <class T> static inline T __shfl_xor_sync(unsigned, T v, int lane, int = 32) {
    return sim_shuffle(v, (sim_now % 32) ^ unsigned(lane));
}
template <class T> static inline T __shfl_down_sync(unsigned, T v, unsigned by, int = 32) {
    return sim_shuffle(v, sim_now % 32 + by);
}
template <class T> static inline T __shfl_sync(unsigned, T v, int lane, int = 32) { return sim_shuffle(v, lane); }

static void sim_entry() {
    (*sim_body)();
    sim_fibers[sim_now].state = SIM_DONE;
    setcontext(&sim_scheduler);
}
static dim3 sim_place(unsigned t) {
    return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}
// Whether all threads came to an end: not if some wait at a barrier that others never reach.
static bool sim_block_of_fibers(const std::function<void()>& body, unsigned threads) {
    sim_body = &body;
    sim_fibers.clear();
    sim_fibers.resize(threads);
    sim_exchange.assign(threads, 0);
    for (auto& fiber : sim_fibers) {
        fiber.state = SIM_RUNS;
        fiber.stack.resize(1 << 16);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &sim_scheduler;
        makecontext(&fiber.context, sim_entry, 0);
    }
    for (;;) {
        unsigned done = 0, moved = 0;
        for (unsigned t = 0; t < threads; t++) {
            if (sim_fibers[t].state == SIM_RUNS) {
                sim_now = t;
                threadIdx = sim_place(t);
                swapcontext(&sim_scheduler, &sim_fibers[t].context);
                moved++;
            }
            done += sim_fibers[t].state == SIM_DONE;
        }
        if (done == threads) return true;
        bool all = true;
        for (auto& f : sim_fibers) all = all && (f.state == SIM_BLOCK || f.state == SIM_DONE);
        if (all) {
            for (auto& f : sim_fibers) if (f.state == SIM_BLOCK) { f.state = SIM_RUNS; moved++; }
        } else {
            for (unsigned w = 0; w < threads; w += 32) {
                unsigned end = std::min(w + 32, threads);
                bool warp = true;
                for (unsigned t = w; t < end; t++) warp = warp && sim_fibers[t].state >= SIM_WARP;
                if (!warp) continue;
                for (unsigned t = w; t < end; t++)
                    if (sim_fibers[t].state == SIM_WARP) { sim_fibers[t].state = SIM_RUNS; moved++; }
            }
        }
        if (!moved) return false;
    }
}
static bool sim_run(const unsigned* grid, const unsigned* block, unsigned shared, bool fibers,
                    const std::function<void()>& body) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    unsigned threads = block[0] * block[1] * block[2];
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                sim_dynamic_shared.assign(shared + 16, char(0xFF));
                if (fibers) {
                    if (!sim_block_of_fibers(body, threads)) return false;
                } else
                    for (unsigned t = 0; t < threads; t++) { threadIdx = sim_place(t); body(); }
            }
    return true;
}
