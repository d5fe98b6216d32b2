#include "common.cuh"

namespace atlas_fast::cuda {
namespace {

constexpr int64_t kPerThread = 8, kMostBlocks = 1024;

// Partial sums by a grid that depends on n alone, so that the result does not depend on the device.
template <class T, class C>
__global__ void partial_sums(const T* __restrict__ g, T* __restrict__ gradient, C* __restrict__ partial, int64_t n,
                             double scale, Scalar weight) {
  const C factor = gradient ? static_cast<C>(2 * scale) * value_of<C>(weight) : C(0);
  const int64_t first = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  C sum = 0;
  for (int64_t i = first; i < n; i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const C v = load(g[i]);
    sum += v * v;
    if (gradient) gradient[i] = store<T>(v * factor);
  }
  sum = team_sum<true>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class C>
__global__ void total(const C* __restrict__ partial, C* __restrict__ value, int64_t blocks, double scale) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < blocks; i += blockDim.x) sum += partial[i];
  sum = team_sum<true>(sum);
  if (threadIdx.x == 0) *value = static_cast<C>(scale * sum);
}

}  // namespace

int64_t squared_norm_blocks(int64_t n) { return n ? grid_for(n, kThreads * kPerThread, kMostBlocks) : 1; }

template <class T>
int squared_norm(const T* g, T* gradient, compute_t<T>* partial, compute_t<T>* value, int64_t n, double scale,
                 Scalar weight, void* stream) {
  using C = compute_t<T>;
  const int64_t blocks = squared_norm_blocks(n);
  const int error = launch(partial_sums<T, C>, static_cast<unsigned>(blocks), kThreads, stream, g, gradient, partial, n,
                           scale, weight);
  return error ? error : launch(total<C>, 1, kThreads, stream, partial, value, blocks, scale);
}
template int squared_norm(const float*, float*, float*, float*, int64_t, double, Scalar, void*);
template int squared_norm(const double*, double*, double*, double*, int64_t, double, Scalar, void*);
template int squared_norm(const bfloat16*, bfloat16*, float*, float*, int64_t, double, Scalar, void*);

}  // namespace atlas_fast::cuda
