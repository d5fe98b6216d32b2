// Channels-last tensors: the channels of a pixel side by side.
#include <vector>

#include "clones.h"
#include "relu_max_pool.h"

namespace atlas_fast::cpu {
namespace {

// The taps inside the image of output pixel (row, column) of the sample at `x`.
template <class T>
AF_INLINE int64_t taps_of(const T* x, const Pool& p, int64_t row, int64_t column, Tap<T>* taps) {
  int64_t count = 0;
  for (int64_t i = 0; i < p.kernel[0]; ++i) {
    const int64_t h = row * p.stride[0] - p.padding[0] + i * p.dilation[0];
    if (h < 0 || h >= p.height) continue;
    for (int64_t j = 0; j < p.kernel[1]; ++j) {
      const int64_t w = column * p.stride[1] - p.padding[1] + j * p.dilation[1];
      if (w >= 0 && w < p.width) taps[count++] = {x + (h * p.width + w) * p.channels, i * p.kernel[1] + j};
    }
  }
  return count;
}

// For each index of one dimension of the input and each position of the window: the output index that has it there, or
// -1. Tables, because a division a pixel and position took longer than the sums.
struct Origins {
  std::vector<int64_t> of[2];
  explicit Origins(const Pool& p) {
    const int64_t in[] = {p.height, p.width}, out[] = {p.out_height, p.out_width};
    for (int d = 0; d < 2; ++d)
      for (int64_t at = 0; at < in[d]; ++at)
        for (int64_t position = 0; position < p.kernel[d]; ++position) {
          const int64_t start = at + p.padding[d] - position * p.dilation[d], origin = start / p.stride[d];
          of[d].push_back(start < 0 || start % p.stride[d] || origin >= out[d] ? -1 : origin);
        }
  }
};

// The windows that input pixel (row, column) lies in, in the order of their pixels, as PyTorch adds them.
template <class T>
AF_INLINE int64_t sources_of(const T* g, const uint8_t* codes, const Pool& p, const Origins& origins, int64_t row,
                             int64_t column, Source<T, uint8_t>* sources) {
  int64_t count = 0;
  for (int64_t i = p.kernel[0] - 1; i >= 0; --i) {
    const int64_t oh = origins.of[0][row * p.kernel[0] + i];
    for (int64_t j = p.kernel[1] - 1; oh >= 0 && j >= 0; --j) {
      const int64_t ow = origins.of[1][column * p.kernel[1] + j], at = (oh * p.out_width + ow) * p.channels;
      if (ow >= 0) sources[count++] = {g + at, codes + at, i * p.kernel[1] + j};
    }
  }
  return count;
}

// Memory of a call: a pixel's channels in the computing type, and their codes.
template <class C>
struct Pixel {
  std::vector<C> values;
  std::vector<wide_code<C>> codes;
  explicit Pixel(int64_t channels) : values(channels), codes(channels) {}
};

template <class T, class C = compute_t<T>>
AF_INLINE void pool_row(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t row, Tap<T>* taps, C* best,
                        wide_code<C>* best_codes) {
  for (int64_t column = 0; column < p.out_width; ++column, y += p.channels, codes += p.channels) {
    largest(taps, taps_of(x, p, row, column, taps), p.channels, best, best_codes);
    store_all(best, p.channels, y);
    convert(best_codes, p.channels, codes);
  }
}

template <class T, class C = compute_t<T>>
AF_INLINE void tangent_row(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t row, Tap<T>* taps, C* value,
                           wide_code<C>* wide_codes) {
  for (int64_t column = 0; column < p.out_width; ++column, out += p.channels, codes += p.channels) {
    convert(codes, p.channels, wide_codes);
    chosen(taps, taps_of(t, p, row, column, taps), p.channels, wide_codes, value);
    store_all(value, p.channels, out);
  }
}

template <class T, class C = compute_t<T>>
AF_INLINE void backward_row(const T* g, const uint8_t* codes, T* dx, const Pool& p, const Origins& origins,
                            int64_t row, Source<T, uint8_t>* sources, C* sum) {
  for (int64_t column = 0; column < p.width; ++column, dx += p.channels) {
    received(sources, sources_of(g, codes, p, origins, row, column, sources), p.channels, sum);
    store_all(sum, p.channels, dx);
  }
}

#define AF_ROW(T)                                                                                                      \
  AF_CLONES void pool(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t row, Tap<T>* taps, compute_t<T>* best,  \
                      wide_code<compute_t<T>>* best_codes) {                                                           \
    pool_row(x, y, codes, p, row, taps, best, best_codes);                                                             \
  }                                                                                                                    \
  AF_CLONES void tangent(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t row, Tap<T>* taps,           \
                         compute_t<T>* value, wide_code<compute_t<T>>* wide_codes) {                                   \
    tangent_row(t, codes, out, p, row, taps, value, wide_codes);                                                       \
  }                                                                                                                    \
  AF_CLONES void backward(const T* g, const uint8_t* codes, T* dx, const Pool& p, const Origins& origins, int64_t row, \
                          Source<T, uint8_t>* sources, compute_t<T>* sum) {                                            \
    backward_row(g, codes, dx, p, origins, row, sources, sum);                                                         \
  }
AF_ROW(float)
AF_ROW(double)
AF_ROW(bfloat16)
#undef AF_ROW

}  // namespace

template <class T>
void relu_max_pool_rows(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t begin, int64_t end) {
  std::vector<Tap<T>> taps(p.kernel[0] * p.kernel[1]);
  Pixel<compute_t<T>> pixel(p.channels);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = i / p.out_height * p.height * p.width * p.channels, to = i * p.out_width * p.channels;
    pool(x + from, y + to, codes + to, p, i % p.out_height, taps.data(), pixel.values.data(), pixel.codes.data());
  }
}

template <class T>
void relu_max_pool_tangent_rows(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t begin, int64_t end) {
  std::vector<Tap<T>> taps(p.kernel[0] * p.kernel[1]);
  Pixel<compute_t<T>> pixel(p.channels);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = i / p.out_height * p.height * p.width * p.channels, to = i * p.out_width * p.channels;
    tangent(t + from, codes + to, out + to, p, i % p.out_height, taps.data(), pixel.values.data(), pixel.codes.data());
  }
}

template <class T>
void relu_max_pool_backward_rows(const T* g, const uint8_t* codes, T* dx, const Pool& p, int64_t begin, int64_t end) {
  const Origins origins(p);
  std::vector<Source<T, uint8_t>> sources(p.kernel[0] * p.kernel[1]);
  std::vector<compute_t<T>> sum(p.channels);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t from = i / p.height * p.out_height * p.out_width * p.channels;
    backward(g + from, codes + from, dx + i * p.width * p.channels, p, origins, i % p.height, sources.data(), sum.data());
  }
}

#define AF_INSTANTIATE(T)                                                                                          \
  template void relu_max_pool_rows(const T*, T*, uint8_t*, const Pool&, int64_t, int64_t);                         \
  template void relu_max_pool_tangent_rows(const T*, const uint8_t*, T*, const Pool&, int64_t, int64_t);           \
  template void relu_max_pool_backward_rows(const T*, const uint8_t*, T*, const Pool&, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
