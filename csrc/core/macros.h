// One set of per-element functions for g++ and nvcc.
#pragma once
#include <cstdint>
#if defined(__CUDACC__)
#define AF_INLINE __host__ __device__ __forceinline__
#define AF_UNROLL _Pragma("unroll")
#else
#define AF_INLINE inline __attribute__((always_inline))
#define AF_UNROLL _Pragma("GCC unroll 16")
#endif
