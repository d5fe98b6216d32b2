// One element of the adjoint of BatchNorm's (and ReLU's) backward pass; formulas in atlas_fast/ops/norm_relu_tangent.py.
#pragma once
#include "arithmetic.h"

namespace atlas_fast {

// What a channel's elements have in common. weight, bias: 1 and 0 where the layer has none.
template <class C>
struct NormChannel {
  C mean, rstd, weight, bias;
};

// Normalised input, and whether the ReLU after the layer lets through (NaN too, as in PyTorch's threshold_backward);
// every product and sum is rounded by itself.
template <class C>
AF_INLINE C normalised(C z, const NormChannel<C>& c) {
  return mul(add(z, -c.mean), c.rstd);
}
template <class C>
AF_INLINE bool passes(C yh, const NormChannel<C>& c) {
  return !(add(mul(c.weight, yh), c.bias) <= C(0));
}

// Coefficients of a channel once its means are known: m(t), m(t yh), m(D) and the factors of the two results,
//   out = scale (t - t_mean - yh t_slope),   extra = shift (t - t_mean) + slope (D - d_mean) + curve yh.
template <class C>
struct NormTangent {
  C t_mean, t_slope, d_mean, scale, shift, slope, curve;
};

// sum_*: over the channel's `count` elements of t, t yh, t D, and of the backward pass D, D yh.
template <class C>
AF_INLINE NormTangent<C> norm_tangent(const NormChannel<C>& c, double sum_t, double sum_tyh, double sum_td, double sum_d,
                                      double sum_dyh, double count) {
  const double mt = sum_t / count, ta = sum_tyh / count, s1 = sum_d / count, s2 = sum_dyh / count;
  const double q = sum_td / count - mt * s1 - ta * s2, scale = static_cast<double>(c.weight) * c.rstd;
  const double factor = -scale * c.rstd;
  return {static_cast<C>(mt),          static_cast<C>(ta),          static_cast<C>(s1),
          static_cast<C>(scale),       static_cast<C>(factor * s2), static_cast<C>(factor * ta),
          static_cast<C>(factor * (q - 2 * ta * s2))};
}

// Gradient of the weight: count rstd q.
template <class C>
AF_INLINE double norm_tangent_weight(const NormChannel<C>& c, double sum_t, double sum_tyh, double sum_td, double sum_d,
                                     double sum_dyh, double count) {
  return c.rstd * (sum_td - (sum_t * sum_d + sum_tyh * sum_dyh) / count);
}

template <class C>
AF_INLINE C norm_tangent_out(C t, C yh, const NormTangent<C>& n) {
  return mul(n.scale, add(add(t, -n.t_mean), -mul(yh, n.t_slope)));
}
template <class C>
AF_INLINE C norm_tangent_extra(C t, C d, C yh, const NormTangent<C>& n) {
  return add(add(mul(n.shift, add(t, -n.t_mean)), mul(n.slope, add(d, -n.d_mean))), mul(n.curve, yh));
}

}  // namespace atlas_fast
