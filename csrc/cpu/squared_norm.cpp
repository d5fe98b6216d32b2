#include <algorithm>

#include "clones.h"
#include "kernels.h"

namespace atlas_fast::cpu {
namespace {

constexpr int64_t lanes = 16;

// Sixteen float64 sums side by side: order fixed, no rounding to speak of, and vectorised.
template <class T>
AF_INLINE double sum_squares(const T* __restrict__ g, int64_t n) {
  double sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) {
      const double v = load(g[i + l]);
      sums[l] += v * v;
    }
  double total = 0;
  for (; i < n; ++i) {
    const double v = load(g[i]);
    total += v * v;
  }
  for (int64_t l = 0; l < lanes; ++l) total += sums[l];
  return total;
}

template <class T>
AF_INLINE void multiply(const T* __restrict__ g, T* __restrict__ gradient, int64_t n, compute_t<T> factor) {
  for (int64_t i = 0; i < n; ++i) gradient[i] = store<T>(load(g[i]) * factor);
}
#define AF_SPAN(T)                                                                       \
  AF_CLONES double span(const T* g, T* gradient, int64_t n, compute_t<T> factor) {       \
    if (gradient) multiply<T>(g, gradient, n, factor);                                   \
    return sum_squares<T>(g, n);                                                         \
  }
AF_SPAN(float)
AF_SPAN(double)
AF_SPAN(bfloat16)
#undef AF_SPAN

}  // namespace

template <class T>
void squared_norm(const T* g, T* gradient, double* partial, int64_t n, compute_t<T> factor, int64_t begin,
                  int64_t end) {
  constexpr int64_t block = 1024;  // gradient and sum of a block while it is in the first-level cache
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    const int64_t last = std::min(n, (chunk + 1) * squared_norm_chunk);
    double sum = 0;
    for (int64_t i = chunk * squared_norm_chunk; i < last; i += block)
      sum += span(g + i, gradient ? gradient + i : nullptr, std::min(block, last - i), factor);
    partial[chunk] = sum;
  }
}
#define AF_INSTANTIATE(T) \
  template void squared_norm(const T*, T*, double*, int64_t, compute_t<T>, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
