// The products at the points, and the kernels of winograd_convolution.h. Included after winograd_convolution_points.h, in
// the same way.

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
