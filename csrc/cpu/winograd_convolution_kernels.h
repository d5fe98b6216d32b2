// The kernels of winograd_convolution.h on the `Lanes` of one instruction set. winograd_convolution.cpp includes this
// inside of a namespace for each, so it has no include of its own and no guard.

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

// m [R, pair] = (m +) sum over channels of v [blocks, R, lanes] and u [channels, pair]; `stride`: from block to block.
// What was there is added last: sums in parts have smaller errors.
template <int R>
void product(const float* v, int64_t stride, int64_t channels, const float* u, float* m, bool add) {
  Lanes sums[R][2];
  AF_UNROLL
  for (int r = 0; r < R; ++r)
    for (int half = 0; half < 2; ++half) sums[r][half] = Lanes::all(0);
  for (; channels > 0; channels -= lanes, v += stride)
    for (int64_t c = 0; c < at_most(channels, lanes); ++c, u += pair) {
      const Lanes u0 = Lanes::load(u), u1 = Lanes::load(u + lanes);
      AF_UNROLL
      for (int r = 0; r < R; ++r) {
        const Lanes x = Lanes::all(v[r * lanes + c]);
        sums[r][0] = fma(x, u0, sums[r][0]);
        sums[r][1] = fma(x, u1, sums[r][1]);
      }
    }
  AF_UNROLL
  for (int r = 0; r < R; ++r)
    for (int half = 0; half < 2; ++half) {
      float* to = m + r * pair + half * lanes;
      (add ? Lanes::load(to) + sums[r][half] : sums[r][half]).store(to);
    }
}

// `rows` of tiles; as many accumulators as there are registers are Lanes::rows of them.
template <int R = Lanes::rows>
AF_INLINE void any_product(int64_t rows, const float* v, int64_t stride, int64_t channels, const float* u, float* m,
                           bool add) {
  if (rows == R) return product<R>(v, stride, channels, u, m, add);
  if constexpr (R > 1) any_product<R - 1>(rows, v, stride, channels, u, m, add);
}

// Four rows of pixels [4, width, lanes] from a line of tiles at the points.
AF_INLINE void line_of_outputs(const float* m, int64_t stride, int64_t columns, int64_t width, Lanes bias, float* pixels) {
  for (int64_t column = 0; column < columns; ++column, m += pair) {
    Lanes down[4][6];
    AF_UNROLL
    for (int l = 0; l < 6; ++l) {
      Lanes at[6], y[4];
      AF_UNROLL
      for (int k = 0; k < 6; ++k) at[k] = Lanes::load(m + (6 * k + l) * stride);
      outputs_of(at, y);
      AF_UNROLL
      for (int k = 0; k < 4; ++k) down[k][l] = y[k];
    }
    const int64_t valid = width - 4 * column;
    AF_UNROLL
    for (int k = 0; k < 4; ++k) {
      Lanes y[4];
      outputs_of(down[k], y);
      AF_UNROLL
      for (int l = 0; l < 4; ++l)
        if (l < valid) (y[l] + bias).store(pixels + (k * width + 4 * column + l) * lanes);
    }
  }
}

// The outputs of a line of tiles, of one panel of filters.
inline void store_line(const float* m, int64_t stride, int64_t filter, const WinogradWeights& w, int64_t columns,
                       int64_t sample, int64_t row, const WinogradImages& s, float* pixels, float* y) {
  const int64_t area = at_most(s.height - row, 4) * s.width;
  for (int64_t first = filter; first < at_most(filter + pair, w.filters); first += lanes) {
    const int64_t channels = at_most(w.filters - first, lanes);
    const Lanes bias = w.bias ? Lanes::load(w.bias + first, channels) : Lanes::all(0);
    line_of_outputs(m + first - filter, stride, columns, s.width, bias, pixels);
    float* plane = y + s.plane(sample, first);
    for (int64_t i = 0; i < area; i += lanes)
      store_pixels(plane, row * s.width + i, at_most(area - i, lanes), channels, s, pixels + i * lanes);
  }
}

void outputs(const float* points, const WinogradWeights& w, const WinogradTiles& tiles, float* y, const WinogradImages& s,
             int64_t begin, int64_t end) {
  if (begin == end) return;
  const int64_t blocks = (w.depth + lanes - 1) / lanes, depth = at_most(w.depth, winograd_chunk);
  const int64_t point = tiles.point_stride(lanes), block = tiles.block_stride(lanes);
  // Lines of tiles that are multiplied together: about 64 tiles, whose products stay in the cache.
  const int64_t together = tiles.columns < 64 ? 64 / tiles.columns : 1, stride = (together * tiles.columns + 1) * pair;
  Scratch u(36 * (depth + 1) * pair), m(36 * stride), pixels((4 * s.width + lanes) * lanes);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit % tiles.groups, filter = unit / tiles.groups * pair, sample = group * tiles.samples;
    const int64_t all_lines = at_most(s.samples - sample, tiles.samples) * tiles.rows;
    const int64_t parts = (all_lines + together - 1) / together;
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = all_lines * part / parts, last = all_lines * (part + 1) / parts;
      const int64_t count = (last - first) * tiles.columns, calls = (count + Lanes::rows - 1) / Lanes::rows;
      const float* from = points + group * blocks * block + first * tiles.columns * lanes;
      for (int64_t c = 0; c < w.depth; c += depth) {
        const int64_t n = at_most(w.depth - c, depth);
        if (part == 0 || depth < w.depth) filters_at_points(w, filter, c, n, u.data);
        for (int64_t k = 0; k < 36; ++k)
          for (int64_t call = 0; call < calls; ++call) {
            const int64_t tile = count * call / calls, rows = count * (call + 1) / calls - tile;
            any_product(rows, from + c / lanes * block + k * point + tile * lanes, block, n, u.data + k * (n + 1) * pair,
                        m.data + k * stride + tile * pair, c > 0);
          }
      }
      for (int64_t line = first; line < last; ++line)
        store_line(m.data + (line - first) * tiles.columns * pair, stride, filter, w, tiles.columns,
                   sample + line / tiles.rows, line % tiles.rows * 4, s, pixels.data, y);
    }
  }
}

// sums [R, pair] += sum over `count` tiles of v [tiles, lanes], its first R channels, and g0, g1 [tiles, lanes].
template <int R>
AF_INLINE void weight_product(const float* v, const float* g0, const float* g1, int64_t count, float* sums) {
  Lanes s[R][2];
  AF_UNROLL
  for (int r = 0; r < R; ++r)
    for (int half = 0; half < 2; ++half) s[r][half] = Lanes::load(sums + r * pair + half * lanes);
  for (int64_t t = 0; t < count * lanes; t += lanes) {
    const Lanes a0 = Lanes::load(g0 + t), a1 = Lanes::load(g1 + t);
    AF_UNROLL
    for (int r = 0; r < R; ++r) {
      const Lanes x = Lanes::all(v[t + r]);
      s[r][0] = fma(x, a0, s[r][0]);
      s[r][1] = fma(x, a1, s[r][1]);
    }
  }
  AF_UNROLL
  for (int r = 0; r < R; ++r)
    for (int half = 0; half < 2; ++half) s[r][half].store(sums + r * pair + half * lanes);
}

// dw += the gradients of `filters` kernels of one channel, from those at the points; filter_stride: of dw.
AF_INLINE void add_kernel_gradients(const float* sums, int64_t stride, int64_t filters, float* dw, int64_t filter_stride) {
  Lanes down[3][6], w[9];
  AF_UNROLL
  for (int l = 0; l < 6; ++l) {
    Lanes at[6], rows[3];
    AF_UNROLL
    for (int k = 0; k < 6; ++k) at[k] = Lanes::load(sums + (6 * k + l) * stride);
    kernel_gradient_of(at, rows);
    AF_UNROLL
    for (int k = 0; k < 3; ++k) down[k][l] = rows[k];
  }
  AF_UNROLL
  for (int k = 0; k < 3; ++k) kernel_gradient_of(down[k], w + 3 * k);
  for (int64_t t = 0; t < 9; t += lanes) {
    Lanes rows[lanes];
    for (int64_t l = 0; l < lanes; ++l) rows[l] = t + l < 9 ? w[t + l] : Lanes::all(0);
    transpose(rows);
    for (int64_t l = 0; l < at_most(filters, lanes); ++l) {
      float* to = dw + l * filter_stride + t;
      (Lanes::load(to, 9 - t) + rows[l]).store(to, 9 - t);
    }
  }
}

void weights(const float* image_points, const float* gradient_points, const WinogradImages& s, int64_t filters,
             const WinogradTiles& tiles, float* dw, int64_t begin, int64_t end) {
  if (begin == end) return;
  const int64_t blocks = (s.channels + lanes - 1) / lanes, filter_blocks = (filters + lanes - 1) / lanes;
  const int64_t panels = (filters + pair - 1) / pair, point = tiles.point_stride(lanes), block = tiles.block_stride(lanes);
  const int64_t chunk = winograd_chunk / lanes, stride = (at_most(blocks, chunk) * lanes + 1) * pair;
  Scratch sums(36 * stride);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / panels * chunk, last = at_most(blocks, first + chunk), panel = unit % panels;
    for (int64_t group = 0; group < tiles.groups; ++group) {
      const int64_t samples = at_most(s.samples - group * tiles.samples, tiles.samples);
      const float* g = gradient_points + (group * filter_blocks + 2 * panel) * block;
      const int64_t second = 2 * panel + 1 < filter_blocks ? block : 0;  // else results that nobody reads
      sums.clear();
      for (int64_t k = 0; k < 36; ++k)
        for (int64_t c = first; c < last; ++c)
          for (int64_t r = 0; r < lanes; r += Lanes::weight_rows)
            weight_product<Lanes::weight_rows>(image_points + (group * blocks + c) * block + k * point + r, g + k * point,
                                               g + second + k * point, samples * tiles.rows * tiles.columns,
                                               sums.data + k * stride + ((c - first) * lanes + r) * pair);
      for (int64_t filter = panel * pair; filter < at_most(filters, (panel + 1) * pair); filter += lanes)
        for (int64_t c = first * lanes; c < at_most(s.channels, last * lanes); ++c)
          add_kernel_gradients(sums.data + (c - first * lanes) * pair + filter - panel * pair, stride, filters - filter,
                               dw + (filter * s.channels + c) * 9, s.channels * 9);
    }
  }
}

constexpr WinogradKernels kernels{Lanes::name, lanes, images, gradients, outputs, weights};
