// crop_flip against a loop over pixels, for every type, layout, odd size, padding and chunk.
#include "check.h"
#include "core/crop_flip.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

const Stream stream{0xfeedfacecafebeef, 11, 3};
const int64_t offset = 70;

double plain(uint8_t v) { return static_cast<float>(v) / 255.0f; }
double plain(float v) { return v; }
double plain(double v) { return v; }

// Strides of images in memory: planes, interleaved channels, samples innermost, every second column of planes.
std::vector<cpu::Images> layouts(int64_t n, int64_t c, int64_t h, int64_t w) {
  return {{c, h, w, c * h * w, h * w, w, 1},
          {c, h, w, c * h * w, 1, w * c, c},
          {c, h, w, 1, h * w * n, w * n, n},
          {c, h, w, 2 * c * h * w, 2 * h * w, 2 * w, 2}};
}

template <class In, class Out>
void test_images(int64_t n, int64_t c, int64_t h, int64_t w, int64_t padding, bool flip, const std::vector<int64_t>& index) {
  std::vector<In> x(2 * n * c * h * w);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<In>((i * 2654435761u >> 7) % 256);
  const int64_t samples = index.empty() ? n : static_cast<int64_t>(index.size()), size = c * h * w;
  const int64_t* places = index.empty() ? nullptr : index.data();
  for (const cpu::Images& source : layouts(n, c, h, w)) {
    for (const bool channels_last : {false, true}) {
      std::vector<Out> whole(samples * size, Out(-1)), chunked(samples * size, Out(-1));
      cpu::crop_flip(x.data(), source, places, whole.data(), channels_last, stream, offset, padding, flip, 0, samples);
      in_chunks(samples, [&](int64_t b, int64_t e) {
        cpu::crop_flip(x.data(), source, places, chunked.data(), channels_last, stream, offset, padding, flip, b, e);
      });
      CHECK(same(whole, chunked));
      for (int64_t i = 0; i < samples; ++i) {
        const Words words = philox(stream, 0, static_cast<uint32_t>(i + offset));
        const int64_t span = 2 * padding + 1;
        const int64_t down = static_cast<int64_t>(static_cast<uint64_t>(words.w[0]) * span >> 32) - padding;
        const int64_t right = static_cast<int64_t>(static_cast<uint64_t>(words.w[1]) * span >> 32) - padding;
        const bool mirror = flip && words.w[2] >= 0x80000000u;
        for (int64_t k = 0; k < c; ++k) {
          for (int64_t r = 0; r < h; ++r) {
            for (int64_t q = 0; q < w; ++q) {
              const int64_t row = r + down, column = (mirror ? w - 1 - q : q) + right;
              const bool inside = 0 <= row && row < h && 0 <= column && column < w;
              const int64_t from = (places ? places[i] : i) * source.sample_stride + k * source.channel_stride +
                                   row * source.row_stride + column * source.column_stride;
              const int64_t to = channels_last ? ((i * h + r) * w + q) * c + k : ((i * c + k) * h + r) * w + q;
              CHECK(static_cast<double>(whole[to]) == (inside ? plain(x[from]) : 0));
            }
          }
        }
      }
    }
  }
}

template <class In, class Out>
void test_type() {
  for (const int64_t padding : {0, 1, 4, 40}) {
    for (const bool flip : {false, true}) {
      test_images<In, Out>(5, 3, 7, 33, padding, flip, {});
      test_images<In, Out>(3, 1, 1, 1, padding, flip, {});
      test_images<In, Out>(4, 4, 5, 16, padding, flip, {3, 0, 0, 2, 1, 3, 3});
      test_images<In, Out>(2, 2, 3, 17, padding, flip, {1});
    }
  }
  test_images<In, Out>(0, 3, 4, 4, 1, true, {});
}

}  // namespace

int main() {
  test_type<uint8_t, float>();
  test_type<float, float>();
  test_type<double, double>();
  for (int v = 0; v < 256; ++v) CHECK(unit_range(static_cast<uint8_t>(v)) == static_cast<float>(v / 255.0));
  return finish();
}
