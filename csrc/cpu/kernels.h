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

// The instruction set that the loader picked.
const char* instruction_set();

}  // namespace atlas_fast::cpu
