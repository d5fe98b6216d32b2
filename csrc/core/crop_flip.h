// Random crop of an image padded with zeros, random mirroring, bytes to [0, 1].
#pragma once
#include "philox.h"

namespace atlas_fast {

// Pixel (r, q) of the output is pixel (r + down, q' + right) of the image, q' = q or, mirrored, width - 1 - q; a pixel
// outside of the image is 0. down and right are uniform in -padding..padding.
struct Crop {
  int64_t down, right;
  bool mirror;
};

// The upper half of word * span is uniform in 0..span-1 to 2^-32.
AF_INLINE Crop crop_of(const Words& words, uint32_t padding, bool flip) {
  const uint32_t span = 2 * padding + 1;
  return {static_cast<int64_t>(mulhi(words.w[0], span)) - padding, static_cast<int64_t>(mulhi(words.w[1], span)) - padding,
          flip && words.w[2] >> 31};
}

// A division: the product with 1/255 would differ in the last place.
AF_INLINE float unit_range(uint8_t value) { return static_cast<float>(value) / 255.0f; }
AF_INLINE float unit_range(float value) { return value; }
AF_INLINE double unit_range(double value) { return value; }

}  // namespace atlas_fast
