#include "common.cuh"

namespace atlas_fast::cuda {
namespace {

__global__ void kernel(int64_t* __restrict__ out, int64_t samples, int64_t n, Noise noise) {
  const Stream stream = stream_of(noise);
  const int64_t groups = (n + 3) / 4, total = samples * groups;
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (int64_t i = first; i < total; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t sample = i / groups, group = i % groups;
    const Words words =
        philox(stream, static_cast<uint32_t>(group), static_cast<uint32_t>(sample + noise.sample_offset));
    AF_UNROLL
    for (int j = 0; j < 4; ++j)
      if (4 * group + j < n) out[sample * n + 4 * group + j] = words.w[j];
  }
}

}  // namespace

int random_bits(int64_t* out, int64_t samples, int64_t n, Noise noise, void* stream) {
  if (samples * n == 0) return 0;
  return launch(kernel, grid_for(samples * ((n + 3) / 4)), kThreads, stream, out, samples, n, noise);
}

}  // namespace atlas_fast::cuda
