#include <algorithm>
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

// Directions of few classes: many samples side by side, since one row is shorter than a vector.
constexpr int64_t few_classes = 64, block_samples = 64;

AF_CLONES
void normalise_block(const float* __restrict__ normals, float* __restrict__ out, int64_t samples, int64_t classes) {
  double sums[block_samples] = {};
  for (int64_t c = 0; c < classes; ++c) {
    const float* column = normals + c / 4 * 4 * block_samples + c % 4;
    for (int64_t i = 0; i < block_samples; ++i) sums[i] += static_cast<double>(column[4 * i]) * column[4 * i];
  }
  for (int64_t i = 0; i < block_samples; ++i) sums[i] = 1 / std::sqrt(sums[i]);
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t c = 0; c < classes; ++c)
      out[i * classes + c] = static_cast<float>(normals[(c / 4 * block_samples + i) * 4 + c % 4] * sums[i]);
}

}  // namespace

void unit_vectors(float* out, int64_t samples, int64_t classes, const Stream& stream, int64_t sample_offset,
                  int64_t begin, int64_t end) {
  const int64_t groups = (classes + 3) / 4, together = classes <= few_classes ? block_samples : 1;
  std::vector<uint32_t> words(4 * groups * together);
  std::vector<float> normals(4 * groups * together);
  for (int64_t row = begin; row < end;) {
    Stream draw = stream;
    draw.purpose += static_cast<uint32_t>(row / samples) << 8;
    const auto sample = static_cast<uint32_t>(row % samples + sample_offset);
    const int64_t count = std::min({together, end - row, samples - row % samples});
    if (together > 1)
      for (int64_t g = 0; g < groups; ++g)
        fill_words_of_samples(draw, sample, static_cast<uint32_t>(g), block_samples, &words[4 * g * block_samples]);
    else
      fill_words(draw, sample, 0, groups, words.data());
    fill_normals(words.data(), normals.data(), 2 * groups * together);
    if (together > 1)
      normalise_block(normals.data(), out + row * classes, count, classes);
    else
      normalise(normals.data(), out + row * classes, classes);
    row += count;
  }
}

}  // namespace atlas_fast::cpu
