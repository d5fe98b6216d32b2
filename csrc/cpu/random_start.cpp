#include "../core/random_start.h"

#include "clones.h"
#include "kernels.h"
#include "noise_tiles.h"

namespace atlas_fast::cpu {

// About 1,024 elements a tile: the noise stays in the first-level cache; a multiple of 4 pixels.
int64_t tile_size(const Layout& layout) { return std::max<int64_t>(64, 1024 / layout.channels / 4 * 4); }

int64_t tiles(const Layout& layout) {
  const int64_t size = tile_size(layout);
  return layout.samples * ((layout.spatial + size - 1) / size);
}

namespace {

template <class T>
AF_INLINE void loop(const T* __restrict__ x, const float* __restrict__ noise, T* __restrict__ out, int64_t n,
                    compute_t<T> eps) {
  for (int64_t i = 0; i < n; ++i) out[i] = store<T>(atlas_fast::random_start(load(x[i]), eps, noise[i]));
}
#define AF_SPAN(T)                                                                      \
  AF_CLONES void span(const T* x, const float* noise, T* out, int64_t n, compute_t<T> eps) { \
    loop<T>(x, noise, out, n, eps);                                                     \
  }
AF_SPAN(float)
AF_SPAN(double)
AF_SPAN(bfloat16)
#undef AF_SPAN

}  // namespace

template <class T>
void random_start(const T* x, T* out, const Layout& layout, const Stream& stream, int64_t sample_offset,
                  compute_t<T> eps, int64_t begin, int64_t end) {
  for_noise_tiles(layout, stream, sample_offset, begin, end, [&](int64_t offset, const float* noise, int64_t count) {
    span(x + offset, noise, out + offset, count, eps);
  });
}
#define AF_INSTANTIATE(T)                                                                                  \
  template void random_start(const T*, T*, const Layout&, const Stream&, int64_t, compute_t<T>, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
