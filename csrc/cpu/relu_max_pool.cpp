// Contiguous tensors. The columns that a position of the window meets in an output row lie a stride apart; so rows are
// split by their columns modulo the stride (phases), and padded: then each position reads neighbouring memory and no
// border needs care. Channels-last tensors are in relu_max_pool_rows.cpp.
#include <algorithm>
#include <limits>
#include <vector>

#include "clones.h"
#include "relu_max_pool.h"

namespace atlas_fast::cpu {
namespace {

int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }

// Loops run over whole vectors: no rest of a row is left to be done one by one.
int64_t padded(int64_t n) { return up(n, 16) * 16; }

// Element m of phase r of a row is its column m * stride - padding + r. Only windows and phases are divided here, once a
// call: a 64-bit division costs as much as a row of a small image.
struct Phases {
  struct Part {
    int64_t first, count, column;  // the elements that lie in the row, and the column of the first
  };
  int64_t stride, length, size;  // length: of a phase; size: of all
  std::vector<Part> parts;
  std::vector<int64_t> phase, shift;  // of position j: output column w reads element w + shift[j] of phase[j]

  explicit Phases(const Pool& p) : stride(p.stride[1]), length(0) {
    for (int64_t j = 0; j < p.kernel[1]; ++j) {
      phase.push_back(j * p.dilation[1] % stride);
      shift.push_back(j * p.dilation[1] / stride);
    }
    length = padded(p.out_width) + shift.back();
    for (int64_t r = 0; r < std::min(stride, (p.kernel[1] - 1) * p.dilation[1] + 1); ++r) {
      const int64_t first = up(std::max<int64_t>(0, p.padding[1] - r), stride);
      const int64_t last = std::min(length, up(std::max<int64_t>(0, p.width + p.padding[1] - r), stride));
      parts.push_back({first, std::max<int64_t>(0, last - first), first * stride - p.padding[1] + r});
    }
    size = length * static_cast<int64_t>(parts.size());
  }
};

// dst[m] = src[m * stride]: with the stride known, vectors.
template <class T, class C>
AF_INLINE void gather(const T* __restrict__ src, C* __restrict__ dst, int64_t n, int64_t stride) {
  if (stride == 1)
    for (int64_t m = 0; m < n; ++m) dst[m] = load(src[m]);
  else if (stride == 2)
    for (int64_t m = 0; m < n; ++m) dst[m] = load(src[2 * m]);
  else
    for (int64_t m = 0; m < n; ++m) dst[m] = load(src[m * stride]);
}

// One row's phases; what lies outside the row is left as it is.
template <class T, class C>
AF_INLINE void split(const T* row, const Phases& f, C* out) {
  for (const Phases::Part& part : f.parts) {
    gather(row + part.column, out + part.first, part.count, f.stride);
    out += f.length;
  }
}

// The last rows of a plane, each split once though windows overlap: a power of two, so that no row is divided.
template <class C>
struct Ring {
  int64_t rows = 1, size;
  std::vector<C> memory;
  Ring(int64_t needed, int64_t size) : size(size) {
    while (rows < needed) rows *= 2;
    memory.resize(rows * size, -std::numeric_limits<C>::infinity());
  }
  AF_INLINE C* at(int64_t row) { return memory.data() + (row & (rows - 1)) * size; }
};

// Memory of a call: input rows, whose padding is never the largest, and one output row.
template <class C>
struct Inputs {
  Phases phases;
  Ring<C> ring;
  std::vector<C> values;
  std::vector<wide_code<C>> codes;
  std::vector<Tap<C>> taps;
  explicit Inputs(const Pool& p)
      : phases(p), ring((p.kernel[0] - 1) * p.dilation[0] + 1, phases.size),
        values(padded(p.out_width)), codes(padded(p.out_width)), taps(p.kernel[0] * p.kernel[1]) {}
};

// The taps of output row `row`, after splitting the input rows that are new; `next`: the first row not yet split.
template <class T, class C>
AF_INLINE int64_t taps_of(const T* x, const Pool& p, Inputs<C>& in, int64_t row, int64_t& next) {
  const Phases& f = in.phases;
  const int64_t top = row * p.stride[0] - p.padding[0];
  const int64_t last = std::min(p.height - 1, top + (p.kernel[0] - 1) * p.dilation[0]);
  for (next = std::max({next, top, int64_t(0)}); next <= last; ++next) split(x + next * p.width, f, in.ring.at(next));
  int64_t count = 0;
  for (int64_t i = 0, h = top; i < p.kernel[0] && h <= last; ++i, h += p.dilation[0])
    for (int64_t j = 0; h >= 0 && j < p.kernel[1]; ++j)
      in.taps[count++] = {in.ring.at(h) + f.phase[j] * f.length + f.shift[j], i * p.kernel[1] + j};
  return count;
}

template <class T, class C = compute_t<T>>
AF_INLINE void pool_plane(const T* x, T* y, uint8_t* codes, const Pool& p, Inputs<C>& in) {
  int64_t next = 0;
  for (int64_t row = 0; row < p.out_height; ++row, y += p.out_width, codes += p.out_width) {
    const int64_t count = taps_of(x, p, in, row, next);
    largest(in.taps.data(), count, padded(p.out_width), in.values.data(), in.codes.data());
    store_all(in.values.data(), p.out_width, y);
    convert(in.codes.data(), p.out_width, codes);
  }
}

// Where a code leads to from its window's corner in the plane; outside every plane for pool_none, and for codes that
// the window has not, so that whatever the codes are no other memory is touched.
struct Places {
  int64_t of[pool_none + 1];
  explicit Places(const Pool& p) {
    std::fill(std::begin(of), std::end(of), std::numeric_limits<int64_t>::min() / 2);
    for (int64_t i = 0; i < p.kernel[0]; ++i)
      for (int64_t j = 0; j < p.kernel[1]; ++j) of[i * p.kernel[1] + j] = i * p.dilation[0] * p.width + j * p.dilation[1];
  }
};

// The pixel that output column w of a row chose, or `size`, the number of pixels.
AF_INLINE int64_t place_of(uint8_t code, int64_t corner, int64_t w, const Pool& p, const Places& places, int64_t size) {
  const int64_t at = corner + w * p.stride[1] + places.of[code];
  return static_cast<uint64_t>(at) < static_cast<uint64_t>(size) ? at : size;
}

template <class T>
void tangent_plane(const T* __restrict__ t, const uint8_t* __restrict__ codes, T* __restrict__ out, const Pool& p,
                   const Places& places) {
  const int64_t size = p.height * p.width;
  for (int64_t row = 0; row < p.out_height; ++row, codes += p.out_width, out += p.out_width) {
    const int64_t corner = (row * p.stride[0] - p.padding[0]) * p.width - p.padding[1];
    for (int64_t w = 0; w < p.out_width; ++w) {
      const int64_t at = place_of(codes[w], corner, w, p, places, size);
      const T value = t[at == size ? 0 : at];
      out[w] = at == size ? T{} : value;
    }
  }
}

// sum: memory for one more element than the plane has, which takes what no pixel receives.
template <class T, class C = compute_t<T>>
void backward_plane(const T* __restrict__ g, const uint8_t* __restrict__ codes, T* __restrict__ dx, const Pool& p,
                    const Places& places, C* __restrict__ sum) {
  const int64_t size = p.height * p.width;
  std::fill(sum, sum + size, C(0));
  for (int64_t row = 0; row < p.out_height; ++row, codes += p.out_width, g += p.out_width) {
    const int64_t corner = (row * p.stride[0] - p.padding[0]) * p.width - p.padding[1];
    for (int64_t w = 0; w < p.out_width; ++w) sum[place_of(codes[w], corner, w, p, places, size)] += load(g[w]);
  }
  store_all(sum, size, dx);
}

#define AF_PLANE(T)                                                                                \
  AF_CLONES void pool(const T* x, T* y, uint8_t* codes, const Pool& p, Inputs<compute_t<T>>& in) { \
    pool_plane(x, y, codes, p, in);                                                                \
  }
AF_PLANE(float)
AF_PLANE(double)
AF_PLANE(bfloat16)
#undef AF_PLANE

}  // namespace

template <class T>
void relu_max_pool(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t begin, int64_t end) {
  Inputs<compute_t<T>> in(p);
  const int64_t from = p.height * p.width, to = p.out_height * p.out_width;
  for (int64_t i = begin; i < end; ++i) pool(x + i * from, y + i * to, codes + i * to, p, in);
}

template <class T>
void relu_max_pool_tangent(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t begin, int64_t end) {
  const Places places(p);
  const int64_t from = p.height * p.width, to = p.out_height * p.out_width;
  for (int64_t i = begin; i < end; ++i) tangent_plane(t + i * from, codes + i * to, out + i * to, p, places);
}

template <class T>
void relu_max_pool_backward(const T* g, const uint8_t* codes, T* dx, const Pool& p, int64_t begin, int64_t end) {
  const Places places(p);
  const int64_t to = p.height * p.width, from = p.out_height * p.out_width;
  std::vector<compute_t<T>> sum(to + 1);
  for (int64_t i = begin; i < end; ++i) backward_plane(g + i * from, codes + i * from, dx + i * to, p, places, sum.data());
}

#define AF_INSTANTIATE(T)                                                                                     \
  template void relu_max_pool(const T*, T*, uint8_t*, const Pool&, int64_t, int64_t);                         \
  template void relu_max_pool_tangent(const T*, const uint8_t*, T*, const Pool&, int64_t, int64_t);           \
  template void relu_max_pool_backward(const T*, const uint8_t*, T*, const Pool&, int64_t, int64_t);
AF_INSTANTIATE(float)
AF_INSTANTIATE(double)
AF_INSTANTIATE(bfloat16)

}  // namespace atlas_fast::cpu
