// The current stream, and device scalars that stay on the device.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/kernels.h"
#include "common.h"

// In libtorch_cuda only: weak, so that this module also loads where torch has no CUDA.
#pragma weak aoti_torch_get_current_cuda_stream

namespace atlas_fast::binding {

// Guards the device of `t` and holds its current stream.
struct Launch {
  torch::stable::accelerator::DeviceGuard guard;
  const char* op;
  void* stream = nullptr;

  Launch(const Tensor& t, const char* name) : guard(t.get_device_index()), op(name) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, op, ": this torch has no CUDA");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream));
    check(cuda::set_device(t.get_device_index()));  // the kernels are linked to a CUDA runtime of their own
  }
  void check(int error) const { STD_TORCH_CHECK(error == 0, op, ": ", cuda::error_string(error)); }
};

inline cuda::Noise noise_of(const Tensor& rng, int64_t purpose, int64_t sample_offset, const char* op) {
  check_rng(rng, op);
  STD_TORCH_CHECK(rng.is_cuda(), op, ": rng must be on the GPU");
  return {input<int64_t>(rng), static_cast<uint32_t>(purpose), sample_offset};
}

template <class T>
cuda::Scalar scalar_of(double factor, const std::optional<Tensor>& scalar, const char* op) {
  if (!scalar) return {factor, nullptr};
  constexpr auto type = sizeof(compute_t<T>) == 8 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(scalar->numel() == 1 && scalar->scalar_type() == type && scalar->is_cuda(), op,
                  ": a GPU scalar in the computing dtype is needed");
  return {factor, scalar->const_data_ptr()};
}

}  // namespace atlas_fast::binding
