#include "../core/pgd_step.h"

#include "clones.h"
#include "kernels.h"

namespace atlas_fast::cpu {
namespace {

template <class T>
AF_INLINE void loop(const T* __restrict__ x, const T* __restrict__ x_adv, const T* __restrict__ grad,
                    T* __restrict__ out, int64_t n, compute_t<T> eps, compute_t<T> step) {
  for (int64_t i = 0; i < n; ++i)
    out[i] = store<T>(atlas_fast::pgd_step(load(x[i]), load(x_adv[i]), load(grad[i]), eps, step));
}
#define AF_SPAN(T)                                                                                \
  AF_CLONES void span(const T* x, const T* x_adv, const T* grad, T* out, int64_t n, compute_t<T> eps, \
                      compute_t<T> step) {                                                        \
    loop<T>(x, x_adv, grad, out, n, eps, step);                                                   \
  }
AF_SPAN(float)
AF_SPAN(double)
AF_SPAN(bfloat16)
#undef AF_SPAN

}  // namespace

template <class T>
void pgd_step(const T* x, const T* x_adv, const T* grad, T* out, compute_t<T> eps, compute_t<T> step, int64_t begin,
              int64_t end) {
  span(x + begin, x_adv + begin, grad + begin, out + begin, end - begin, eps, step);
}
#define AF_INSTANTIATE(T) \
  template void pgd_step(const T*, const T*, const T*, T*, compute_t<T>, compute_t<T>, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
