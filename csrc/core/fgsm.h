// FGSM from the random start that `noise` = 2u - 1 gives: random_start, then pgd_step.
#pragma once
#include "pgd_step.h"
#include "random_start.h"

namespace atlas_fast {

template <class T>
AF_INLINE T fgsm(T x, T grad, T eps, T step, float noise) {
  return pgd_step(x, random_start(x, eps, noise), grad, eps, step);
}

}  // namespace atlas_fast
