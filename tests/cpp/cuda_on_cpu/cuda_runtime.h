// Stands in for CUDA's header, so that g++ compiles csrc/cuda/*.cu and the kernels run on a CPU: blocks one after the
// other, a block's threads as threads of the system, barriers for __syncthreads and the shuffles. It shows wrong indices,
// masks and reductions; it shows nothing about speed, memory order or registers.
#pragma once
#include <pthread.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
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

class Barrier {
 public:
  explicit Barrier(unsigned threads) { pthread_barrier_init(&barrier_, nullptr, threads); }
  ~Barrier() { pthread_barrier_destroy(&barrier_); }
  Barrier(const Barrier&) = delete;
  void wait() { pthread_barrier_wait(&barrier_); }

 private:
  pthread_barrier_t barrier_;
};

// What the threads of the running block share.
struct Block {
  explicit Block(unsigned threads) : all(threads), lanes(threads) {
    for (unsigned i = 0; i < threads; i += 32) warps.push_back(std::make_unique<Barrier>(32));
  }
  Barrier all;
  std::vector<std::unique_ptr<Barrier>> warps;
  std::vector<uint64_t> lanes;
};

inline Block* block = nullptr;

}  // namespace cuda_on_cpu

inline thread_local cuda_on_cpu::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() { cuda_on_cpu::block->all.wait(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  auto& block = *cuda_on_cpu::block;
  auto& warp = *block.warps[threadIdx.x / 32];
  std::memcpy(&block.lanes[threadIdx.x], &value, sizeof(T));
  warp.wait();
  T other;
  std::memcpy(&other, &block.lanes[threadIdx.x ^ static_cast<unsigned>(mask)], sizeof(T));
  warp.wait();
  return other;
}

namespace atlas_fast::cuda {

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void*, Arguments... arguments) {
  cuda_on_cpu::Block block(threads);
  cuda_on_cpu::block = &block;
  std::vector<std::thread> running;
  for (unsigned thread = 0; thread < threads; ++thread)
    running.emplace_back([=, &block] {
      threadIdx = {thread};
      blockDim = {threads};
      gridDim = {blocks};
      for (unsigned b = 0; b < blocks; ++b) {
        blockIdx = {b};
        kernel(arguments...);
        block.all.wait();  // the next block reuses the shared memory
      }
    });
  for (std::thread& thread : running) thread.join();
  return 0;
}

}  // namespace atlas_fast::cuda
