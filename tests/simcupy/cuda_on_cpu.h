// CUDA C as C++: what a kernel takes from CUDA, for one CPU thread. Included in front of the kernel by emulate.py.
//
// Blocks run one after the other. In a kernel that has no barriers the threads of a block do, too; in others each is a
// fiber (ucontext) that runs up to its next barrier. So atomics are plain operations. Shared memory is static, in a
// section of its own: where a grid has barriers all blocks are under way, and each puts its own there when it goes on.
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

static dim3 threadIdx, blockIdx, blockDim, gridDim;
using std::max;
using std::min;
using std::isfinite;
using std::isnan;
using std::isinf;

static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline double normcdf(double x) { return double(0.5L * std::erfc(-(long double)x * 0.707106781186547524401L)); }
static inline float normcdff(float x) { return float(normcdf(double(x))); }
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
enum sim_state { SIM_RUNS, SIM_GRID, SIM_BLOCK, SIM_WARP, SIM_DONE };
struct sim_fiber { ucontext_t context; sim_state state; std::vector<char> stack; };
struct sim_block {
    dim3 place;
    std::vector<sim_fiber> fibers;
    std::vector<char> dynamic_shared, fixed_shared;
    std::vector<double> exchange;
};
static sim_block* sim_here;
static ucontext_t sim_scheduler;
static unsigned sim_now;
static const std::function<void()>* sim_body;
static std::vector<char> sim_dynamic_shared;
extern "C" char __start_sim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_sim_shared[] __attribute__((weak, visibility("hidden")));

static inline void sim_wait(sim_state state) {
    unsigned me = sim_now;
    dim3 mine = threadIdx;
    sim_here->fibers[me].state = state;
    swapcontext(&sim_here->fibers[me].context, &sim_scheduler);
    threadIdx = mine;
}
static inline void __syncthreads() { sim_wait(SIM_BLOCK); }
static inline void __syncwarp(unsigned = ~0u) { sim_wait(SIM_WARP); }
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
    unsigned me = sim_now, first = me / 32 * 32;
    std::vector<double>& exchange = sim_here->exchange;
    std::memcpy(&exchange[me], &value, sizeof value);
    sim_wait(SIM_WARP);
    T found = value;
    if (from < 32 && first + from < exchange.size()) std::memcpy(&found, &exchange[first + from], sizeof found);
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
    sim_here->fibers[sim_now].state = SIM_DONE;
    setcontext(&sim_scheduler);
}
static dim3 sim_place(unsigned t) {
    return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}
static unsigned sim_shared_size() { return unsigned(__stop_sim_shared - __start_sim_shared); }
static void sim_begin(sim_block& block, dim3 place, unsigned threads, unsigned shared) {
    block.place = place;
    block.fibers.resize(threads);
    block.exchange.assign(threads, 0);
    block.dynamic_shared.assign(shared + 16, char(0xFF));
    block.fixed_shared.assign(sim_shared_size(), char(0xFF));
    for (auto& fiber : block.fibers) {
        fiber.state = SIM_RUNS;
        fiber.stack.resize(1 << 16);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &sim_scheduler;
        makecontext(&fiber.context, sim_entry, 0);
    }
}
// Frees those who wait at a barrier of the block, or of a warp, that all others have reached. How many these are.
static unsigned sim_release(sim_block& block) {
    unsigned threads = unsigned(block.fibers.size()), moved = 0;
    bool all = true;
    for (auto& f : block.fibers) all = all && (f.state == SIM_BLOCK || f.state == SIM_DONE);
    if (all) {
        for (auto& f : block.fibers) if (f.state == SIM_BLOCK) { f.state = SIM_RUNS; moved++; }
        return moved;
    }
    for (unsigned w = 0; w < threads; w += 32) {
        unsigned end = std::min(w + 32, threads);
        bool warp = true;
        for (unsigned t = w; t < end; t++) warp = warp && block.fibers[t].state >= SIM_WARP;
        if (!warp) continue;
        for (unsigned t = w; t < end; t++)
            if (block.fibers[t].state == SIM_WARP) { block.fibers[t].state = SIM_RUNS; moved++; }
    }
    return moved;
}
// Runs a block until all of its threads are done or wait for the grid. False if some wait at a barrier that others never
// reach.
static bool sim_go_on(sim_block& block) {
    sim_here = &block;
    blockIdx = block.place;
    sim_dynamic_shared.swap(block.dynamic_shared);
    std::memcpy(__start_sim_shared, block.fixed_shared.data(), block.fixed_shared.size());
    for (;;) {
        unsigned over = 0, moved = 0;
        for (unsigned t = 0; t < block.fibers.size(); t++) {
            if (block.fibers[t].state == SIM_RUNS) {
                sim_now = t;
                threadIdx = sim_place(t);
                swapcontext(&sim_scheduler, &block.fibers[t].context);
                moved++;
            }
            over += block.fibers[t].state == SIM_DONE || block.fibers[t].state == SIM_GRID;
        }
        if (over == block.fibers.size()) break;
        moved += sim_release(block);
        if (!moved) return false;
    }
    sim_dynamic_shared.swap(block.dynamic_shared);
    std::memcpy(block.fixed_shared.data(), __start_sim_shared, block.fixed_shared.size());
    return true;
}
// Barriers of a grid are for cooperative launches, and all threads of all blocks must reach them.
static bool sim_grid_of_fibers(std::vector<sim_block>& blocks, bool cooperative) {
    for (;;) {
        unsigned waiting = 0, done = 0, threads = 0;
        for (auto& block : blocks) {
            if (!sim_go_on(block)) return false;
            for (auto& f : block.fibers) { waiting += f.state == SIM_GRID; done += f.state == SIM_DONE; threads++; }
        }
        if (done == threads) return true;
        if (waiting != threads || !cooperative) return false;
        for (auto& block : blocks) for (auto& f : block.fibers) f.state = SIM_RUNS;
    }
}
static bool sim_run(const unsigned* grid, const unsigned* block, unsigned shared, bool fibers, bool cooperative,
                    const std::function<void()>& body) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    sim_body = &body;
    unsigned threads = block[0] * block[1] * block[2];
    std::vector<sim_block> blocks;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                if (fibers) {
                    blocks.emplace_back();
                    sim_begin(blocks.back(), {x, y, z}, threads, shared);
                    if (cooperative) continue;
                    if (!sim_grid_of_fibers(blocks, false)) return false;
                    blocks.clear();
                    continue;
                }
                blockIdx = {x, y, z};
                sim_dynamic_shared.assign(shared + 16, char(0xFF));
                for (unsigned t = 0; t < threads; t++) { threadIdx = sim_place(t); body(); }
            }
    return !(fibers && cooperative) || sim_grid_of_fibers(blocks, true);
}
