// x0 = clip(x + eps (2u - 1), 0, 1); `noise` is 2u - 1.
#pragma once
#include "arithmetic.h"

namespace atlas_fast {

template <class T>
AF_INLINE T random_start(T x, T eps, float noise) {
  return clamp(add(x, mul(eps, static_cast<T>(noise))), T(0), T(1));
}

}  // namespace atlas_fast
