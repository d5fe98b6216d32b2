#include "../core/ce_kl.h"

#include <cmath>
#include <limits>
#include <vector>

#include "../core/exponential.h"
#include "clones.h"
#include "kernels.h"

namespace atlas_fast::cpu {
namespace {

constexpr int64_t lanes = 16;

// Reads a row as compute type C, padded with -inf to a whole number of vectors, and turns it into log-probabilities
// (in `logp`) and probabilities (in `p`).
template <class T, class C>
AF_INLINE void softmax(const T* __restrict__ logits, C* __restrict__ logp, C* __restrict__ p, int64_t classes,
                       int64_t padded) {
  for (int64_t i = 0; i < classes; ++i) logp[i] = load(logits[i]);
  for (int64_t i = classes; i < padded; ++i) logp[i] = -std::numeric_limits<C>::infinity();
  C tops[lanes];
  for (int64_t l = 0; l < lanes; ++l) tops[l] = logp[l];
  for (int64_t i = lanes; i < padded; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) tops[l] = logp[i + l] > tops[l] ? logp[i + l] : tops[l];
  C top = tops[0];
  for (int64_t l = 1; l < lanes; ++l) top = tops[l] > top ? tops[l] : top;
  C sums[lanes] = {};
  for (int64_t i = 0; i < padded; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) sums[l] += p[i + l] = exp_nonpositive(logp[i + l] - top);
  C sum = 0;
  for (int64_t l = 0; l < lanes; ++l) sum += sums[l];
  const C log_sum = std::log(sum), inverse = 1 / sum;
  for (int64_t i = 0; i < padded; ++i) {
    logp[i] = logp[i] - top - log_sum;
    p[i] *= inverse;
  }
}

template <class C>
struct Scratch {
  C *log_p, *p, *log_q, *q, *term;
  int64_t padded;
};

template <class T, class C>
AF_INLINE void row(const T* first, const T* second, int64_t target, T* __restrict__ d_first, T* __restrict__ d_second,
                   double& ce, double& kl, int64_t classes, C beta, bool reverse, C smoothing, C inverse_samples,
                   const Scratch<C>& s) {
  softmax(first, s.log_p, s.p, classes, s.padded);
  const C floor = smoothing / static_cast<C>(classes);
  ce = smoothing < 1 ? -static_cast<double>(1 - smoothing) * s.log_p[target] : 0;  // the logarithm may be infinite
  if (smoothing > 0)
    for (int64_t i = 0; i < classes; ++i) ce -= static_cast<double>(floor) * s.log_p[i];
  C row_kl = 0;
  if (second) {
    softmax(second, s.log_q, s.q, classes, s.padded);
    const C *base = reverse ? s.q : s.p, *log_base = reverse ? s.log_q : s.log_p, *log_other = reverse ? s.log_p : s.log_q;
    C sums[lanes] = {};
    for (int64_t i = 0; i < s.padded; i += lanes)
      for (int64_t l = 0; l < lanes; ++l)
        sums[l] += s.term[i + l] = kl_term(base[i + l], log_base[i + l], log_other[i + l]);
    for (int64_t l = 0; l < lanes; ++l) row_kl += sums[l];
    for (int64_t i = 0; i < classes; ++i) {
      const auto d = ce_kl_gradients(s.p[i], s.q[i], floor, s.term[i], row_kl, beta, inverse_samples, reverse);
      d_first[i] = store<T>(d.first);
      d_second[i] = store<T>(d.second);
    }
    const auto d = ce_kl_gradients(s.p[target], s.q[target], smooth_target(true, smoothing, floor), s.term[target],
                                   row_kl, beta, inverse_samples, reverse);
    d_first[target] = store<T>(d.first);
  } else {
    for (int64_t i = 0; i < classes; ++i) d_first[i] = store<T>((s.p[i] - floor) * inverse_samples);
    d_first[target] = store<T>((s.p[target] - smooth_target(true, smoothing, floor)) * inverse_samples);
  }
  kl = row_kl;
}

#define AF_ROWS(T)                                                                                                  \
  AF_CLONES void rows(const T* first, const T* second, const int64_t* target, T* d_first, T* d_second,              \
                      double* row_ce, double* row_kl, int64_t classes, compute_t<T> beta, bool reverse,             \
                      compute_t<T> smoothing, compute_t<T> inverse_samples, const Scratch<compute_t<T>>& scratch,   \
                      int64_t begin, int64_t end) {                                                                 \
    for (int64_t i = begin; i < end; ++i)                                                                           \
      row<T, compute_t<T>>(first + i * classes, second ? second + i * classes : nullptr, target[i],                 \
                           d_first + i * classes, second ? d_second + i * classes : nullptr, row_ce[i], row_kl[i],  \
                           classes, beta, reverse, smoothing, inverse_samples, scratch);                            \
  }
AF_ROWS(float)
AF_ROWS(double)
AF_ROWS(bfloat16)
#undef AF_ROWS

}  // namespace

template <class T>
int64_t ce_kl(const T* first, const T* second, const int64_t* target, T* d_first, T* d_second, double* row_ce,
              double* row_kl, int64_t samples, int64_t classes, compute_t<T> beta, bool reverse,
              compute_t<T> label_smoothing, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    if (target[i] < 0 || target[i] >= classes) return i;
  using C = compute_t<T>;
  const int64_t padded = (classes + lanes - 1) / lanes * lanes;
  std::vector<C> buffer(5 * padded);
  C* b = buffer.data();
  const Scratch<C> scratch{b, b + padded, b + 2 * padded, b + 3 * padded, b + 4 * padded, padded};
  rows(first, second, target, d_first, d_second, row_ce, row_kl, classes, beta, reverse, label_smoothing,
       C(1) / static_cast<C>(samples), scratch, begin, end);
  return -1;
}
#define AF_INSTANTIATE(T)                                                                                            \
  template int64_t ce_kl(const T*, const T*, const int64_t*, T*, T*, double*, double*, int64_t, int64_t, compute_t<T>, \
                         bool, compute_t<T>, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
