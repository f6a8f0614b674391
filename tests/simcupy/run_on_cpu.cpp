// Runs kernels that were compiled behind cuda_on_cpu.h, for emulate.py.
//
// Blocks run one after the other. In a kernel that has no barriers the threads of a block do, too; in others each is a
// fiber that runs up to its next barrier. So atomics are plain operations. Where a grid has barriers all blocks are
// under way. A thread that sleeps lets all others go on first: so one may wait for what another block will write. Where
// all that is left are sleepers that wake up and go to sleep again, nobody ever will.
//
// A fiber is begun by ucontext.h and goes on by setjmp.h, which asks nothing of the operating system; it is used again
// for threads of other blocks (R. S. Engelschall, "Portable Multithreading", USENIX 2000).
#include "cuda_on_cpu.h"
#include <cstring>
#include <memory>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;
unsigned sim_now;
char* sim_dynamic_shared;

struct sim_fiber { jmp_buf here; sim_state state; bool begun; std::unique_ptr<char[]> stack; bool slept; };
static const unsigned SIM_STACK = 1 << 16;
struct sim_block {
    dim3 place;
    std::vector<std::unique_ptr<sim_fiber>> fibers;
    std::vector<char> dynamic_shared, fixed_shared;
    std::vector<double> exchange;
};
static bool sim_backwards;  // blocks, and threads of a block, in the other order: nothing may depend on it
extern "C" void sim_set_backwards(bool backwards) { sim_backwards = backwards; }
static unsigned sim_turned(unsigned i, unsigned n) { return sim_backwards ? n - 1 - i : i; }
static sim_block* sim_here;
static bool sim_moved;  // somebody has done more than wake up and go to sleep again
static std::vector<std::unique_ptr<sim_fiber>> sim_idle;
static jmp_buf sim_scheduler;
static sim_kernel sim_running;
static void** sim_args;

static void sim_leave(sim_fiber& fiber, sim_state state) {
    fiber.state = state;
    if (!_setjmp(fiber.here)) _longjmp(sim_scheduler, 1);
}
void sim_wait(sim_state state) {
    unsigned me = sim_now;
    dim3 mine = threadIdx;
    sim_leave(*sim_here->fibers[me], state);
    threadIdx = mine;
}
// A value becomes that of thread ``from`` of the warp, or stays where there is none.
void sim_exchange(void* value, unsigned size, unsigned from) {
    unsigned me = sim_now, first = me / 32 * 32;
    std::vector<double>& exchange = sim_here->exchange;
    std::memcpy(&exchange[me], value, size);
    sim_wait(SIM_WARP);
    if (from < 32 && first + from < exchange.size()) std::memcpy(value, &exchange[first + from], size);
    sim_wait(SIM_WARP);
}

static void sim_entry() {
    for (;;) {  // once for each thread that it is
        sim_running.body(sim_args);
        sim_leave(*sim_here->fibers[sim_now], SIM_DONE);
    }
}
static void sim_enter(sim_fiber& fiber) {
    if (_setjmp(sim_scheduler)) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    static ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.get();
    context.uc_stack.ss_size = SIM_STACK;
    makecontext(&context, sim_entry, 0);
    fiber.begun = true;
    setcontext(&context);
}
static dim3 sim_place(unsigned t) {
    return {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}
static unsigned sim_shared_size() { return unsigned(sim_running.shared_end - sim_running.shared); }
static void sim_begin(sim_block& block, dim3 place, unsigned threads, unsigned shared) {
    block.place = place;
    block.exchange.assign(threads, 0);
    block.dynamic_shared.assign(shared + 16, char(0xFF));
    block.fixed_shared.assign(sim_shared_size(), char(0xFF));
    for (unsigned t = 0; t < threads; t++) {
        if (sim_idle.empty()) sim_idle.emplace_back(new sim_fiber{{}, SIM_DONE, false, nullptr, false});
        block.fibers.push_back(std::move(sim_idle.back()));
        sim_idle.pop_back();
        sim_fiber& fiber = *block.fibers.back();
        fiber.state = SIM_RUNS;
        fiber.slept = false;
        if (!fiber.stack) fiber.stack.reset(new char[SIM_STACK]);
    }
}
static void sim_end(sim_block& block) {
    for (auto& fiber : block.fibers) sim_idle.push_back(std::move(fiber));
}
// Frees those who wait at a barrier of the block, or of a warp, that all others have reached. How many these are.
static unsigned sim_release(sim_block& block) {
    unsigned threads = unsigned(block.fibers.size()), moved = 0;
    bool all = true;
    for (auto& f : block.fibers) all = all && (f->state == SIM_BLOCK || f->state == SIM_DONE);
    if (all) {
        for (auto& f : block.fibers) if (f->state == SIM_BLOCK) { f->state = SIM_RUNS; moved++; }
        return moved;
    }
    for (unsigned w = 0; w < threads; w += 32) {
        unsigned end = std::min(w + 32, threads);
        bool warp = true;
        for (unsigned t = w; t < end; t++) warp = warp && block.fibers[t]->state >= SIM_WARP;
        if (!warp) continue;
        for (unsigned t = w; t < end; t++)
            if (block.fibers[t]->state == SIM_WARP) { block.fibers[t]->state = SIM_RUNS; moved++; }
    }
    return moved;
}
// Runs a thread up to where it waits.
static void sim_step(sim_fiber& fiber) {
    bool slept = fiber.slept;
    sim_enter(fiber);
    fiber.slept = fiber.state == SIM_SLEEP;
    sim_moved = sim_moved || !(slept && fiber.slept);
}
// Runs a block until all of its threads are done, sleep or wait for the grid, or for those who do. False if some wait
// at a barrier that others never reach.
static bool sim_go_on(sim_block& block) {
    sim_here = &block;
    blockIdx = block.place;
    sim_dynamic_shared = block.dynamic_shared.data();
    if (sim_shared_size()) std::memcpy(sim_running.shared, block.fixed_shared.data(), block.fixed_shared.size());
    for (;;) {
        unsigned over = 0, asleep = 0, moved = 0;
        for (unsigned k = 0; k < block.fibers.size(); k++) {
            unsigned t = sim_turned(k, unsigned(block.fibers.size()));
            if (block.fibers[t]->state == SIM_RUNS) {
                sim_now = t;
                threadIdx = sim_place(t);
                sim_step(*block.fibers[t]);
                moved++;
            }
            over += block.fibers[t]->state == SIM_DONE || block.fibers[t]->state == SIM_GRID;
            asleep += block.fibers[t]->state == SIM_SLEEP;
        }
        if (over == block.fibers.size()) break;
        moved += sim_release(block);
        if (!moved && asleep) break;
        if (!moved) return false;
    }
    if (sim_shared_size()) std::memcpy(block.fixed_shared.data(), sim_running.shared, block.fixed_shared.size());
    return true;
}
// Barriers of a grid are for cooperative launches, and all threads of all blocks must reach them.
static bool sim_grid_of_fibers(std::vector<sim_block>& blocks, bool cooperative) {
    for (;;) {
        unsigned waiting = 0, done = 0, asleep = 0, threads = 0;
        sim_moved = false;
        for (auto& block : blocks) {
            if (!sim_go_on(block)) return false;
            for (auto& f : block.fibers) {
                waiting += f->state == SIM_GRID;
                done += f->state == SIM_DONE;
                asleep += f->state == SIM_SLEEP;
                threads++;
            }
        }
        if (done == threads) {
            for (auto& block : blocks) sim_end(block);
            return true;
        }
        sim_state whom = asleep ? SIM_SLEEP : SIM_GRID;
        if (asleep ? !sim_moved : waiting != threads || !cooperative) return false;
        for (auto& block : blocks) for (auto& f : block.fibers) if (f->state == whom) f->state = SIM_RUNS;
    }
}
bool sim_run(const unsigned* grid, const unsigned* block, unsigned shared, bool cooperative, void** args,
             sim_kernel kernel) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    sim_running = kernel;
    sim_args = args;
    unsigned threads = block[0] * block[1] * block[2];
    std::vector<sim_block> blocks;
    std::vector<char> dynamic_shared;
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) {
                dim3 place = {sim_turned(x, grid[0]), sim_turned(y, grid[1]), sim_turned(z, grid[2])};
                if (kernel.fibers) {
                    blocks.emplace_back();
                    sim_begin(blocks.back(), place, threads, shared);
                    if (cooperative) continue;
                    if (!sim_grid_of_fibers(blocks, false)) return false;
                    blocks.clear();
                    continue;
                }
                blockIdx = place;
                dynamic_shared.assign(shared + 16, char(0xFF));
                sim_dynamic_shared = dynamic_shared.data();
                for (unsigned t = 0; t < threads; t++) {
                    threadIdx = sim_place(sim_turned(t, threads));
                    kernel.body(args);
                }
            }
    return !(kernel.fibers && cooperative) || sim_grid_of_fibers(blocks, true);
}
