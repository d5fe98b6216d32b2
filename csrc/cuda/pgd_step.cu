#include "../core/pgd_step.h"

#include "common.cuh"

namespace atlas_fast::cuda {
namespace {

template <class T>
__global__ void kernel(const T* __restrict__ x, const T* __restrict__ x_adv, const T* __restrict__ grad,
                       T* __restrict__ out, int64_t n, Scalar eps, Scalar step) {
  using C = compute_t<T>;
  const C radius = value_of<C>(eps), length = value_of<C>(step);
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  for (int64_t i = first; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x)
    out[i] = store<T>(atlas_fast::pgd_step(load(x[i]), load(x_adv[i]), load(grad[i]), radius, length));
}

}  // namespace

template <class T>
int pgd_step(const T* x, const T* x_adv, const T* grad, T* out, int64_t n, Scalar eps, Scalar step, void* stream) {
  if (n == 0) return 0;
  return launch(kernel<T>, grid_for(n), kThreads, stream, x, x_adv, grad, out, n, eps, step);
}
template int pgd_step(const float*, const float*, const float*, float*, int64_t, Scalar, Scalar, void*);
template int pgd_step(const double*, const double*, const double*, double*, int64_t, Scalar, Scalar, void*);
template int pgd_step(const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*, int64_t, Scalar, Scalar, void*);

}  // namespace atlas_fast::cuda
