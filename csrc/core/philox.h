// Philox 4x32-10 (Salmon et al., SC 2011): key and counter -> four 32-bit words.
// key = the 64-bit seed; counter = (element / 4, sample, step, purpose | draw << 8).
#pragma once
#include "macros.h"

namespace atlas_fast {

struct Words {
  uint32_t w[4];
};

AF_INLINE uint32_t mulhi(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __umulhi(a, b);
#else
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
#endif
}

AF_INLINE Words philox(uint64_t seed, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  AF_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint32_t hi0 = mulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
    const uint32_t hi1 = mulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
    c0 = hi1 ^ c1 ^ k0;
    c1 = lo1;
    c2 = hi0 ^ c3 ^ k1;
    c3 = lo0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// What a stream needs beside the element and sample: the tensor rng = (seed, step) and the purpose word.
struct Stream {
  uint64_t seed;
  uint32_t step, purpose;
};

AF_INLINE Words philox(const Stream& s, uint32_t group, uint32_t sample) {
  return philox(s.seed, group, sample, s.step, s.purpose);
}

// 24-bit uniform in [0, 1).
AF_INLINE float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Uniform in [-1, 1): exact in float32.
AF_INLINE float symmetric_uniform(uint32_t word) {
  return static_cast<float>(static_cast<int32_t>(word >> 8) - (1 << 23)) * 0x1p-23f;
}

}  // namespace atlas_fast
