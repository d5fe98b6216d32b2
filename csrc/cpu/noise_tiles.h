// Walks a batch in tiles and gives each tile its noise in memory order.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "random_bits.h"

namespace atlas_fast::cpu {

// body(offset, noise, count): elements offset .. offset + count - 1 of the batch in memory, with noise 2u - 1 each.
template <class Body>
void for_noise_tiles(const Layout& layout, const Stream& stream, int64_t sample_offset, int64_t begin, int64_t end,
                     Body body) {
  const int64_t size = tile_size(layout), per_sample = (layout.spatial + size - 1) / size, channels = layout.channels;
  std::vector<uint32_t> words(size + 8);  // a tile may begin and end inside a group of four
  std::vector<float> planar(size * channels), interleaved(channels > 1 ? size * channels : 0);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t sample = tile / per_sample, first = tile % per_sample * size;
    const int64_t count = std::min(size, layout.spatial - first);
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t element = c * layout.spatial + first, skip = element % 4, groups = (skip + count + 3) / 4;
      fill_words(stream, static_cast<uint32_t>(sample + sample_offset), static_cast<uint32_t>(element / 4), groups,
                 words.data());
      fill_noise(words.data() + skip, planar.data() + c * size, count);
    }
    if (channels > 1) interleave(planar.data(), size, channels, count, interleaved.data());
    body(sample * layout.sample_size() + first * channels, channels > 1 ? interleaved.data() : planar.data(),
         count * channels);
  }
}

}  // namespace atlas_fast::cpu
