#include "../core/fgsm.h"

#include "clones.h"
#include "kernels.h"
#include "noise_tiles.h"

namespace atlas_fast::cpu {
namespace {

template <class T>
AF_INLINE void loop(const T* __restrict__ x, const T* __restrict__ grad, const float* __restrict__ noise,
                    T* __restrict__ out, int64_t n, compute_t<T> eps, compute_t<T> step) {
  for (int64_t i = 0; i < n; ++i) out[i] = store<T>(atlas_fast::fgsm(load(x[i]), load(grad[i]), eps, step, noise[i]));
}
#define AF_SPAN(T)                                                                                   \
  AF_CLONES void span(const T* x, const T* grad, const float* noise, T* out, int64_t n, compute_t<T> eps, \
                      compute_t<T> step) {                                                           \
    loop<T>(x, grad, noise, out, n, eps, step);                                                      \
  }
AF_SPAN(float)
AF_SPAN(double)
AF_SPAN(bfloat16)
#undef AF_SPAN

}  // namespace

template <class T>
void fgsm(const T* x, const T* grad, T* out, const Layout& layout, const Stream& stream, int64_t sample_offset,
          compute_t<T> eps, compute_t<T> step, int64_t begin, int64_t end) {
  for_noise_tiles(layout, stream, sample_offset, begin, end, [&](int64_t offset, const float* noise, int64_t count) {
    span(x + offset, grad + offset, noise, out + offset, count, eps, step);
  });
}
#define AF_INSTANTIATE(T)                                                                                       \
  template void fgsm(const T*, const T*, T*, const Layout&, const Stream&, int64_t, compute_t<T>, compute_t<T>, \
                     int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
