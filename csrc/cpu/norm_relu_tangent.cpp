// Contiguous tensors; channels-last ones are in norm_relu_tangent_rows.cpp.
#include "norm_relu_tangent.h"

#include <algorithm>
#include <vector>

#include "clones.h"

namespace atlas_fast::cpu {
namespace {

constexpr int64_t lanes = 16;

// Sums of t, t yh and t D: sixteen side by side in the computing type, which after sum_rounds go to float64.
template <class C>
struct Sums {
  C t[lanes] = {}, tyh[lanes] = {}, td[lanes] = {};
};
template <class C>
struct Totals {
  Sums<C> sums;
  double totals[3][lanes] = {};
  int64_t rounds = 0;
};

template <class C>
AF_INLINE void to_totals(Totals<C>& s) {
  for (int64_t l = 0; l < lanes; ++l) {
    s.totals[0][l] += s.sums.t[l];
    s.totals[1][l] += s.sums.tyh[l];
    s.totals[2][l] += s.sums.td[l];
  }
  s.sums = {};
  s.rounds = 0;
}

template <bool relu, class C>
AF_INLINE void take(Sums<C>& s, int64_t lane, C t, C g, C z, const NormChannel<C>& c) {
  const C yh = normalised(z, c);
  s.t[lane] += t;
  s.tyh[lane] += t * yh;
  s.td[lane] += t * masked<relu>(g, yh, c);
}

constexpr int64_t stretch = sum_rounds * lanes;

template <bool relu, class T>
AF_INLINE void stretch_sums(const T* __restrict__ t, const T* __restrict__ g, const T* __restrict__ z, int64_t n,
                            const Channel<T>& c, Totals<compute_t<T>>& totals) {
  using C = compute_t<T>;
  Sums<C> s = totals.sums;  // a copy of its own stays in registers
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t l = 0; l < lanes; ++l) take<relu, C>(s, l, load(t[i + l]), load(g[i + l]), load(z[i + l]), c);
  for (int64_t l = 0; i + l < n; ++l) take<relu, C>(s, l, load(t[i + l]), load(g[i + l]), load(z[i + l]), c);
  totals.sums = s;
  totals.rounds += (n + lanes - 1) / lanes;
  if (totals.rounds >= sum_rounds) to_totals(totals);
}

template <bool relu, class T>
AF_INLINE void plane_sums(const NormReluTangent<T>& p, int64_t first, const Channel<T>& c, Totals<compute_t<T>>& totals) {
  for (int64_t i = first, end = first + p.spatial; i < end; i += stretch) {
    const int64_t n = std::min(stretch, end - i);
    if (p.residual) add_residual(p.t + i, p.residual + i, p.tz + i, n);
    stretch_sums<relu>((p.residual ? p.tz : p.t) + i, p.g + i, p.z + i, n, c, totals);
  }
}

// In sixteens: g++ takes vectors of 512 bits for them, of 256 bits for one plain loop.
template <bool relu, class T>
AF_INLINE void plane_results(const T* __restrict__ t, const T* __restrict__ g, const T* __restrict__ z,
                             T* __restrict__ out, T* __restrict__ extra, int64_t n, const Channel<T>& c,
                             const Factors<T>& k) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t l = i; l < i + lanes; ++l) result<relu>(t[l], g[l], z[l], out[l], extra[l], c, k);
  for (; i < n; ++i) result<relu>(t[i], g[i], z[i], out[i], extra[i], c, k);
}

template <bool relu, class T>
AF_INLINE void plane_scaled(const T* __restrict__ t, const T* __restrict__ z, T* __restrict__ out, int64_t n,
                            const Channel<T>& c) {
  for (int64_t i = 0; i < n; ++i) scaled<relu>(t[i], z[i], out[i], c);
}

// Channels [begin, end) of one group. Their planes are read twice in turn: the second time they lie in the cache.
template <bool relu, class T>
AF_INLINE void block(const NormReluTangent<T>& p, int64_t group, int64_t begin, int64_t end, Totals<compute_t<T>>* totals,
                     Factors<T>* factors) {
  const int64_t per_group = p.samples / p.groups, step = p.channels * p.spatial, width = end - begin;
  const int64_t first = group * per_group * step + begin * p.spatial, last = first + per_group * step;
  const T* t = p.residual ? p.tz : p.t;
  for (int64_t c = 0; c < width; ++c) totals[c] = {};
  if (!p.given && (p.extra || p.residual || p.grad_weight || p.found))
    for (int64_t i = first; i < last; i += step)
      for (int64_t c = 0; c < width; ++c)
        plane_sums<relu>(p, i + c * p.spatial, channel_of(p, group, begin + c), totals[c]);
  for (int64_t c = 0; c < width; ++c) {
    to_totals(totals[c]);
    double sums[3] = {};
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t i = 0; i < 3; ++i) sums[i] += totals[c].totals[i][l];
    factors[c] = finish(p, group, begin + c, sums);
  }
  if (!p.out) return;
  for (int64_t s = first; s < last; s += step)
    for (int64_t c = 0; c < width; ++c) {
      const Channel<T> channel = channel_of(p, group, begin + c);
      const int64_t i = s + c * p.spatial;
      if (p.extra)
        plane_results<relu>(t + i, p.g + i, p.z + i, p.out + i, p.extra + i, p.spatial, channel, factors[c]);
      else
        plane_scaled<relu>(t + i, p.z + i, p.out + i, p.spatial, channel);
    }
}

#define AF_BLOCK(T)                                                                                               \
  AF_CLONES void blocks(const NormReluTangent<T>& p, int64_t group, int64_t begin, int64_t end,                   \
                        Totals<compute_t<T>>* totals, Factors<T>* factors) {                                      \
    p.relu ? block<true>(p, group, begin, end, totals, factors) : block<false>(p, group, begin, end, totals, factors); \
  }
AF_BLOCK(float)
AF_BLOCK(double)
AF_BLOCK(bfloat16)
#undef AF_BLOCK

}  // namespace

template <class T>
void norm_relu_tangent(const NormReluTangent<T>& p, int64_t begin, int64_t end) {
  const int64_t width = std::max<int64_t>(1, 1024 / std::max<int64_t>(1, p.spatial));  // a page of a sample, or more
  std::vector<Totals<compute_t<T>>> totals(width);
  std::vector<Factors<T>> factors(width);
  for (int64_t c = begin; c < end; c += width)
    for (int64_t group = 0; group < p.groups; ++group)
      blocks(p, group, c, std::min(end, c + width), totals.data(), factors.data());
}
template void norm_relu_tangent(const NormReluTangent<float>&, int64_t, int64_t);
template void norm_relu_tangent(const NormReluTangent<double>&, int64_t, int64_t);
template void norm_relu_tangent(const NormReluTangent<bfloat16>&, int64_t, int64_t);

}  // namespace atlas_fast::cpu
