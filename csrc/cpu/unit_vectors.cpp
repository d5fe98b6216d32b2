#include <cmath>
#include <vector>

#include "../core/normal.h"
#include "clones.h"
#include "kernels.h"
#include "random_bits.h"

namespace atlas_fast::cpu {
namespace {

AF_CLONES
void fill_normals(const uint32_t* __restrict__ words, float* __restrict__ out, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const Pair n = normal_pair(words[2 * i], words[2 * i + 1]);
    out[2 * i] = n.first;
    out[2 * i + 1] = n.second;
  }
}

AF_CLONES
void normalise(const float* __restrict__ normals, float* __restrict__ out, int64_t n) {
  double sums[8] = {};  // side by side, so that they are vectorised
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t l = 0; l < 8; ++l) sums[l] += static_cast<double>(normals[i + l]) * normals[i + l];
  double sum = 0;
  for (; i < n; ++i) sum += static_cast<double>(normals[i]) * normals[i];
  for (int64_t l = 0; l < 8; ++l) sum += sums[l];
  const double inverse = 1 / std::sqrt(sum);
  for (i = 0; i < n; ++i) out[i] = static_cast<float>(normals[i] * inverse);
}

}  // namespace

void unit_vectors(float* out, int64_t samples, int64_t classes, const Stream& stream, int64_t sample_offset,
                  int64_t begin, int64_t end) {
  const int64_t groups = (classes + 3) / 4;
  std::vector<uint32_t> words(4 * groups);
  std::vector<float> normals(4 * groups);
  for (int64_t row = begin; row < end; ++row) {
    Stream draw = stream;
    draw.purpose += static_cast<uint32_t>(row / samples) << 8;
    fill_words(draw, static_cast<uint32_t>(row % samples + sample_offset), 0, groups, words.data());
    fill_normals(words.data(), normals.data(), 2 * groups);
    normalise(normals.data(), out + row * classes, classes);
  }
}

}  // namespace atlas_fast::cpu
