#include "../core/random_start.h"

#include "noise_map.cuh"

namespace atlas_fast::cuda {
namespace {

template <class T>
struct Body {
  const T* __restrict__ x;
  T* __restrict__ out;
  Scalar eps;
  __device__ void operator()(int64_t i, float noise) const {
    out[i] = store<T>(atlas_fast::random_start(load(x[i]), value_of<compute_t<T>>(eps), noise));
  }
};

}  // namespace

template <class T>
int random_start(const T* x, T* out, Layout layout, Noise noise, Scalar eps, void* stream) {
  return for_noise(layout, noise, Body<T>{x, out, eps}, stream);
}
template int random_start(const float*, float*, Layout, Noise, Scalar, void*);
template int random_start(const double*, double*, Layout, Noise, Scalar, void*);
template int random_start(const bfloat16*, bfloat16*, Layout, Noise, Scalar, void*);

int set_device(int device) { return static_cast<int>(cudaSetDevice(device)); }
const char* error_string(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace atlas_fast::cuda
