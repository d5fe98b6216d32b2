// Per class terms of cross-entropy and KL, and their logit gradients (formulas in atlas_fast/ops/ce_kl.py).
#pragma once
#include "macros.h"

namespace atlas_fast {

// base (log base - log other), 0 where the base probability underflowed.
template <class T>
AF_INLINE T kl_term(T base, T log_base, T log_other) {
  return base > T(0) ? base * (log_base - log_other) : T(0);
}

// Target distribution with label smoothing: (1 - s) onehot + s / C.
template <class T>
AF_INLINE T smooth_target(bool is_target, T smoothing, T floor) {
  return is_target ? T(1) - smoothing + floor : floor;
}

template <class T>
struct LogitGradients {
  T first, second;
};

// Gradients of (CE + beta KL) / samples for one class; `row_kl` is the row's KL, `p`, `q` the probabilities of first
// and second, `term` this class's kl_term.
template <class T>
AF_INLINE LogitGradients<T> ce_kl_gradients(T p, T q, T target, T term, T row_kl, T beta, T inverse_samples, bool reverse) {
  const T to_base = term - (reverse ? q : p) * row_kl, to_other = reverse ? p - q : q - p;
  const T first = p - target + beta * (reverse ? to_other : to_base);
  return {first * inverse_samples, beta * (reverse ? to_base : to_other) * inverse_samples};
}

}  // namespace atlas_fast
