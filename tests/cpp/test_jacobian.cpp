// unit_vectors and squared_norm against loops in double precision.
#include "check.h"
#include "core/normal.h"
#include "cpu/kernels.h"

using namespace atlas_fast;

namespace {

const double pi = std::acos(-1.0);

// Box and Muller in double precision, from the upper 24 bits of two words; the squared radius is kept above 2^-24.
double expected_normal(uint32_t word1, uint32_t word2, bool second) {
  const double u1 = ((word1 >> 8) + 1) * 0x1p-24, angle = 2 * pi * ((word2 >> 8) * 0x1p-24);
  const double r = std::sqrt(std::max(-2 * std::log(u1), 0x1p-24));
  return r * (second ? std::sin(angle) : std::cos(angle));
}

void test_normal_pair() {
  std::mt19937 generator(1);
  std::vector<uint32_t> words(200000);
  for (uint32_t& w : words) w = static_cast<uint32_t>(generator());
  const uint32_t edges[] = {0, 255, 256, 0x3fffffff, 0x40000000, 0x7fffffff, 0x80000000, 0xbfffffff, 0xc0000000, 0xffffffff};
  for (uint32_t a : edges)
    for (uint32_t b : edges) words.insert(words.end(), {a, b});
  for (size_t i = 0; i < words.size(); i += 2) {
    const Pair n = normal_pair(words[i], words[i + 1]);
    // 1e-6 of the value (at most 5.8), and where the radius is tiny, float32's rounding of log u1 near 1.
    CHECK_NEAR(n.first, expected_normal(words[i], words[i + 1], false), 1e-6);
    CHECK_NEAR(n.second, expected_normal(words[i], words[i + 1], true), 1e-6);
    CHECK(n.first != 0 || n.second != 0);
  }
}

// Row draw * samples + sample: normals of counter (class / 4, sample + offset, step, purpose + (draw << 8)), normalised.
void test_unit_vectors() {
  const Stream stream{99, 5, 1};
  const int64_t samples = 5, draws = 3, rows = samples * draws, offset = 12;
  for (int64_t classes : {1, 2, 3, 10, 101, 1000}) {
    std::vector<float> whole(rows * classes), chunked(rows * classes);
    cpu::unit_vectors(whole.data(), samples, classes, stream, offset, 0, rows);
    in_chunks(rows, [&](int64_t b, int64_t e) {
      cpu::unit_vectors(chunked.data(), samples, classes, stream, offset, b, e);
    });
    CHECK(same(whole, chunked));
    for (int64_t row = 0; row < rows; ++row) {
      std::vector<double> n(classes);
      double sum = 0, norm = 0;
      for (int64_t c = 0; c < classes; ++c) {
        Stream draw = stream;
        draw.purpose += static_cast<uint32_t>(row / samples) << 8;
        const Words w = philox(draw, static_cast<uint32_t>(c / 4), static_cast<uint32_t>(row % samples + offset));
        n[c] = expected_normal(w.w[c % 4 / 2 * 2], w.w[c % 4 / 2 * 2 + 1], c % 2);
        sum += n[c] * n[c];
      }
      for (int64_t c = 0; c < classes; ++c) {
        const double got = whole[row * classes + c];
        CHECK_NEAR(got, n[c] / std::sqrt(sum), 2e-6);
        norm += got * got;
      }
      CHECK_NEAR(norm, 1, 1e-6);
    }
  }
}

template <class T>
void test_squared_norm() {
  using C = compute_t<T>;
  const int64_t chunk = cpu::squared_norm_chunk;
  const C factor = static_cast<C>(0.37);
  for (int64_t n : {int64_t(0), int64_t(1), int64_t(17), int64_t(1025), chunk - 1, chunk, chunk + 1, 3 * chunk + 77}) {
    const std::vector<T> g = uniform_values<T>(n, -1, 1, 8);
    const int64_t chunks = (n + chunk - 1) / chunk;
    std::vector<T> gradient(n), chunked_gradient(n);
    std::vector<double> partial(chunks), chunked(chunks), alone(chunks);
    cpu::squared_norm<T>(g.data(), gradient.data(), partial.data(), n, factor, 0, chunks);
    cpu::squared_norm<T>(g.data(), nullptr, alone.data(), n, factor, 0, chunks);
    in_chunks(chunks, [&](int64_t b, int64_t e) {
      cpu::squared_norm<T>(g.data(), chunked_gradient.data(), chunked.data(), n, factor, b, e);
    });
    CHECK(same(partial, chunked));
    CHECK(same(partial, alone));
    Shifted<T> in(g), out(n);
    std::vector<double> shifted(chunks);
    cpu::squared_norm<T>(in.data(), out.data(), shifted.data(), n, factor, 0, chunks);
    CHECK(same(partial, shifted) && same(gradient, out.values()));
    CHECK(same(gradient, chunked_gradient));
    double sum = 0, expected = 0;
    for (double p : partial) sum += p;
    for (int64_t i = 0; i < n; ++i) {
      expected += value(g[i]) * value(g[i]);
      CHECK_NEAR(value(gradient[i]), value(g[i]) * factor, unit<T>);
    }
    CHECK_NEAR(sum, expected, 1e-13 * expected);  // 0 of nothing
  }
}

}  // namespace

int main() {
  test_normal_pair();
  test_unit_vectors();
  test_squared_norm<float>();
  test_squared_norm<double>();
  test_squared_norm<bfloat16>();
  return finish();
}
