// Gives every pixel of a batch its Philox noise 2u - 1, in any of the two dense layouts.
#pragma once
#include "common.cuh"

namespace atlas_fast::cuda {

// One thread takes four neighbouring pixels of every channel: their words come from one Philox call a channel.
template <class Body>
__global__ void noise_groups(Layout layout, Noise noise, Body body) {
  const Stream stream = stream_of(noise);
  const int64_t groups = layout.spatial / 4, total = layout.samples * groups;
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (int64_t i = first; i < total; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t sample = i / groups, group = i % groups;
    const int64_t offset = (sample * layout.spatial + 4 * group) * layout.channels;
    for (int64_t c = 0; c < layout.channels; ++c) {
      const Words words = philox(stream, static_cast<uint32_t>(c * groups + group),
                                 static_cast<uint32_t>(sample + noise.sample_offset));
      AF_UNROLL
      for (int j = 0; j < 4; ++j) body(offset + j * layout.channels + c, symmetric_uniform(words.w[j]));
    }
  }
}

// Where the pixels are no multiple of four, a thread takes one element and uses one word of its call.
template <class Body>
__global__ void noise_elements(Layout layout, Noise noise, Body body) {
  const Stream stream = stream_of(noise);
  const int64_t size = layout.channels * layout.spatial, total = layout.samples * size;
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (int64_t i = first; i < total; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t sample = i / size, within = i % size;
    const int64_t element = within % layout.channels * layout.spatial + within / layout.channels;
    const Words words = philox(stream, static_cast<uint32_t>(element / 4),
                               static_cast<uint32_t>(sample + noise.sample_offset));
    const int j = static_cast<int>(element % 4);
    const uint32_t word = j == 0 ? words.w[0] : j == 1 ? words.w[1] : j == 2 ? words.w[2] : words.w[3];
    body(i, symmetric_uniform(word));
  }
}

template <class Body>
int for_noise(Layout layout, Noise noise, Body body, void* stream) {
  const int64_t total = layout.samples * layout.channels * layout.spatial;
  if (total == 0) return 0;
  if (layout.spatial % 4 == 0)
    return launch(noise_groups<Body>, grid_for(layout.samples * layout.spatial / 4), kThreads, stream, layout, noise, body);
  return launch(noise_elements<Body>, grid_for(total), kThreads, stream, layout, noise, body);
}

}  // namespace atlas_fast::cuda
