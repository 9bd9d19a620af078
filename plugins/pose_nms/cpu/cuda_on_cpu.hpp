// Enough of CUDA for g++ to compile and run a kernel on the CPU: blocks one after another, the threads of a block as
// fibres of one thread (fast, any order of scheduling) or, with CUDA_ON_CPU_THREADS, as real threads (for
// ThreadSanitizer). Include it before the .cuh.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ucontext.h>
#include <vector>
#ifdef CUDA_ON_CPU_THREADS
#include <barrier>
#include <thread>
#endif

namespace cuda_on_cpu {

constexpr int kWarp = 32;
constexpr std::size_t kStackBytes = 64 << 10;  // of a fibre

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

struct Grid {
    unsigned x = 1, y = 1;
};

struct Lane {
    Index thread, block;
    unsigned parity = 0;  // of the warp exchange: a lane is at most one exchange ahead of the others
};

// The values lanes show each other, twice, so that writing the next exchange spares the slow readers of this one.
struct Exchange {
    unsigned long long values[2][kWarp];
};

#ifdef CUDA_ON_CPU_THREADS

struct Block {
    explicit Block(int threads) : all(threads), exchanges(threads / kWarp) {
        for (int warp = 0; warp < threads / kWarp; ++warp) warps.push_back(std::make_unique<std::barrier<>>(kWarp));
    }
    std::barrier<> all;
    std::vector<std::unique_ptr<std::barrier<>>> warps;
    std::vector<Exchange> exchanges;
};

inline thread_local Lane* lane = nullptr;
inline Block* block = nullptr;

inline void syncBlock() { block->all.arrive_and_wait(); }
inline void syncWarp() { block->warps[lane->thread.x / kWarp]->arrive_and_wait(); }

template <class Kernel>
void launch(Grid grid, int threads, unsigned, Kernel kernel) {
    for (unsigned index = 0; index < grid.x * grid.y; ++index) {
        Block memory(threads);
        block = &memory;
        std::vector<std::thread> team;
        for (int thread = 0; thread < threads; ++thread)
            team.emplace_back([=] {
                Lane own{{static_cast<unsigned>(thread)}, {index % grid.x, index / grid.x}};
                lane = &own;
                kernel();
            });
        for (auto& member : team) member.join();
    }
}

#else

struct Barrier {
    int size = 0, arrived = 0;
    unsigned generation = 0;
};

struct Fibre {
    Lane lane;
    ucontext_t start;
    jmp_buf state;
    bool started = false, done = false;
    std::unique_ptr<char[]> stack;
};

struct Block {
    Barrier all;
    std::vector<Barrier> warps;
    std::vector<Exchange> exchanges;
    std::vector<Fibre> fibres;
    jmp_buf scheduler;
    void (*entry)(void*) = nullptr;
    void* argument = nullptr;
};

inline Block* block = nullptr;
inline Fibre* fibre = nullptr;
#define CUDA_ON_CPU_LANE (&cuda_on_cpu::fibre->lane)

inline void wait(Barrier& barrier) {
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0;
        ++barrier.generation;
        return;
    }
    const unsigned mine = barrier.generation;
    while (barrier.generation == mine)
        if (_setjmp(fibre->state) == 0) _longjmp(block->scheduler, 1);
}

inline void syncBlock() { wait(block->all); }
inline void syncWarp() { wait(block->warps[fibre->lane.thread.x / kWarp]); }

inline void runFibre() {
    block->entry(block->argument);
    fibre->done = true;
    _longjmp(block->scheduler, 1);
}

// Resumes the fibre until its next wait.
__attribute__((noinline)) inline void resume(Fibre& next) {
    fibre = &next;
    if (_setjmp(block->scheduler) != 0) return;
    if (next.started) _longjmp(next.state, 1);
    next.started = true;
    setcontext(&next.start);
}

__attribute__((noinline)) inline void prepare(Fibre& next) {
    next.started = next.done = false;
    getcontext(&next.start);
    next.start.uc_stack.ss_sp = next.stack.get();
    next.start.uc_stack.ss_size = kStackBytes;
    makecontext(&next.start, runFibre, 0);
}

// Runs the kernel; `seed` decides in which order the threads of a block take turns.
template <class Kernel>
void launch(Grid grid, int threads, unsigned seed, Kernel kernel) {
    Block memory;
    block = &memory;
    memory.entry = [](void* argument) { (*static_cast<Kernel*>(argument))(); };
    memory.argument = &kernel;
    memory.fibres = std::vector<Fibre>(threads);
    for (auto& member : memory.fibres) member.stack = std::make_unique<char[]>(kStackBytes);
    for (unsigned index = 0; index < grid.x * grid.y; ++index) {
        memory.all = {threads};
        memory.warps.assign(threads / kWarp, Barrier{kWarp});
        memory.exchanges.assign(threads / kWarp, Exchange{});
        for (int thread = 0; thread < threads; ++thread) {
            memory.fibres[thread].lane = Lane{{static_cast<unsigned>(thread)}, {index % grid.x, index / grid.x}};
            prepare(memory.fibres[thread]);
        }
        for (bool busy = true; busy;) {
            busy = false;
            seed = seed * 1664525u + 1013904223u;  // a linear congruential generator: any order will do
            const unsigned first = (seed >> 8) % threads;
            const bool backwards = (seed >> 30) & 1;
            for (int step = 0; step < threads; ++step) {
                Fibre& member = memory.fibres[(first + (backwards ? threads - step : step)) % threads];
                if (member.done) continue;
                busy = true;
                resume(member);
            }
        }
    }
}

#endif

#ifdef CUDA_ON_CPU_THREADS
#define CUDA_ON_CPU_LANE (cuda_on_cpu::lane)
#endif

// Shows `value` to the warp; returns the values of all its lanes.
inline const unsigned long long* exchange(unsigned long long value) {
    Lane& own = *CUDA_ON_CPU_LANE;
    Exchange& shared = block->exchanges[own.thread.x / kWarp];
    auto& values = shared.values[own.parity];
    own.parity ^= 1;
    values[own.thread.x % kWarp] = value;
    syncWarp();
    return values;
}

template <class T>
T shuffle(T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "values of 32 or 64 bits only");
    unsigned long long bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits)[source];
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int laneIndex() { return static_cast<int>(CUDA_ON_CPU_LANE->thread.x) % kWarp; }

}  // namespace cuda_on_cpu

#define __device__
#define __global__
#define __launch_bounds__(threads)
#define __shared__ static
#define threadIdx (CUDA_ON_CPU_LANE->thread)
#define blockIdx (CUDA_ON_CPU_LANE->block)

inline void __syncthreads() { cuda_on_cpu::syncBlock(); }
inline unsigned __ballot_sync(unsigned, bool vote) {
    const auto* votes = cuda_on_cpu::exchange(vote);
    unsigned bits = 0;
    for (int lane = 0; lane < cuda_on_cpu::kWarp; ++lane) bits |= static_cast<unsigned>(votes[lane]) << lane;
    return bits;
}
template <class T>
T __shfl_sync(unsigned, T value, int source) {
    return cuda_on_cpu::shuffle(value, source);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int step) {
    const int lane = cuda_on_cpu::laneIndex();
    return cuda_on_cpu::shuffle(value, lane >= step ? lane - step : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int step) {
    const int lane = cuda_on_cpu::laneIndex();
    return cuda_on_cpu::shuffle(value, lane + step < cuda_on_cpu::kWarp ? lane + step : lane);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return cuda_on_cpu::shuffle(value, cuda_on_cpu::laneIndex() ^ mask);
}
inline unsigned atomicAnd(unsigned* address, unsigned value) {
    return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
// Compile with -ffp-contract=off: these are the roundings CUDA's intrinsics of the same names promise.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
