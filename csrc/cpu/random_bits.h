// Words of one sample, many counters at a time.
#pragma once
#include <cstdint>

#include "../core/philox.h"

namespace atlas_fast::cpu {

// out[4 g + j] = word j of counter first_group + g, for g < groups.
void fill_words(const Stream& stream, uint32_t sample, uint32_t first_group, int64_t groups, uint32_t* out);

// The same counter of neighbouring samples: out[4 i + j] = word j of counter `group` of sample first_sample + i.
void fill_words_of_samples(const Stream& stream, uint32_t first_sample, uint32_t group, int64_t samples, uint32_t* out);

// noise = 2u - 1 in [-1, 1) of each word.
void fill_noise(const uint32_t* words, float* noise, int64_t n);

// interleaved[i * channels + c] = planar[c * stride + i] for i < count.
void interleave(const float* planar, int64_t stride, int64_t channels, int64_t count, float* interleaved);

}  // namespace atlas_fast::cpu
