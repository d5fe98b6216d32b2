// The pybind11 module atlas_fast._C: what was compiled, and the torch-free kernels on NumPy arrays (for their tests).
// Importing it registers the operations of csrc/torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/winograd_convolution.h"

#ifndef ATLAS_FAST_CUDA
#define ATLAS_FAST_CUDA 0
#endif

namespace py = pybind11;
namespace af = atlas_fast;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
void check_same_size(const Array<T>& a, const Array<T>& b) {
  if (a.size() != b.size()) throw std::invalid_argument("arrays of one size are needed");
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["cuda"] = static_cast<bool>(ATLAS_FAST_CUDA);
  info["torch_abi"] = "2.11";
  info["isa"] = af::cpu::instruction_set();
  info["winograd"] = af::cpu::winograd_kernels(0)->name;
  return info;
}

// Philox of explicit key and counter words, for known answers.
py::tuple philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  const af::Words out = af::philox(static_cast<uint64_t>(k1) << 32 | k0, c0, c1, c2, c3);
  return py::make_tuple(out.w[0], out.w[1], out.w[2], out.w[3]);
}

Array<int64_t> random_bits(uint64_t seed, uint32_t step, uint32_t purpose, int64_t samples, int64_t n) {
  Array<int64_t> out({samples, n});
  af::cpu::random_bits(out.mutable_data(), n, {seed, step, purpose}, 0, 0, samples);
  return out;
}

Array<float> unit_vectors(uint64_t seed, uint32_t step, uint32_t purpose, int64_t draws, int64_t samples, int64_t classes) {
  Array<float> out({draws, samples, classes});
  af::cpu::unit_vectors(out.mutable_data(), samples, classes, {seed, step, purpose}, 0, 0, draws * samples);
  return out;
}

template <class T>
Array<T> pgd_step(Array<T> x, Array<T> x_adv, Array<T> grad, T eps, T step_size) {
  check_same_size(x, x_adv);
  check_same_size(x, grad);
  Array<T> out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  af::cpu::pgd_step<T>(x.data(), x_adv.data(), grad.data(), out.mutable_data(), eps, step_size, 0, x.size());
  return out;
}

// x: [samples, ...], contiguous.
template <class T>
Array<T> random_start(Array<T> x, T eps, uint64_t seed, uint32_t step, uint32_t purpose) {
  if (x.ndim() < 2) throw std::invalid_argument("a batch [samples, ...] is needed");
  Array<T> out(std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  const int64_t samples = x.shape(0);
  const af::cpu::Layout layout{samples, 1, samples ? x.size() / samples : 0};
  af::cpu::random_start<T>(x.data(), out.mutable_data(), layout, {seed, step, purpose}, 0, eps, 0, af::cpu::tiles(layout));
  return out;
}

template <class T>
py::tuple squared_norm(Array<T> g, double scale, double weight) {
  Array<T> gradient(std::vector<py::ssize_t>(g.shape(), g.shape() + g.ndim()));
  const int64_t chunks = (g.size() + af::cpu::squared_norm_chunk - 1) / af::cpu::squared_norm_chunk;
  std::vector<double> partial(chunks);
  af::cpu::squared_norm<T>(g.data(), gradient.mutable_data(), partial.data(), g.size(), static_cast<T>(2 * scale * weight),
                           0, chunks);
  double sum = 0;
  for (const double p : partial) sum += p;
  return py::make_tuple(scale * sum, gradient);
}

template <class T>
py::tuple ce_kl(Array<T> first, Array<T> second, Array<int64_t> target, T beta, bool reverse, T label_smoothing) {
  check_same_size(first, second);
  if (first.ndim() != 2 || target.size() != first.shape(0)) throw std::invalid_argument("logits [N, C] and targets [N] are needed");
  const int64_t samples = first.shape(0), classes = first.shape(1);
  Array<T> d_first({samples, classes}), d_second({samples, classes});
  Array<double> ce(samples), kl(samples);
  const int64_t bad = af::cpu::ce_kl<T>(first.data(), second.data(), target.data(), d_first.mutable_data(),
                                        d_second.mutable_data(), ce.mutable_data(), kl.mutable_data(), samples, classes,
                                        beta, reverse, label_smoothing, 0, samples);
  if (bad >= 0) throw std::invalid_argument("a target is outside 0..C-1");
  return py::make_tuple(ce, kl, d_first, d_second);
}

template <class T>
void define_typed(py::module_& m) {
  m.def("pgd_step", &pgd_step<T>);
  m.def("random_start", &random_start<T>);
  m.def("squared_norm", &squared_norm<T>);
  m.def("ce_kl", &ce_kl<T>);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of atlas_fast.";
  m.def("build_info", &build_info);
  m.def("philox", &philox);
  m.def("random_bits", &random_bits);
  m.def("unit_vectors", &unit_vectors);
  py::module_ single = m.def_submodule("float32"), wide = m.def_submodule("float64");
  define_typed<float>(single);
  define_typed<double>(wide);
}
