// Reading device scalars on the CPU.
#pragma once
#include "common.h"

namespace atlas_fast::binding {

inline Stream read_stream(const Tensor& rng, int64_t purpose, const char* op) {
  check_rng(rng, op);
  const int64_t* state = input<int64_t>(rng);
  return {static_cast<uint64_t>(state[0]), static_cast<uint32_t>(state[1]), static_cast<uint32_t>(purpose)};
}

// factor * scalar in the computing type C; factor alone where there is no scalar.
template <class C>
C read_scalar(double factor, const std::optional<Tensor>& scalar, const char* op) {
  if (!scalar) return static_cast<C>(factor);
  constexpr auto type = sizeof(C) == 8 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(scalar->numel() == 1 && scalar->scalar_type() == type, op, ": a scalar in the computing dtype is needed");
  return static_cast<C>(factor) * *input<C>(*scalar);
}

}  // namespace atlas_fast::binding
