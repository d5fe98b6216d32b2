// Launchers of the CUDA kernels: raw device pointers, no torch. Each returns a cudaError_t as int; `stream` is a
// cudaStream_t of the current device. T is float, double or bfloat16.
#pragma once
#include <cstdint>

#include "../core/bfloat16.h"

namespace atlas_fast::cuda {

// factor * *tensor, or factor alone; the tensor is a device scalar of the computing type, read when the kernel runs.
struct Scalar {
  double factor;
  const void* tensor;
};

// As cpu::Layout: pixel s of channel c lies at s * channels + c and has the logical index c * spatial + s.
struct Layout {
  int64_t samples, channels, spatial;
};

// rng: device int64 [2] (seed, step).
struct Noise {
  const int64_t* rng;
  uint32_t purpose;
  int64_t sample_offset;
};

template <class T>
int random_start(const T* x, T* out, Layout layout, Noise noise, Scalar eps, void* stream);

template <class T>
int fgsm(const T* x, const T* grad, T* out, Layout layout, Noise noise, Scalar eps, Scalar step, void* stream);

template <class T>
int pgd_step(const T* x, const T* x_adv, const T* grad, T* out, int64_t n, Scalar eps, Scalar step, void* stream);

// out: [samples, n]
int random_bits(int64_t* out, int64_t samples, int64_t n, Noise noise, void* stream);

// out: [draws, samples, classes]; draw d adds d << 8 to the purpose.
int unit_vectors(float* out, int64_t draws, int64_t samples, int64_t classes, Noise noise, void* stream);

// value = scale * sum g^2; gradient = 2 scale weight g, or null. partial: workspace of squared_norm_blocks(n).
int64_t squared_norm_blocks(int64_t n);
template <class T>
int squared_norm(const T* g, T* gradient, compute_t<T>* partial, compute_t<T>* value, int64_t n, double scale,
                 Scalar weight, void* stream);

// second and d_second may be null; rows: workspace [2, samples]; terms: [3] loss, mean CE, mean KL. A target outside
// 0..classes-1 makes its row's loss and gradients NaN.
template <class T>
int ce_kl(const T* first, const T* second, const int64_t* target, T* d_first, T* d_second, compute_t<T>* rows,
          compute_t<T>* terms, int64_t samples, int64_t classes, Scalar beta, bool reverse, double label_smoothing,
          void* stream);

int set_device(int device);
const char* error_string(int error);

}  // namespace atlas_fast::cuda
