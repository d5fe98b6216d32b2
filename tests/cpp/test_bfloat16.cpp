// bfloat16: every bit pattern survives the way to float and back; rounding is to nearest, ties to even.
#include <limits>

#include "check.h"

using namespace atlas_fast;

int main() {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const bfloat16 v{static_cast<uint16_t>(bits)};
    const float wide = to_float(v);
    if (wide != wide)
      CHECK(to_float(to_bfloat16(wide)) != to_float(to_bfloat16(wide)));
    else
      CHECK(to_bfloat16(wide).bits == bits);
  }
  CHECK(to_bfloat16(1.0f + 0x1p-8f).bits == to_bfloat16(1.0f).bits);             // tie, down to even
  CHECK(to_bfloat16(1.0f + 3 * 0x1p-8f).bits == to_bfloat16(1.0f + 0x1p-6f).bits);  // tie, up to even
  CHECK(to_bfloat16(1.0f + 0x1.02p-8f).bits == to_bfloat16(1.0f + 0x1p-7f).bits);
  CHECK(std::isinf(to_float(to_bfloat16(std::numeric_limits<float>::max()))));
  for (float v : uniform_values<float>(100000, -3, 3, 1))
    CHECK_NEAR(to_float(to_bfloat16(v)), v, std::fabs(v) * unit<bfloat16>);
  return finish();
}
