// exp(v) for v <= 0: the Cephes polynomial in float32 (relative error < 2e-7), which g++ vectorises; below e^-87.3 the
// result is 0 instead of a denormal. -inf gives 0, NaN gives NaN.
#pragma once
#include <cmath>
#include <cstring>

#include "macros.h"

namespace atlas_fast {

AF_INLINE float exp_nonpositive(float v) {
  const float x = v > -87.3f ? v : -87.3f;
  // x = k ln 2 + r with |r| <= ln 2 / 2; adding 1.5 2^23 rounds to the nearest integer.
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float k = shifted - 12582912.0f;
  const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(k) + 127) << 23;
  float power;
  memcpy(&power, &exponent, sizeof(power));
  const float result = p * power;
  return v > -87.3f ? result : (v != v ? v : 0.0f);
}

AF_INLINE double exp_nonpositive(double v) { return exp(v); }

}  // namespace atlas_fast
