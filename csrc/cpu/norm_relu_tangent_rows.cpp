// Channels-last tensors: sums over tiles of pixels, then the channels' factors, then every pixel again.
#include <algorithm>
#include <vector>

#include "clones.h"
#include "norm_relu_tangent.h"

namespace atlas_fast::cpu {
namespace {

// One pixel's channels side by side, with the constants of each.
template <class C>
struct Columns {
  const C *__restrict__ mean, *__restrict__ rstd, *__restrict__ weight, *__restrict__ bias;
  AF_INLINE NormChannel<C> operator[](int64_t c) const { return {mean[c], rstd[c], weight[c], bias[c]}; }
};
template <class C>
struct FactorColumns {
  const C *__restrict__ t_mean, *__restrict__ t_slope, *__restrict__ d_mean, *__restrict__ scale, *__restrict__ shift,
      *__restrict__ slope, *__restrict__ curve;
  AF_INLINE NormTangent<C> operator[](int64_t c) const {
    return {t_mean[c], t_slope[c], d_mean[c], scale[c], shift[c], slope[c], curve[c]};
  }
};

template <bool relu, class T>
AF_INLINE void pixel_sums(const T* __restrict__ t, const T* __restrict__ g, const T* __restrict__ z, int64_t channels,
                          const Columns<compute_t<T>>& k, compute_t<T>* __restrict__ sum_t,
                          compute_t<T>* __restrict__ sum_tyh, compute_t<T>* __restrict__ sum_td) {
  using C = compute_t<T>;
  for (int64_t c = 0; c < channels; ++c) {
    const C tangent = load(t[c]), yh = normalised<C>(load(z[c]), k[c]);
    sum_t[c] += tangent;
    sum_tyh[c] += tangent * yh;
    sum_td[c] += tangent * masked<relu, C>(load(g[c]), yh, k[c]);
  }
}

template <bool relu, class T>
AF_INLINE void pixel_results(const T* __restrict__ t, const T* __restrict__ g, const T* __restrict__ z,
                             T* __restrict__ out, T* __restrict__ extra, int64_t channels,
                             const Columns<compute_t<T>>& k, const FactorColumns<compute_t<T>>& f) {
  for (int64_t c = 0; c < channels; ++c) result<relu>(t[c], g[c], z[c], out[c], extra[c], k[c], f[c]);
}

template <bool relu, class T>
AF_INLINE void pixel_scaled(const T* __restrict__ t, const T* __restrict__ z, T* __restrict__ out, int64_t channels,
                            const Columns<compute_t<T>>& k) {
  for (int64_t c = 0; c < channels; ++c) scaled<relu>(t[c], z[c], out[c], k[c]);
}

// Where a tile of pixels begins and ends, and its group.
template <class T>
struct Tile {
  int64_t group, begin, end;
  AF_INLINE Tile(const NormReluTangent<T>& p, int64_t tile) {
    const int64_t rows = p.samples / p.groups * p.spatial, size = norm_tile_rows(p.channels), count = (rows + size - 1) / size;
    group = tile / count;
    begin = group * rows + tile % count * size;
    end = std::min(begin + size, (group + 1) * rows);
  }
};

// `sums`: 3 * channels of the computing type, which after sum_rounds pixels go to float64.
template <bool relu, class T>
AF_INLINE void tile_sums(const NormReluTangent<T>& p, const Columns<compute_t<T>>& k, const Tile<T>& tile,
                         compute_t<T>* sums, double* partial) {
  const int64_t n = p.channels;
  const T* t = p.residual ? p.tz : p.t;
  std::fill(partial, partial + 3 * n, 0.0);
  for (int64_t row = tile.begin; row < tile.end; row += sum_rounds) {
    std::fill(sums, sums + 3 * n, compute_t<T>(0));
    for (int64_t i = row * n, end = std::min(row + sum_rounds, tile.end) * n; i < end; i += n) {
      if (p.residual) add_residual(p.t + i, p.residual + i, p.tz + i, n);
      pixel_sums<relu>(t + i, p.g + i, p.z + i, n, k, sums, sums + n, sums + 2 * n);
    }
    for (int64_t i = 0; i < 3 * n; ++i) partial[i] += sums[i];
  }
}

template <bool relu, class T>
AF_INLINE void tile_results(const NormReluTangent<T>& p, const Columns<compute_t<T>>& k,
                            const FactorColumns<compute_t<T>>& f, const Tile<T>& tile) {
  const int64_t n = p.channels;
  const T* t = p.residual ? p.tz : p.t;
  for (int64_t i = tile.begin * n; i < tile.end * n; i += n) {
    if (p.extra)
      pixel_results<relu>(t + i, p.g + i, p.z + i, p.out + i, p.extra + i, n, k, f);
    else
      pixel_scaled<relu>(t + i, p.z + i, p.out + i, n, k);
  }
}

#define AF_TILE(T)                                                                                                 \
  AF_CLONES void tile_of_sums(const NormReluTangent<T>& p, const Columns<compute_t<T>>& k, const Tile<T>& tile,    \
                              compute_t<T>* sums, double* partial) {                                               \
    p.relu ? tile_sums<true>(p, k, tile, sums, partial) : tile_sums<false>(p, k, tile, sums, partial);             \
  }                                                                                                                \
  AF_CLONES void tile_of_results(const NormReluTangent<T>& p, const Columns<compute_t<T>>& k,                      \
                                 const FactorColumns<compute_t<T>>& f, const Tile<T>& tile) {                      \
    p.relu ? tile_results<true>(p, k, f, tile) : tile_results<false>(p, k, f, tile);                               \
  }
AF_TILE(float)
AF_TILE(double)
AF_TILE(bfloat16)
#undef AF_TILE

// The constants of a group's channels; `one` and `zero` stand in for a missing weight and bias.
template <class T, class C = compute_t<T>>
Columns<C> columns(const NormReluTangent<T>& p, int64_t group, const std::vector<C>& one, const std::vector<C>& zero) {
  const int64_t i = group * p.channels;
  return {p.mean + i, p.rstd + i, p.weight ? p.weight : one.data(), p.bias ? p.bias : zero.data()};
}

}  // namespace

int64_t norm_tile_rows(int64_t channels) {
  return std::max<int64_t>(1, 1024 / std::max<int64_t>(1, channels)) * 64;
}

int64_t norm_tiles(int64_t rows, int64_t groups, int64_t channels) {
  const int64_t size = norm_tile_rows(channels);
  return groups * ((rows / groups + size - 1) / size);
}

template <class T>
void norm_relu_tangent_sums(const NormReluTangent<T>& p, double* partial, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const std::vector<C> one(p.channels, 1), zero(p.channels);
  std::vector<C> sums(3 * p.channels);
  for (int64_t i = begin; i < end; ++i) {
    const Tile<T> tile(p, i);
    tile_of_sums(p, columns(p, tile.group, one, zero), tile, sums.data(), partial + 3 * p.channels * i);
  }
}

template <class T>
void norm_relu_tangent_factors(const NormReluTangent<T>& p, const double* partial, compute_t<T>* factors, int64_t begin,
                               int64_t end) {
  const int64_t tiles = norm_tiles(p.samples * p.spatial, p.groups, p.channels) / p.groups, size = p.groups * p.channels;
  for (int64_t c = begin; c < end; ++c)
    for (int64_t group = 0; group < p.groups; ++group) {
      double sums[3] = {};
      for (int64_t tile = group * tiles; partial && tile < (group + 1) * tiles; ++tile)
        for (int64_t i = 0; i < 3; ++i) sums[i] += partial[(3 * tile + i) * p.channels + c];
      const Factors<T> f = finish(p, group, c, sums);
      compute_t<T>* out = factors + group * p.channels + c;
      for (const auto value : {f.t_mean, f.t_slope, f.d_mean, f.scale, f.shift, f.slope, f.curve}) {
        *out = value;
        out += size;
      }
    }
}

template <class T>
void norm_relu_tangent_results(const NormReluTangent<T>& p, const compute_t<T>* factors, int64_t begin, int64_t end) {
  using C = compute_t<T>;
  const std::vector<C> one(p.channels, 1), zero(p.channels);
  const int64_t size = p.groups * p.channels;
  for (int64_t i = begin; i < end; ++i) {
    const Tile<T> tile(p, i);
    const C* f = factors + tile.group * p.channels;
    tile_of_results(p, columns(p, tile.group, one, zero),
                    FactorColumns<C>{f, f + size, f + 2 * size, f + 3 * size, f + 4 * size, f + 5 * size, f + 6 * size}, tile);
  }
}

#define AF_INSTANTIATE(T)                                                                                             \
  template void norm_relu_tangent_sums(const NormReluTangent<T>&, double*, int64_t, int64_t);                         \
  template void norm_relu_tangent_factors(const NormReluTangent<T>&, const double*, compute_t<T>*, int64_t, int64_t); \
  template void norm_relu_tangent_results(const NormReluTangent<T>&, const compute_t<T>*, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
