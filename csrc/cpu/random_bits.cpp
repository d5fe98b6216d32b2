#include "random_bits.h"

#include <vector>

#include "clones.h"
#include "kernels.h"

namespace atlas_fast::cpu {

namespace {

AF_INLINE void put(const Words& words, uint32_t* __restrict__ out, int64_t i) {
  out[4 * i] = words.w[0];
  out[4 * i + 1] = words.w[1];
  out[4 * i + 2] = words.w[2];
  out[4 * i + 3] = words.w[3];
}

}  // namespace

// Both loops are vectorised over counters.
AF_CLONES
void fill_words(const Stream& stream, uint32_t sample, uint32_t first_group, int64_t groups, uint32_t* __restrict__ out) {
  const Stream s = stream;
  for (int64_t i = 0; i < groups; ++i) put(philox(s, first_group + static_cast<uint32_t>(i), sample), out, i);
}

AF_CLONES
void fill_words_of_samples(const Stream& stream, uint32_t first_sample, uint32_t group, int64_t samples,
                           uint32_t* __restrict__ out) {
  const Stream s = stream;
  for (int64_t i = 0; i < samples; ++i) put(philox(s, group, first_sample + static_cast<uint32_t>(i)), out, i);
}

AF_CLONES
void fill_noise(const uint32_t* __restrict__ words, float* __restrict__ noise, int64_t n) {
  for (int64_t i = 0; i < n; ++i) noise[i] = symmetric_uniform(words[i]);
}

AF_CLONES
void interleave(const float* __restrict__ planar, int64_t stride, int64_t channels, int64_t count,
                float* __restrict__ interleaved) {
  if (channels == 3) {  // colour images: with the number known the compiler shuffles vectors
    const float *__restrict__ r = planar, *__restrict__ g = planar + stride, *__restrict__ b = planar + 2 * stride;
    for (int64_t i = 0; i < count; ++i) {
      interleaved[3 * i] = r[i];
      interleaved[3 * i + 1] = g[i];
      interleaved[3 * i + 2] = b[i];
    }
    return;
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < count; ++i) interleaved[i * channels + c] = planar[c * stride + i];
}

void random_bits(int64_t* out, int64_t n, const Stream& stream, int64_t sample_offset, int64_t begin, int64_t end) {
  const int64_t groups = (n + 3) / 4;
  std::vector<uint32_t> words(4 * groups);
  for (int64_t sample = begin; sample < end; ++sample) {
    fill_words(stream, static_cast<uint32_t>(sample + sample_offset), 0, groups, words.data());
    for (int64_t i = 0; i < n; ++i) out[sample * n + i] = words[i];
  }
}

const char* instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(ATLAS_FAST_NO_CLONES)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return "x86-64-v4 (AVX-512)";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "x86-64-v3 (AVX2)";
#endif
  return "baseline";
}

}  // namespace atlas_fast::cpu
