// To the points and back: images, gradients, outputs and kernels, on the `Lanes` of one instruction set.
// winograd_convolution.cpp includes this inside of a namespace for each, so it has no include of its own and no guard.

// B^T d: a row or column of a tile of images at the points.
struct OfImages {
  static constexpr int count = 6;
  static AF_INLINE void at_points(const Lanes* d, Lanes* v) {
    const Lanes even_a = fma(Lanes::all(-b2), d[2], d[4]), odd_a = a * fma(Lanes::all(-b2), d[1], d[3]);
    const Lanes even_b = fma(Lanes::all(-a2), d[2], d[4]), odd_b = b * fma(Lanes::all(-a2), d[1], d[3]);
    v[0] = fma(Lanes::all(a2 * b2), d[0], fma(Lanes::all(-a2 - b2), d[2], d[4]));
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = fma(Lanes::all(a2 * b2), d[1], fma(Lanes::all(-a2 - b2), d[3], d[5]));
  }
};

// A g: a row or column of a tile of outputs' gradients at the points.
struct OfGradients {
  static constexpr int count = 4;
  static AF_INLINE void at_points(const Lanes* g, Lanes* v) {
    const Lanes even_a = fma(Lanes::all(a2), g[2], g[0]), odd_a = a * fma(Lanes::all(a2), g[3], g[1]);
    const Lanes even_b = fma(Lanes::all(b2), g[2], g[0]), odd_b = b * fma(Lanes::all(b2), g[3], g[1]);
    v[0] = g[0];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = g[3];
  }
};

// A^T m: four outputs from the points.
AF_INLINE void outputs_of(const Lanes* m, Lanes* y) {
  const Lanes sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + (sum_a + sum_b);
  y[1] = fma(Lanes::all(b), difference_b, a * difference_a);
  y[2] = fma(Lanes::all(b2), sum_b, a2 * sum_a);
  y[3] = fma(Lanes::all(b2 * b), difference_b, fma(Lanes::all(a2 * a), difference_a, m[5]));
}

// G w: a row or column of a kernel at the points.
AF_INLINE void kernel_at_points(const Lanes* w, Lanes* u) {
  const Lanes even_a = fma(Lanes::all(a2 * at_a), w[2], at_a * w[0]), odd_a = (a * at_a) * w[1];
  const Lanes even_b = fma(Lanes::all(b2 * at_b), w[2], at_b * w[0]), odd_b = (b * at_b) * w[1];
  u[0] = at_0 * w[0];
  u[1] = even_a + odd_a;
  u[2] = even_a - odd_a;
  u[3] = even_b + odd_b;
  u[4] = even_b - odd_b;
  u[5] = w[2];
}

// G^T u: the gradient of a row or column of a kernel from that at the points.
AF_INLINE void kernel_gradient_of(const Lanes* u, Lanes* w) {
  const Lanes sum_a = at_a * (u[1] + u[2]), sum_b = at_b * (u[3] + u[4]);
  const Lanes difference_a = (a * at_a) * (u[1] - u[2]), difference_b = (b * at_b) * (u[3] - u[4]);
  w[0] = fma(Lanes::all(at_0), u[0], sum_a + sum_b);
  w[1] = difference_a + difference_b;
  w[2] = fma(Lanes::all(a2), sum_a, fma(Lanes::all(b2), sum_b, u[5]));
}

constexpr int64_t lanes = Lanes::count, pair = 2 * Lanes::count;

inline int64_t at_most(int64_t n, int64_t limit) { return n < limit ? n : limit; }

// `count` rows of up to `lanes` floats, turned into columns: result[i] holds the i-th of each row.
AF_INLINE void load_transposed(const float* rows, int64_t stride, int64_t count, int64_t n, Lanes* result) {
  for (int64_t l = 0; l < lanes; ++l) result[l] = l < count ? Lanes::load(rows + l * stride, n) : Lanes::all(0);
  transpose(result);
}

// Pixels [begin, begin + n), n <= lanes, of up to `lanes` channels: a register for each pixel.
AF_INLINE void load_pixels(const float* plane, int64_t begin, int64_t n, int64_t channels, const WinogradImages& s,
                           Lanes* pixels) {
  if (s.channels_last)
    for (int64_t i = 0; i < n; ++i) pixels[i] = Lanes::load(plane + (begin + i) * s.channels, channels);
  else
    load_transposed(plane + begin, s.area(), channels, n, pixels);
}

AF_INLINE void store_pixels(float* plane, int64_t begin, int64_t n, int64_t channels, const WinogradImages& s,
                            const float* pixels) {
  if (s.channels_last) {
    for (int64_t i = 0; i < n; ++i)
      Lanes::load(pixels + i * lanes).store(plane + (begin + i) * s.channels, channels);
    return;
  }
  Lanes planes[lanes];
  load_transposed(pixels, lanes, n, lanes, planes);
  for (int64_t c = 0; c < channels; ++c) planes[c].store(plane + c * s.area() + begin, n);
}

// A block of channels of one sample into the middle of `padded`: [height, padded_width, lanes].
inline void pad(const float* plane, int64_t channels, const WinogradImages& s, int64_t border, int64_t padded_width,
                float* padded) {
  Lanes pixels[lanes];
  int64_t row = border, column = 0;
  for (int64_t begin = 0; begin < s.area(); begin += lanes) {
    const int64_t n = at_most(s.area() - begin, lanes);
    load_pixels(plane, begin, n, channels, s, pixels);
    for (int64_t i = 0; i < n; ++i) {
      pixels[i].store(padded + (row * padded_width + column + border) * lanes);
      if (++column == s.width) column = 0, ++row;
    }
  }
}

// A line of tiles: rows of pixels [Kind::count, width, lanes] to points [36, point stride], with `line` between.
template <class Kind>
AF_INLINE void line_at_points(const float* rows, int64_t width, int64_t columns, float* line, float* points,
                              int64_t stride) {
  for (int64_t i = 0; i < width * lanes; i += lanes) {
    Lanes d[Kind::count], v[6];
    AF_UNROLL
    for (int k = 0; k < Kind::count; ++k) d[k] = Lanes::load(rows + k * width * lanes + i);
    Kind::at_points(d, v);
    AF_UNROLL
    for (int k = 0; k < 6; ++k) v[k].store(line + k * width * lanes + i);
  }
  for (int64_t k = 0; k < 6; ++k)  // six points at a time: more streams than that are slow to write
    for (int64_t column = 0; column < columns; ++column) {
      const float* pixels = line + (k * width + column * 4) * lanes;
      Lanes d[Kind::count], v[6];
      AF_UNROLL
      for (int l = 0; l < Kind::count; ++l) d[l] = Lanes::load(pixels + l * lanes);
      Kind::at_points(d, v);
      AF_UNROLL
      for (int l = 0; l < 6; ++l) v[l].store(points + (6 * k + l) * stride + column * lanes);
    }
}

template <class Kind>
void tiles_at_points(const float* x, const WinogradImages& s, const WinogradTiles& tiles, int64_t border, float* points,
                     int64_t begin, int64_t end) {
  if (begin == end) return;
  const int64_t overlap = Kind::count - 4, blocks = (s.channels + lanes - 1) / lanes;
  const int64_t height = 4 * tiles.rows + overlap, width = 4 * tiles.columns + overlap;
  Scratch padded(height * width * lanes), line(6 * width * lanes);
  padded.clear();  // every unit writes the same pixels of it
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t sample = unit / blocks, block = unit % blocks, channel = block * lanes;
    pad(x + s.plane(sample, channel), at_most(s.channels - channel, lanes), s, border, width, padded.data);
    float* to = points + (sample / tiles.samples * blocks + block) * tiles.block_stride(lanes) +
                sample % tiles.samples * tiles.rows * tiles.columns * lanes;
    for (int64_t row = 0; row < tiles.rows; ++row, to += tiles.columns * lanes)
      line_at_points<Kind>(padded.data + row * 4 * width * lanes, width, tiles.columns, line.data, to,
                           tiles.point_stride(lanes));
  }
}

void images(const float* x, const WinogradImages& s, const WinogradTiles& tiles, float* points, int64_t begin,
            int64_t end) {
  tiles_at_points<OfImages>(x, s, tiles, tiles.padding, points, begin, end);
}
void gradients(const float* g, const WinogradImages& s, const WinogradTiles& tiles, float* points, int64_t begin,
               int64_t end) {
  tiles_at_points<OfGradients>(g, s, tiles, 0, points, begin, end);
}

// The taps of filters [first, first + lanes) for `n` <= lanes channels from `c` on: a register of filters for each.
AF_INLINE void load_taps(const WinogradWeights& w, int64_t first, int64_t c, int64_t n, Lanes (*taps)[9]) {
  const int64_t filters = w.filters > first ? w.filters - first : 0;
  if (w.channels_last && w.adjoint) {
    for (int64_t i = 0; i < n; ++i)
      for (int64_t t = 0; t < 9; ++t) taps[i][8 - t] = Lanes::load(w.values + ((c + i) * 9 + t) * w.filters + first, filters);
  } else if (w.channels_last) {
    for (int64_t t = 0; t < 9; ++t) {
      Lanes columns[lanes];
      load_transposed(w.values + (first * 9 + t) * w.depth + c, 9 * w.depth, filters, n, columns);
      for (int64_t i = 0; i < n; ++i) taps[i][t] = columns[i];
    }
  } else {
    const int64_t filter_stride = w.adjoint ? 9 : w.depth * 9, channel_stride = w.adjoint ? w.filters * 9 : 9;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t t = 0; t < 9; t += lanes) {
        Lanes columns[lanes];
        load_transposed(w.values + first * filter_stride + (c + i) * channel_stride + t, filter_stride, filters, 9 - t,
                        columns);
        for (int64_t l = 0; l < at_most(9 - t, lanes); ++l) taps[i][w.adjoint ? 8 - t - l : t + l] = columns[l];
      }
  }
}

// A panel of filters at the points, channels [from, from + depth): u [36, depth + 1, pair].
inline void filters_at_points(const WinogradWeights& w, int64_t filter, int64_t from, int64_t depth, float* u) {
  for (int64_t half = 0; half < pair; half += lanes)
    for (int64_t block = 0; block < depth; block += lanes) {
      const int64_t n = at_most(depth - block, lanes);
      Lanes taps[lanes][9];
      load_taps(w, filter + half, from + block, n, taps);
      for (int64_t i = 0; i < n; ++i) {
        Lanes across[3][6];
        AF_UNROLL
        for (int k = 0; k < 3; ++k) kernel_at_points(taps[i] + 3 * k, across[k]);
        float* to = u + (block + i) * pair + half;
        AF_UNROLL
        for (int l = 0; l < 6; ++l) {
          const Lanes column[3] = {across[0][l], across[1][l], across[2][l]};
          Lanes points[6];
          kernel_at_points(column, points);
          AF_UNROLL
          for (int k = 0; k < 6; ++k) points[k].store(to + (6 * k + l) * (depth + 1) * pair);
        }
      }
    }
}
