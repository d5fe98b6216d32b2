#include "../core/fgsm.h"

#include "noise_map.cuh"

namespace atlas_fast::cuda {
namespace {

template <class T>
struct Body {
  const T* __restrict__ x;
  const T* __restrict__ grad;
  T* __restrict__ out;
  Scalar eps, step;
  __device__ void operator()(int64_t i, float noise) const {
    using C = compute_t<T>;
    out[i] = store<T>(atlas_fast::fgsm(load(x[i]), load(grad[i]), value_of<C>(eps), value_of<C>(step), noise));
  }
};

}  // namespace

template <class T>
int fgsm(const T* x, const T* grad, T* out, Layout layout, Noise noise, Scalar eps, Scalar step, void* stream) {
  return for_noise(layout, noise, Body<T>{x, grad, out, eps, step}, stream);
}
template int fgsm(const float*, const float*, float*, Layout, Noise, Scalar, Scalar, void*);
template int fgsm(const double*, const double*, double*, Layout, Noise, Scalar, Scalar, void*);
template int fgsm(const bfloat16*, const bfloat16*, bfloat16*, Layout, Noise, Scalar, Scalar, void*);

}  // namespace atlas_fast::cuda
