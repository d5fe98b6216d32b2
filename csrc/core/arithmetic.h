// Sums and products that are rounded one by one: nvcc would contract them to fused multiply-adds, and images would
// differ from the CPU's in the last bit. On the CPU -ffp-contract=off does the same.
#pragma once
#include "macros.h"

namespace atlas_fast {

#if defined(__CUDA_ARCH__)
__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float add(float a, float b) { return __fadd_rn(a, b); }
__device__ __forceinline__ double mul(double a, double b) { return __dmul_rn(a, b); }
__device__ __forceinline__ double add(double a, double b) { return __dadd_rn(a, b); }
#else
AF_INLINE float mul(float a, float b) { return a * b; }
AF_INLINE float add(float a, float b) { return a + b; }
AF_INLINE double mul(double a, double b) { return a * b; }
AF_INLINE double add(double a, double b) { return a + b; }
#endif

// sign(0) = sign(NaN) = 0, as torch.sign.
template <class T>
AF_INLINE T sign(T v) {
  return static_cast<T>((v > T(0)) - (v < T(0)));
}

// NaN passes through, as torch.clamp.
template <class T>
AF_INLINE T clamp(T v, T low, T high) {
  v = v < low ? low : v;
  return v > high ? high : v;
}

}  // namespace atlas_fast
