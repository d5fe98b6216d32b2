// 3x3 convolutions of stride 1 in float32 by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray 2016, "Fast algorithms for
// convolutional neural networks"). A tile of 4x4 outputs y comes from 6x6 pixels d and the kernel w:
//
//     y = A^T [(G w G^T) . (B^T d B)] A,
//
// 36 multiplications for each channel in place of 144. The matrices evaluate polynomials at the points 0, +-3/4, +-3/2
// and infinity: half the rounding error of the usual 0, +-1, +-2 (relative, 64 channels, float32: 0.8e-6 for 1.7e-6;
// summed one by one, the direct convolution has 0.4e-6), and B and A are exact.
//
// The input gradient is a convolution with w turned round and its channels exchanged. The weight gradient is the adjoint
// in w, summed over tiles: G^T [(A g A^T) . (B^T d B)] G.
//
// Images and gradients at the points lie as [groups, blocks of channels, 36 points, tiles + 1, lanes], a register's
// lanes being channels; those that there are not are 0. The tile more keeps points from sharing the cache's sets.
#pragma once
#include <cstdint>

namespace atlas_fast::cpu {

// [samples, channels, height, width], or [samples, height, width, channels] where channels-last.
struct WinogradImages {
  int64_t samples, channels, height, width;
  bool channels_last;
  int64_t area() const { return height * width; }
  // Where a channel's plane begins.
  int64_t plane(int64_t sample, int64_t channel) const {
    return sample * channels * area() + channel * (channels_last ? 1 : area());
  }
};

// The tiles of 4x4 outputs: `rows` and `columns` a sample. `padding`: of the convolution's images, 0 to 2. A group is as
// many whole samples as fit in the cache together.
struct WinogradTiles {
  int64_t rows, columns, padding, samples, groups;
  int64_t in_group() const { return samples * rows * columns; }
  int64_t point_stride(int64_t lanes) const { return (in_group() + 1) * lanes; }
  int64_t block_stride(int64_t lanes) const { return 36 * point_stride(lanes); }
};
WinogradTiles winograd_tiles(int64_t samples, int64_t height, int64_t width, int64_t padding, int64_t channels);

// [filters, depth, 3, 3]; for the input gradient [depth, filters, 3, 3], turned round. Channels-last: [.., 3, 3, ..].
// bias: [filters] or null.
struct WinogradWeights {
  const float *values, *bias;
  int64_t filters, depth;
  bool adjoint, channels_last;
};

// For one instruction set. Results do not depend on how units are shared out.
struct WinogradKernels {
  const char* name;
  int64_t lanes;
  // Images, or gradients of outputs, at the points. Units: (sample, block of `lanes` channels).
  void (*images)(const float* x, const WinogradImages& shape, const WinogradTiles& tiles, float* points, int64_t begin,
                 int64_t end);
  void (*gradients)(const float* g, const WinogradImages& shape, const WinogradTiles& tiles, float* points,
                    int64_t begin, int64_t end);
  // Outputs y from images at the points. Units: (panel of 2 * lanes filters, group).
  void (*outputs)(const float* points, const WinogradWeights& w, const WinogradTiles& tiles, float* y,
                  const WinogradImages& shape, int64_t begin, int64_t end);
  // Adds the weight gradient of one group after the other to dw [filters, channels, 3, 3]; shape: of the images.
  // Units: (winograd_chunk channels, panel of 2 * lanes filters).
  void (*weights)(const float* image_points, const float* gradient_points, const WinogradImages& shape, int64_t filters,
                  const WinogradTiles& tiles, float* dw, int64_t begin, int64_t end);

  int64_t blocks(int64_t channels) const { return (channels + lanes - 1) / lanes; }
  int64_t panels(int64_t filters) const { return (filters + 2 * lanes - 1) / (2 * lanes); }
};
constexpr int64_t winograd_chunk = 128;  // channels whose weights at the points, of one panel, stay in the cache

// The i-th of the instruction sets that were compiled and that this processor has, the fastest first; null after the
// last one.
const WinogradKernels* winograd_kernels(int i);

}  // namespace atlas_fast::cpu
