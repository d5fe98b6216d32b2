// Stands in for CUDA's header, so that g++ compiles csrc/cuda/*.cu and the kernels run on a CPU: blocks one after the
// other, a block's threads as contexts that take turns, each until its next barrier (__syncthreads and the shuffles). It
// shows wrong indices, masks and reductions, and barriers that not all threads reach; it shows nothing about speed, memory
// order or registers.
#pragma once
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(threads)

using cudaStream_t = void*;
using cudaError_t = int;
inline cudaError_t cudaSetDevice(int) { return 0; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }

namespace cuda_on_cpu {

struct Index {
  unsigned x;
};

constexpr unsigned most_threads = 1024, warp = 32;
constexpr size_t stack_size = 1 << 16;

// The threads of the running block. System threads with barriers took ten times as long.
struct Block {
  std::vector<ucontext_t> contexts;
  std::vector<char> ended;
  std::vector<uint64_t> lanes;  // what the shuffles hand over
  std::vector<unsigned> arrived;  // at the barrier of each warp, and, at last, of the block
  std::vector<unsigned> opened;   // how often each of these barriers has been
  std::function<void()> kernel;
  ucontext_t scheduler;
  unsigned thread = 0;
  bool moved = false;  // whether any thread has come further in this round
};

inline Block* block = nullptr;

inline void next_turn() { swapcontext(&block->contexts[block->thread], &block->scheduler); }

inline void wait(size_t barrier, unsigned members) {
  const unsigned before = block->opened[barrier];
  block->moved = true;
  if (++block->arrived[barrier] == members) {
    block->arrived[barrier] = 0;
    ++block->opened[barrier];
    return;
  }
  while (block->opened[barrier] == before) next_turn();
}

inline void begin() {
  block->kernel();
  block->ended[block->thread] = true;
  block->moved = true;
  next_turn();
}

}  // namespace cuda_on_cpu

inline cuda_on_cpu::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_cpu::wait(blockDim.x / cuda_on_cpu::warp, blockDim.x); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  auto& lanes = cuda_on_cpu::block->lanes;
  std::memcpy(&lanes[threadIdx.x], &value, sizeof(T));
  cuda_on_cpu::wait(threadIdx.x / cuda_on_cpu::warp, cuda_on_cpu::warp);
  T other;
  std::memcpy(&other, &lanes[threadIdx.x ^ static_cast<unsigned>(mask)], sizeof(T));
  cuda_on_cpu::wait(threadIdx.x / cuda_on_cpu::warp, cuda_on_cpu::warp);
  return other;
}

namespace cuda_on_cpu {

inline void run(Block& b, unsigned threads) {
  static const std::unique_ptr<char[]> stacks(new char[most_threads * stack_size]);
  for (unsigned i = 0; i < threads; ++i) {
    getcontext(&b.contexts[i]);
    b.contexts[i].uc_stack.ss_sp = stacks.get() + i * stack_size;
    b.contexts[i].uc_stack.ss_size = stack_size;
    makecontext(&b.contexts[i], begin, 0);
    b.ended[i] = false;
  }
  for (unsigned left = threads; left > 0;) {
    b.moved = false;
    for (b.thread = 0; b.thread < threads; ++b.thread) {
      if (b.ended[b.thread]) continue;
      threadIdx = {b.thread};
      swapcontext(&b.scheduler, &b.contexts[b.thread]);
      left -= b.ended[b.thread];
    }
    if (!b.moved) {
      std::printf("a barrier is not reached by all of its threads\n");
      std::abort();
    }
  }
}

}  // namespace cuda_on_cpu

namespace atlas_fast::cuda {

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void*, Arguments... arguments) {
  using namespace cuda_on_cpu;
  Block b{std::vector<ucontext_t>(threads), std::vector<char>(threads), std::vector<uint64_t>(threads),
          std::vector<unsigned>(threads / warp + 1), std::vector<unsigned>(threads / warp + 1),
          [&] { kernel(arguments...); }, {}};
  block = &b;
  blockDim = {threads};
  gridDim = {blocks};
  for (unsigned i = 0; i < blocks; ++i) {
    blockIdx = {i};
    run(b, threads);
  }
  return 0;
}

}  // namespace atlas_fast::cuda
