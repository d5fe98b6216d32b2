// Two standard normals from two Philox words (Box and Muller 1958), by polynomials that both compilers evaluate alike
// and g++ vectorises; |error| < 1e-6 against float64.
#pragma once
#include <cmath>
#include <cstring>

#include "macros.h"

namespace atlas_fast {

// Natural logarithm of a normal float in (0, 1]: minimax polynomial of the Cephes library (logf).
AF_INLINE float log_unit(float v) {
  int32_t bits;
  memcpy(&bits, &v, sizeof(bits));
  // v = m 2^e with m in [sqrt(1/2), sqrt(2)): subtracting the bits of sqrt(1/2) puts the cut there.
  const int32_t e = (bits - 0x3F3504F3) >> 23;
  const int32_t mantissa = bits - e * (1 << 23);  // e may be negative: shifting it is not defined before C++20
  float m;
  memcpy(&m, &mantissa, sizeof(m));
  const float x = m - 1.0f, z = x * x, k = static_cast<float>(e);
  float p = 7.0376836292e-2f;
  p = p * x - 1.1514610310e-1f;
  p = p * x + 1.1676998740e-1f;
  p = p * x - 1.2420140846e-1f;
  p = p * x + 1.4249322787e-1f;
  p = p * x - 1.6668057665e-1f;
  p = p * x + 2.0000714765e-1f;
  p = p * x - 2.4999993993e-1f;
  p = p * x + 3.3333331174e-1f;
  const float tail = p * x * z - 2.12194440e-4f * k - 0.5f * z;  // ln 2 = 0.693359375 - 2.12194440e-4
  return x + tail + 0.693359375f * k;
}

struct Pair {
  float first, second;
};

// cos and sin of 2 pi k 2^-24 for an integer k in [0, 2^24): exact reduction to a quarter turn, then Cephes sinf/cosf.
AF_INLINE Pair cos_sin_turn(uint32_t k) {
  const int32_t quarter = static_cast<int32_t>((k + (1u << 21)) >> 22);
  const float a = static_cast<float>(static_cast<int32_t>(k) - (quarter << 22)) * (6.2831853071795865f * 0x1p-24f);
  const float z = a * a;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * a + a;
  const float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
  const bool swap = quarter & 1;
  const float cosine = swap ? s : c, sine = swap ? c : s;
  // At an exact quarter turn float64 gives 6.1e-17 instead of 0, and a direction of one class needs a length.
  const float nonzero = cosine == 0.0f ? 6.1232340e-17f : cosine;
  return {((quarter + 1) & 2) ? -nonzero : nonzero, (quarter & 2) ? -sine : sine};
}

AF_INLINE Pair normal_pair(uint32_t word1, uint32_t word2) {
  const float u1 = static_cast<float>(static_cast<int32_t>((word1 >> 8) + 1)) * 0x1p-24f;
  const float r2 = -2.0f * log_unit(u1);
  const float r = sqrtf(r2 > 0x1p-24f ? r2 : 0x1p-24f);  // never zero: no vector has length zero
  const Pair turn = cos_sin_turn(word2 >> 8);
  return {r * turn.first, r * turn.second};
}

}  // namespace atlas_fast
