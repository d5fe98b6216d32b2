#include "../core/crop_flip.h"

#include <algorithm>
#include <array>

#include "clones.h"
#include "kernels.h"

namespace atlas_fast::cpu {

namespace {

// Where neighbours are not neighbours in memory, loops are not vectorised, and a look-up is cheaper than a division.
const std::array<float, 256> table = [] {
  std::array<float, 256> values{};
  for (int i = 0; i < 256; ++i) values[i] = unit_range(static_cast<uint8_t>(i));
  return values;
}();
AF_INLINE float looked_up(uint8_t value) { return table[value]; }
AF_INLINE float looked_up(float value) { return value; }
AF_INLINE double looked_up(double value) { return value; }

// Rows are short: vectors of a fixed length, the last of which may overlap the one before, leave no scalar remainder.
constexpr int64_t vector = 16;

// out[i] = x[i * step], i = 0..vector-1
template <int step, class In, class Out>
AF_INLINE void convert(const In* __restrict__ x, Out* __restrict__ out) {
  for (int64_t i = 0; i < vector; ++i) out[i] = unit_range(x[i * step]);
}
template <int step, class In, class Out>
AF_INLINE void row_of_vectors(const In* x, Out* out, int64_t n) {
  int64_t i = 0;
  for (; i + vector <= n; i += vector) convert<step>(x + i * step, out + i);
  if (i < n) convert<step>(x + (n - vector) * step, out + n - vector);
}

// out[i * out_step] = x[i * step], i = 0..n-1
template <class In, class Out>
AF_INLINE void pixels(const In* __restrict__ x, int64_t step, Out* __restrict__ out, int64_t out_step, int64_t n) {
  if (n >= vector && out_step == 1 && step == 1) {
    row_of_vectors<1>(x, out, n);
  } else if (n >= vector && out_step == 1 && step == -1) {
    row_of_vectors<-1>(x, out, n);
  } else {
    for (int64_t i = 0; i < n; ++i) out[i * out_step] = looked_up(x[i * step]);
  }
}

template <class In, class Out>
AF_INLINE void loop(const In* x, const Images& s, Out* out, bool channels_last, const Crop& crop) {
  const int64_t width = s.width, channels = s.channels;
  // Columns begin..end-1 of the output come from inside of the image, the first of them from column `from`.
  const int64_t shift = crop.mirror ? -crop.right : crop.right;
  const int64_t begin = std::min(width, std::max<int64_t>(0, -shift));
  const int64_t end = std::max(begin, std::min(width, width - shift));
  const int64_t from = crop.mirror ? width - 1 - begin + crop.right : begin + crop.right;
  const int64_t step = crop.mirror ? -s.column_stride : s.column_stride, count = end - begin;
  const int64_t row_pieces = channels_last ? 1 : channels, pixel = channels_last ? channels : 1;
  const bool whole_pixels = channels_last && s.channel_stride == 1 && step == channels;
  for (int64_t piece = 0; piece < row_pieces; ++piece) {
    for (int64_t r = 0; r < s.height; ++r) {
      Out* row = out + (piece * s.height + r) * width * pixel;
      const int64_t source = r + crop.down;
      if (source < 0 || source >= s.height || count == 0) {
        std::fill_n(row, width * pixel, Out(0));
        continue;
      }
      std::fill_n(row, begin * pixel, Out(0));
      std::fill_n(row + end * pixel, (width - end) * pixel, Out(0));
      const In* first = x + source * s.row_stride + from * s.column_stride;
      if (whole_pixels) {
        pixels(first, 1, row + begin * pixel, 1, count * pixel);
      } else {
        for (int64_t c = 0; c < pixel; ++c)
          pixels(first + (piece + c) * s.channel_stride, step, row + begin * pixel + c, pixel, count);
      }
    }
  }
}
#define AF_IMAGE(In, Out)                                                                                    \
  AF_CLONES void image(const In* x, const Images& s, Out* out, bool channels_last, const Crop& crop) { \
    loop<In, Out>(x, s, out, channels_last, crop);                                                           \
  }
AF_IMAGE(uint8_t, float)
AF_IMAGE(float, float)
AF_IMAGE(double, double)
#undef AF_IMAGE

}  // namespace

template <class In, class Out>
void crop_flip(const In* x, const Images& source, const int64_t* index, Out* out, bool channels_last,
               const Stream& stream, int64_t sample_offset, uint32_t padding, bool flip, int64_t begin, int64_t end) {
  const int64_t size = source.channels * source.height * source.width;
  for (int64_t i = begin; i < end; ++i) {
    const Words words = philox(stream, 0, static_cast<uint32_t>(i + sample_offset));
    image(x + (index ? index[i] : i) * source.sample_stride, source, out + i * size, channels_last,
          crop_of(words, padding, flip));
  }
}
#define AF_INSTANTIATE(In, Out)                                                                                   \
  template void crop_flip(const In*, const Images&, const int64_t*, Out*, bool, const Stream&, int64_t, uint32_t, bool, \
                          int64_t, int64_t);
AF_INSTANTIATE(uint8_t, float)
AF_INSTANTIATE(float, float)
AF_INSTANTIATE(double, double)

}  // namespace atlas_fast::cpu
