// Words of one sample, many counters at a time.
#pragma once
#include <cstdint>

#include "../core/philox.h"

namespace atlas_fast::cpu {

// out[4 g + j] = word j of counter first_group + g, for g < groups.
void fill_words(const Stream& stream, uint32_t sample, uint32_t first_group, int64_t groups, uint32_t* out);

// noise = 2u - 1 in [-1, 1) of each word.
void fill_noise(const uint32_t* words, float* noise, int64_t n);

}  // namespace atlas_fast::cpu
