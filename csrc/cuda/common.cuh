// Device scalars, launch sizes and reductions.
#pragma once
#include <cuda_runtime.h>

#include "../core/arithmetic.h"
#include "../core/philox.h"
#include "kernels.h"

namespace atlas_fast::cuda {

constexpr int kThreads = 256;

inline unsigned grid_for(int64_t items, int64_t per_block = kThreads, int64_t most = 1 << 16) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

#if defined(__CUDACC__)
// Starts a kernel; returns a cudaError_t as int. (tests/cpp/cuda_on_cpu has another one, which runs it on the CPU.)
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void* stream, Arguments... arguments) {
  kernel<<<blocks, threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  return static_cast<int>(cudaGetLastError());
}
#endif

template <class C>
__device__ __forceinline__ C value_of(Scalar s) {
  const C factor = static_cast<C>(s.factor);
  return s.tensor ? mul(factor, *static_cast<const C*>(s.tensor)) : factor;
}

__device__ __forceinline__ Stream stream_of(Noise noise) {
  return {static_cast<uint64_t>(noise.rng[0]), static_cast<uint32_t>(noise.rng[1]), noise.purpose};
}

template <class C>
__device__ __forceinline__ C warp_sum(C v) {
  for (int lane = 16; lane; lane >>= 1) v += __shfl_xor_sync(~0u, v, lane);
  return v;
}

template <class C>
__device__ __forceinline__ C warp_max(C v) {
  for (int lane = 16; lane; lane >>= 1) {
    const C other = __shfl_xor_sync(~0u, v, lane);
    v = other > v ? other : v;
  }
  return v;
}

// Sum or maximum over a team: one warp, or a whole block (whose threads must all call it). Every member gets the result.
template <bool kBlock, class C, class Reduce>
__device__ __forceinline__ C team_reduce(C v, C identity, Reduce warp_reduce) {
  v = warp_reduce(v);
  if (!kBlock) return v;
  __shared__ C parts[32];
  __syncthreads();  // the previous reduction may still be read
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  return warp_reduce(threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : identity);
}

template <bool kBlock, class C>
__device__ __forceinline__ C team_sum(C v) {
  return team_reduce<kBlock>(v, C(0), [](C w) { return warp_sum(w); });
}

template <bool kBlock, class C>
__device__ __forceinline__ C team_max(C v, C lowest) {
  return team_reduce<kBlock>(v, lowest, [](C w) { return warp_max(w); });
}

}  // namespace atlas_fast::cuda
