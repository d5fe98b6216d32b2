// What the registrations share: layouts, dtype dispatch, scalars. Only here and in this folder is torch known, and only
// its stable ABI (headers of torch/csrc/stable and torch/headeronly).
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>

#include "../cpu/kernels.h"

namespace atlas_fast::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using cpu::Layout;

template <class T>
const T* input(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <class T>
T* output(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Calls f with a null pointer of the tensor's element type (float, double or bfloat16).
template <class F>
void dispatch(const Tensor& t, const char* op, F f) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return f(static_cast<float*>(nullptr));
    case ScalarType::Double: return f(static_cast<double*>(nullptr));
    case ScalarType::BFloat16: return f(static_cast<bfloat16*>(nullptr));
    default: STD_TORCH_CHECK(false, op, ": float32, float64 or bfloat16 tensors are needed");
  }
}

inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// `t` with the strides of `like` (dense), copied only if they differ.
inline Tensor with_strides_of(const Tensor& t, const Tensor& like) {
  if (same_strides(t, like)) return t;
  Tensor copy = torch::stable::empty_like(like);
  torch::stable::copy_(copy, t);
  return copy;
}

// The layout of a contiguous or channels-last batch [N, C, ...], or nothing for other strides.
inline std::optional<Layout> layout_of(const Tensor& t) {
  const int64_t samples = t.size(0), rest = samples ? t.numel() / samples : 0;
  if (t.is_contiguous()) return Layout{samples, 1, rest};
  if (t.dim() < 3) return std::nullopt;
  const int64_t channels = t.size(1);
  int64_t expected = channels;  // pixel strides, the last dimension first; then the sample's
  if (channels != 1 && t.stride(1) != 1) return std::nullopt;
  for (int64_t d = t.dim() - 1; d >= 2; --d) {
    if (t.size(d) != 1 && t.stride(d) != expected) return std::nullopt;
    expected *= t.size(d);
  }
  if (samples != 1 && t.stride(0) != expected) return std::nullopt;
  return Layout{samples, channels, rest / channels};
}

inline void check_same(const Tensor& a, const Tensor& b, const char* op) {
  STD_TORCH_CHECK(a.sizes().equals(b.sizes()) && a.scalar_type() == b.scalar_type(), op,
                  ": tensors of one shape and dtype are needed");
}

inline void check_logits(const Tensor& first, const std::optional<Tensor>& second, const Tensor& target) {
  STD_TORCH_CHECK(first.dim() == 2, "ce_kl: logits [N, C] are needed");
  STD_TORCH_CHECK(target.scalar_type() == ScalarType::Long && target.numel() == first.size(0),
                  "ce_kl: int64 targets [N] are needed");
  if (second) check_same(first, *second, "ce_kl");
}

// The type in which a tensor is computed (and its sums are returned).
inline ScalarType compute_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_rng(const Tensor& rng, const char* op) {
  STD_TORCH_CHECK(rng.scalar_type() == ScalarType::Long && rng.numel() == 2 && rng.is_contiguous(), op,
                  ": rng must be a contiguous int64 tensor [2]");
}

// Runs `body(x, out, layout)` on an output like x; x is brought into a layout that kernels know, if it is in none.
template <class Body>
Tensor elementwise(const Tensor& x, Body body) {
  Tensor out = torch::stable::empty_like(x);
  if (const auto layout = layout_of(out)) {
    body(with_strides_of(x, out), out, *layout);
    return out;
  }
  const Tensor plain = torch::stable::contiguous(x);
  Tensor result = torch::stable::empty_like(plain);
  body(plain, result, *layout_of(result));
  torch::stable::copy_(out, result);
  return out;
}

}  // namespace atlas_fast::binding
