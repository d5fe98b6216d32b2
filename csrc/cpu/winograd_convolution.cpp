#include "winograd_convolution.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "../core/macros.h"

// The kernels for AVX-512 and AVX2 beside plain C++. Sanitizers look at all of them.
#if defined(__x86_64__) && defined(__GNUC__) && (!defined(ATLAS_FAST_NO_CLONES) || defined(__SANITIZE_ADDRESS__))
#define AF_WINOGRAD_X86 1
#include <immintrin.h>
#else
#define AF_WINOGRAD_X86 0
#endif

namespace atlas_fast::cpu {
namespace {

constexpr double exact_a = 0.75, exact_b = 1.5;  // the points are 0, +-a, +-b and infinity
constexpr float a = exact_a, b = exact_b, a2 = a * a, b2 = b * b;
// 1 / the product of the differences to the other points
constexpr float at_0 = 1 / (exact_a * exact_a * exact_b * exact_b);
constexpr float at_a = 1 / (2 * exact_a * exact_a * (exact_a * exact_a - exact_b * exact_b));
constexpr float at_b = 1 / (2 * exact_b * exact_b * (exact_b * exact_b - exact_a * exact_a));

// Memory for the working of one thread.
class Scratch {
 public:
  explicit Scratch(int64_t floats) : floats_(floats) {
    const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
    data = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (!data) throw std::bad_alloc();
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(data); }
  void clear() { std::memset(data, 0, static_cast<size_t>(floats_) * sizeof(float)); }
  float* data;

 private:
  int64_t floats_;
};

}  // namespace

#if AF_WINOGRAD_X86
#ifdef __clang__
#define AF_BEGIN_TARGET_AVX512 \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512vl,avx512dq,avx512bw,fma\"))), apply_to = function)")
#define AF_BEGIN_TARGET_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma\"))), apply_to = function)")
#define AF_END_TARGET _Pragma("clang attribute pop")
#else
// g++ 12 takes the operand that its own intrinsics leave open for a variable that is not set.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define AF_BEGIN_TARGET_AVX512 \
  _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512vl,avx512dq,avx512bw,fma\")")
#define AF_BEGIN_TARGET_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma\")")
#define AF_END_TARGET _Pragma("GCC pop_options")
#endif

AF_BEGIN_TARGET_AVX512
namespace avx512 {
namespace {
#include "lanes_avx512.h"
#include "winograd_convolution_points.h"
#include "winograd_convolution_kernels.h"
}  // namespace
}  // namespace avx512
AF_END_TARGET

AF_BEGIN_TARGET_AVX2
namespace avx2 {
namespace {
#include "lanes_avx2.h"
#include "winograd_convolution_points.h"
#include "winograd_convolution_kernels.h"
}  // namespace
}  // namespace avx2
AF_END_TARGET
#endif

namespace plain {
namespace {
#include "lanes_plain.h"
#include "winograd_convolution_points.h"
#include "winograd_convolution_kernels.h"
}  // namespace
}  // namespace plain

const WinogradKernels* winograd_kernels(int i) {
#if AF_WINOGRAD_X86
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx512 && i-- == 0) return &avx512::kernels;
  if (has_avx2 && i-- == 0) return &avx2::kernels;
#endif
  return i == 0 ? &plain::kernels : nullptr;
}

// A group's images at the points should be 2.4 MB or less: on a Xeon with 1 MB of L2 and a shared L3 the transform of
// larger ones wrote 1.3 to 2 GB/s, of these 6 to 9. But weights are transformed for every group, as much work as the
// products of 6 tiles, so that 64 tiles are the least and 256 enough.
WinogradTiles winograd_tiles(int64_t samples, int64_t height, int64_t width, int64_t padding, int64_t channels) {
  WinogradTiles tiles{(height + 3) / 4, (width + 3) / 4, padding, 1, 1};
  const int64_t a_sample = tiles.rows * tiles.columns;
  const int64_t wanted = std::clamp<int64_t>(2400000 / (36 * 4 * std::max<int64_t>(1, channels)), 64, 256);
  const int64_t groups = std::clamp<int64_t>((samples * a_sample + wanted / 2) / wanted, 1, std::max<int64_t>(1, samples));
  tiles.samples = std::max<int64_t>(1, (samples + groups - 1) / groups);
  tiles.groups = (samples + tiles.samples - 1) / tiles.samples;
  return tiles;
}

}  // namespace atlas_fast::cpu
