// The CPU kernels: raw pointers, no torch. Work is cut into units; each call does the units [begin, end), so that the
// caller chooses the threads, and results do not depend on that choice. T is float, double or bfloat16.
#pragma once
#include <cstdint>

#include "../core/bfloat16.h"
#include "../core/philox.h"

namespace atlas_fast::cpu {

// A dense batch: pixel s of channel c of a sample lies at s * channels + c and has the logical index c * spatial + s.
// Channels-last images have their channels here; contiguous ones channels = 1.
struct Layout {
  int64_t samples, channels, spatial;
  int64_t sample_size() const { return channels * spatial; }
};

// Pixels (over all channels) that one unit covers, and units of a batch.
int64_t tile_size(const Layout& layout);
int64_t tiles(const Layout& layout);

template <class T>
void random_start(const T* x, T* out, const Layout& layout, const Stream& stream, int64_t sample_offset,
                  compute_t<T> eps, int64_t begin, int64_t end);

template <class T>
void fgsm(const T* x, const T* grad, T* out, const Layout& layout, const Stream& stream, int64_t sample_offset,
          compute_t<T> eps, compute_t<T> step, int64_t begin, int64_t end);

// A batch of images in any layout: strides in elements.
struct Images {
  int64_t channels, height, width;
  int64_t sample_stride, channel_stride, row_stride, column_stride;
};

// Units: samples. Sample i of the output, contiguous or channels-last, is image index[i] (image i where index is null)
// cropped and mirrored. In is uint8_t (Out float), float or double (Out the same).
template <class In, class Out>
void crop_flip(const In* x, const Images& source, const int64_t* index, Out* out, bool channels_last,
               const Stream& stream, int64_t sample_offset, uint32_t padding, bool flip, int64_t begin, int64_t end);

// Units: elements.
template <class T>
void pgd_step(const T* x, const T* x_adv, const T* grad, T* out, compute_t<T> eps, compute_t<T> step, int64_t begin,
              int64_t end);

// Units: rows (samples) of n words.
void random_bits(int64_t* out, int64_t n, const Stream& stream, int64_t sample_offset, int64_t begin, int64_t end);

// Units: rows; row = draw * samples + sample of out [draws, samples, classes].
void unit_vectors(float* out, int64_t samples, int64_t classes, const Stream& stream, int64_t sample_offset,
                  int64_t begin, int64_t end);

// Units: chunks of squared_norm_chunk elements; partial[chunk] = sum of squares. gradient = factor * g, or null.
constexpr int64_t squared_norm_chunk = 16384;
template <class T>
void squared_norm(const T* g, T* gradient, double* partial, int64_t n, compute_t<T> factor, int64_t begin, int64_t end);

// Units: rows of logits [samples, classes]. second and d_second may be null. row_ce and row_kl: [samples].
// Returns the first row whose target is outside 0..classes-1, or -1.
template <class T>
int64_t ce_kl(const T* first, const T* second, const int64_t* target, T* d_first, T* d_second, double* row_ce,
              double* row_kl, int64_t samples, int64_t classes, compute_t<T> beta, bool reverse,
              compute_t<T> label_smoothing, int64_t begin, int64_t end);

// The adjoint of BatchNorm's (and ReLU's) backward pass. t, g, z and the results: [samples, channels, spatial], or
// [samples, spatial, channels] where channels-last. mean, rstd: [groups, channels]; sums: [2, groups, channels].
// residual and tz, weight, bias, grad_weight may be null; extra is null for constant statistics, and sums is not read.
// given, found: sums of t, t yh and t D, [3, groups, channels]; given ones are used instead of those of these elements;
// those are all that is wanted where there is somewhere to put them: then out, extra and grad_weight are null.
template <class T>
struct NormReluTangent {
  using C = compute_t<T>;
  const T *t, *residual, *g, *z;
  const C *mean, *rstd, *weight, *bias, *sums, *given;
  T *tz, *out, *extra;
  C *grad_weight, *found;
  int64_t samples, channels, spatial, groups;
  bool relu;
};

// Contiguous tensors. Units: channels.
template <class T>
void norm_relu_tangent(const NormReluTangent<T>& p, int64_t begin, int64_t end);

// Channels-last tensors: sums, factors and results, each after the whole of the one before. Units of sums and results:
// norm_tiles() tiles of norm_tile_rows() pixels, none in two groups; of factors: channels.
// partial: [tiles, 3, channels], or null where nothing needs the sums of these elements;
// factors: [7, groups, channels].
int64_t norm_tile_rows(int64_t channels);
int64_t norm_tiles(int64_t rows, int64_t groups, int64_t channels);
template <class T>
void norm_relu_tangent_sums(const NormReluTangent<T>& p, double* partial, int64_t begin, int64_t end);
template <class T>
void norm_relu_tangent_factors(const NormReluTangent<T>& p, const double* partial, compute_t<T>* factors, int64_t begin,
                               int64_t end);
template <class T>
void norm_relu_tangent_results(const NormReluTangent<T>& p, const compute_t<T>* factors, int64_t begin, int64_t end);

// Max pooling of ReLU: sizes of the images and windows, height first. A window's maximum has the code
// row * kernel[1] + column of its place in the window; pool_none where nothing is positive. kernel[0] * kernel[1] <= 255.
struct Pool {
  int64_t height, width, channels, out_height, out_width;
  int64_t kernel[2], stride[2], padding[2], dilation[2];
};
constexpr int pool_none = 255;

// Contiguous tensors. Units: planes (samples and channels).
template <class T>
void relu_max_pool(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t begin, int64_t end);
template <class T>
void relu_max_pool_tangent(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t begin, int64_t end);
template <class T>
void relu_max_pool_backward(const T* g, const uint8_t* codes, T* dx, const Pool& p, int64_t begin, int64_t end);

// Channels-last tensors. Units: rows of all samples, of the output or (backward) of dx.
template <class T>
void relu_max_pool_rows(const T* x, T* y, uint8_t* codes, const Pool& p, int64_t begin, int64_t end);
template <class T>
void relu_max_pool_tangent_rows(const T* t, const uint8_t* codes, T* out, const Pool& p, int64_t begin, int64_t end);
template <class T>
void relu_max_pool_backward_rows(const T* g, const uint8_t* codes, T* dx, const Pool& p, int64_t begin, int64_t end);

// The instruction set that the loader picked.
const char* instruction_set();

}  // namespace atlas_fast::cpu
