// What max pooling does with neighbouring windows or channels, whichever way the tensors lie. One plain loop for each
// position of the window: the results stay in the first-level cache, and every version of AF_CLONES is vectorised.
#pragma once
#include <algorithm>

#include "kernels.h"

namespace atlas_fast::cpu {

// Codes as wide as the values that are computed, so that both fit the same vectors.
template <class C>
struct WideCode {
  using type = int32_t;
};
template <>
struct WideCode<double> {
  using type = int64_t;
};
template <class C>
using wide_code = typename WideCode<C>::type;

// Position `code` of the windows, and the values that lie there.
template <class S>
struct Tap {
  const S* values;
  int64_t code;
};

// A loop that stands in its caller's loop is jammed into it by g++ 12, and then not vectorised: hence functions.
template <class S, class C>
AF_INLINE void take_larger(const S* __restrict__ values, wide_code<C> code, int64_t n, C* __restrict__ best,
                           wide_code<C>* __restrict__ codes) {
  for (int64_t i = 0; i < n; ++i) {
    const C v = load(values[i]), old = best[i];
    const wide_code<C> old_code = codes[i], taken = (v > old) | (v != v);
    best[i] = taken ? v : old;
    codes[i] = taken ? code : old_code;
  }
}

// best = max(0, taps), codes: which, pool_none for 0. NaN is the largest, and the last of several, as in PyTorch.
template <class S, class C = compute_t<S>>
AF_INLINE void largest(const Tap<S>* taps, int64_t count, int64_t n, C* best, wide_code<C>* codes) {
  std::fill(best, best + n, C(0));
  std::fill(codes, codes + n, pool_none);
  for (const Tap<S>* tap = taps; tap < taps + count; ++tap)
    take_larger(tap->values, static_cast<wide_code<C>>(tap->code), n, best, codes);
}

template <class S, class C>
AF_INLINE void take_chosen(const S* __restrict__ values, wide_code<C> code, int64_t n,
                           const wide_code<C>* __restrict__ codes, C* __restrict__ out) {
  for (int64_t i = 0; i < n; ++i) {
    const C v = load(values[i]), old = out[i];
    out[i] = codes[i] == code ? v : old;
  }
}

// out = the value of the tap that the code names, 0 for pool_none.
template <class S, class C = compute_t<S>>
AF_INLINE void chosen(const Tap<S>* taps, int64_t count, int64_t n, const wide_code<C>* codes, C* out) {
  std::fill(out, out + n, C(0));
  for (const Tap<S>* tap = taps; tap < taps + count; ++tap)
    take_chosen(tap->values, static_cast<wide_code<C>>(tap->code), n, codes, out);
}

// Windows in which the pixels have position `code`: their gradients, and the codes that they chose.
template <class S, class K>
struct Source {
  const S* gradients;
  const K* codes;
  int64_t code;
};

template <class S, class K, class C>
AF_INLINE void add_chosen(const S* __restrict__ gradients, const K* __restrict__ codes, K code, int64_t n,
                          C* __restrict__ sum) {
  for (int64_t i = 0; i < n; ++i) {
    const C g = load(gradients[i]);
    sum[i] += codes[i] == code ? g : C(0);
  }
}

// sum = the gradients of the windows that chose the pixels.
template <class S, class K, class C = compute_t<S>>
AF_INLINE void received(const Source<S, K>* sources, int64_t count, int64_t n, C* sum) {
  std::fill(sum, sum + n, C(0));
  for (const Source<S, K>* source = sources; source < sources + count; ++source)
    add_chosen(source->gradients, source->codes, static_cast<K>(source->code), n, sum);
}

template <class T, class U>
AF_INLINE void convert(const T* __restrict__ from, int64_t n, U* __restrict__ to) {
  for (int64_t i = 0; i < n; ++i) to[i] = static_cast<U>(from[i]);
}
template <class T>
AF_INLINE void store_all(const compute_t<T>* __restrict__ from, int64_t n, T* __restrict__ to) {
  for (int64_t i = 0; i < n; ++i) to[i] = store<T>(from[i]);
}

}  // namespace atlas_fast::cpu
