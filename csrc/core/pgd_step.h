// x'_{t+1} = clip(Pi_eps(x'_t + step sign(grad)), 0, 1), equation 2 of the paper.
#pragma once
#include "arithmetic.h"

namespace atlas_fast {

template <class T>
AF_INLINE T pgd_step(T x, T x_adv, T grad, T eps, T step) {
  const T moved = add(x_adv, mul(step, sign(grad)));
  const T projected = clamp(moved, add(x, -eps), add(x, eps));
  return clamp(x == x ? projected : x, T(0), T(1));  // around NaN is no ball
}

}  // namespace atlas_fast
