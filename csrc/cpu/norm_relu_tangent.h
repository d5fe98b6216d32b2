// What norm_relu_tangent does with one element or channel, whichever way the tensors lie.
#pragma once
#include "../core/norm_relu_tangent.h"
#include "kernels.h"

namespace atlas_fast::cpu {

// Terms that are summed in the computing type before float64 takes over: the rounding of a longer sum shows in the
// weight's gradient, which is a small difference of large sums.
constexpr int64_t sum_rounds = 16;

template <class T>
using Channel = NormChannel<compute_t<T>>;
template <class T>
using Factors = NormTangent<compute_t<T>>;

template <class T>
AF_INLINE Channel<T> channel_of(const NormReluTangent<T>& p, int64_t group, int64_t c) {
  using C = compute_t<T>;
  const int64_t i = group * p.channels + c;
  return {p.mean[i], p.rstd[i], p.weight ? p.weight[c] : C(1), p.bias ? p.bias[c] : C(0)};
}

template <class T>
AF_INLINE void add_residual(const T* __restrict__ t, const T* __restrict__ residual, T* __restrict__ tz, int64_t n) {
  for (int64_t i = 0; i < n; ++i) tz[i] = store<T>(load(t[i]) + load(residual[i]));
}

template <bool relu, class C>
AF_INLINE C masked(C value, C yh, const NormChannel<C>& c) {
  return relu ? (passes(yh, c) ? value : C(0)) : value;
}

template <bool relu, class T>
AF_INLINE void result(const T& t, const T& g, const T& z, T& out, T& extra, const Channel<T>& c, const Factors<T>& k) {
  using C = compute_t<T>;
  const C tangent = load(t), yh = normalised<C>(load(z), c), d = masked<relu, C>(load(g), yh, c);
  out = store<T>(masked<relu>(norm_tangent_out(tangent, yh, k), yh, c));
  extra = store<T>(norm_tangent_extra(tangent, d, yh, k));
}

// With constant statistics the layer is a scale.
template <bool relu, class T>
AF_INLINE void scaled(const T& t, const T& z, T& out, const Channel<T>& c) {
  using C = compute_t<T>;
  out = store<T>(masked<relu>(mul(mul(c.weight, c.rstd), C(load(t))), normalised<C>(load(z), c), c));
}

// A channel's coefficients from its totals, or from given ones; the weight's gradient is added. Totals that are asked for
// are all there is.
template <class T>
AF_INLINE Factors<T> finish(const NormReluTangent<T>& p, int64_t group, int64_t c, const double* own) {
  const Channel<T> channel = channel_of(p, group, c);
  const int64_t statistics = p.groups * p.channels, i = group * p.channels + c;
  double totals[3];
  for (int64_t k = 0; k < 3; ++k) {
    totals[k] = p.given ? static_cast<double>(p.given[k * statistics + i]) : own[k];
    if (p.found) p.found[k * statistics + i] = static_cast<compute_t<T>>(totals[k]);
  }
  if (!p.extra) {
    if (p.grad_weight) p.grad_weight[c] += static_cast<compute_t<T>>(channel.rstd * totals[2]);
    return {};
  }
  const double sum_d = p.sums[i], sum_dyh = p.sums[statistics + i];
  const double count = static_cast<double>(p.samples / p.groups * p.spatial);
  if (p.grad_weight)
    p.grad_weight[c] += static_cast<compute_t<T>>(
        norm_tangent_weight(channel, totals[0], totals[1], totals[2], sum_d, sum_dyh, count));
  return norm_tangent(channel, totals[0], totals[1], totals[2], sum_d, sum_dyh, count);
}

}  // namespace atlas_fast::cpu
