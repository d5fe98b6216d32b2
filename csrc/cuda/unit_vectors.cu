#include "../core/normal.h"
#include "common.cuh"

namespace atlas_fast::cuda {
namespace {

// One warp a direction: a lane makes four normals at a time, writes them, and scales its own once the length is known.
__global__ void kernel(float* __restrict__ out, int64_t rows, int64_t samples, int64_t classes, Noise noise) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
  for (int64_t row = first; row < rows; row += static_cast<int64_t>(gridDim.x) * blockDim.x / 32) {
    Stream stream = stream_of(noise);
    stream.purpose += static_cast<uint32_t>(row / samples) << 8;
    const uint32_t sample = static_cast<uint32_t>(row % samples + noise.sample_offset);
    float* direction = out + row * classes;
    float sum = 0;
    for (int64_t i = 4 * lane; i < classes; i += 128) {
      const Words words = philox(stream, static_cast<uint32_t>(i / 4), sample);
      const Pair a = normal_pair(words.w[0], words.w[1]), b = normal_pair(words.w[2], words.w[3]);
      const float normals[4] = {a.first, a.second, b.first, b.second};
      AF_UNROLL
      for (int j = 0; j < 4; ++j)
        if (i + j < classes) {
          direction[i + j] = normals[j];
          sum += normals[j] * normals[j];
        }
    }
    const float inverse = 1.0f / sqrtf(warp_sum(sum));
    for (int64_t i = 4 * lane; i < classes; i += 128)
      for (int j = 0; j < 4 && i + j < classes; ++j) direction[i + j] *= inverse;
  }
}

}  // namespace

int unit_vectors(float* out, int64_t draws, int64_t samples, int64_t classes, Noise noise, void* stream) {
  const int64_t rows = draws * samples;
  if (rows == 0) return 0;
  return launch(kernel, grid_for(rows, kThreads / 32), kThreads, stream, out, rows, samples, classes, noise);
}

}  // namespace atlas_fast::cuda
