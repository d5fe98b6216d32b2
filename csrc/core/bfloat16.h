// bfloat16 as 16 bits, without torch or CUDA headers. Conversion rounds to nearest even; NaN stays NaN.
#pragma once
#include <cstring>

#include "macros.h"

namespace atlas_fast {

struct bfloat16 {
  uint16_t bits;
};

AF_INLINE float to_float(bfloat16 v) {
  uint32_t wide = static_cast<uint32_t>(v.bits) << 16;
  float out;
  memcpy(&out, &wide, sizeof(out));
  return out;
}

AF_INLINE bfloat16 to_bfloat16(float v) {
  uint32_t wide;
  memcpy(&wide, &v, sizeof(wide));
  const uint32_t rounded = (wide + 0x7FFFu + ((wide >> 16) & 1u)) >> 16;
  const uint32_t nan = (wide >> 16) | 0x40u;
  return {static_cast<uint16_t>((wide & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded)};
}

// The type in which a stored type is computed: float64 for float64, float32 for the rest.
template <class T>
struct Compute {
  using type = T;
};
template <>
struct Compute<bfloat16> {
  using type = float;
};
template <class T>
using compute_t = typename Compute<T>::type;

AF_INLINE float load(float v) { return v; }
AF_INLINE double load(double v) { return v; }
AF_INLINE float load(bfloat16 v) { return to_float(v); }
template <class T>
AF_INLINE T store(compute_t<T> v) {
  return v;
}
template <>
AF_INLINE bfloat16 store<bfloat16>(float v) {
  return to_bfloat16(v);
}

}  // namespace atlas_fast
