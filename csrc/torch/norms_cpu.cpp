// norm_relu_tangent on the CPU.
#include <vector>

#include "common.h"

namespace atlas_fast::binding {
namespace {

constexpr char op[] = "norm_relu_tangent";

// The pointer of an optional parameter, or null.
template <class C>
const C* optional_input(const std::optional<Tensor>& t) {
  return t ? input<C>(*t) : nullptr;
}

// A parameter or statistic: contiguous, `numel` numbers in the computing type of z.
Tensor statistic(const Tensor& t, const Tensor& z, int64_t numel) {
  STD_TORCH_CHECK(t.numel() == numel && t.scalar_type() == compute_type(z), op,
                  ": statistics and parameters in the computing dtype are needed, one a channel and group");
  return torch::stable::contiguous(t);
}

std::optional<Tensor> statistic(const std::optional<Tensor>& t, const Tensor& z, int64_t numel) {
  return t ? std::optional<Tensor>(statistic(*t, z, numel)) : std::nullopt;
}

// `result`, unless it is empty, with the strides that empty_like(z) has.
Tensor arranged_as(const Tensor& z, const Tensor& result) {
  if (result.numel() == 0) return result;
  Tensor out = torch::stable::empty_like(z);
  torch::stable::copy_(out, result);
  return out;
}

template <class T>
void run(const cpu::NormReluTangent<T>& p, bool channels_last, bool needs_sums) {
  constexpr int64_t grain = 32768;  // elements a thread should get at least
  if (!channels_last) {
    const int64_t channel = p.samples * p.spatial;
    return torch::stable::parallel_for(0, p.channels, grain / channel + 1,
                                       [&](int64_t begin, int64_t end) { cpu::norm_relu_tangent(p, begin, end); });
  }
  using C = compute_t<T>;
  const int64_t tiles = cpu::norm_tiles(p.samples * p.spatial, p.groups, p.channels);
  std::vector<double> partial(needs_sums ? tiles * 3 * p.channels : 0);
  std::vector<C> factors(7 * p.groups * p.channels);
  if (needs_sums)
    torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
      cpu::norm_relu_tangent_sums(p, partial.data(), begin, end);
    });
  cpu::norm_relu_tangent_factors(p, needs_sums ? partial.data() : nullptr, factors.data(), 0, p.channels);
  if (!p.out) return;
  torch::stable::parallel_for(0, tiles, 1, [&](int64_t begin, int64_t end) {
    cpu::norm_relu_tangent_results(p, static_cast<const C*>(factors.data()), begin, end);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_relu_tangent(
    const Tensor& t_, const std::optional<Tensor>& residual_, const Tensor& g_, const Tensor& z_, const Tensor& mean_,
    const Tensor& rstd_, const std::optional<Tensor>& weight_, const std::optional<Tensor>& bias_, const Tensor& sums_,
    const std::optional<Tensor>& grad_weight, int64_t groups, bool batch_statistics, bool relu,
    const std::optional<Tensor>& given_, bool results_too) {
  STD_TORCH_CHECK(z_.dim() == 4, op, ": activations [N, C, H, W] are needed");
  const int64_t samples = z_.size(0), channels = z_.size(1), spatial = z_.size(2) * z_.size(3);
  STD_TORCH_CHECK(groups > 0 && samples % groups == 0, op, ": groups must divide the batch");
  STD_TORCH_CHECK(!given_ || (batch_statistics && results_too && !residual_), op,
                  ": given sums are for batch statistics, and their t is whole");
  check_same(z_, t_, op);
  check_same(z_, g_, op);
  if (residual_) check_same(z_, *residual_, op);
  Tensor out = torch::stable::empty_like(z_);
  if (!layout_of(out)) {
    const auto [tz, plain, extra, t_sums] =
        norm_relu_tangent(t_, residual_, g_, torch::stable::contiguous(z_), mean_, rstd_, weight_, bias_, sums_,
                          grad_weight, groups, batch_statistics, relu, given_, results_too);
    return {arranged_as(z_, tz), arranged_as(z_, plain), arranged_as(z_, extra), t_sums};
  }
  const Tensor z = with_strides_of(z_, out), t = with_strides_of(t_, out), g = with_strides_of(g_, out);
  const Tensor residual = residual_ ? with_strides_of(*residual_, out) : z;
  const auto result = [&](bool wanted) {
    return wanted ? torch::stable::empty_like(z) : torch::stable::new_empty(z, {0});
  };
  Tensor tz = result(residual_.has_value()), extra = result(results_too && batch_statistics);
  if (!results_too) out = result(false);
  const Tensor mean = statistic(mean_, z, groups * channels), rstd = statistic(rstd_, z, groups * channels);
  const Tensor sums = results_too && batch_statistics ? statistic(sums_, z, 2 * groups * channels) : mean;
  const auto given = statistic(given_, z, 3 * groups * channels);
  Tensor t_sums = results_too ? torch::stable::new_empty(mean, {0}) : torch::stable::new_zeros(mean, {3, groups, channels});
  const auto weight = statistic(weight_, z, channels), bias = statistic(bias_, z, channels);
  std::optional<Tensor> sum = statistic(grad_weight, z, channels);
  if (z.numel() > 0)
    dispatch(z, op, [&](auto* type) {
      using T = std::remove_pointer_t<decltype(type)>;
      using C = compute_t<T>;
      const cpu::NormReluTangent<T> p{input<T>(t), residual_ ? input<T>(residual) : nullptr, input<T>(g), input<T>(z),
                                      input<C>(mean), input<C>(rstd), optional_input<C>(weight),
                                      optional_input<C>(bias), input<C>(sums), optional_input<C>(given),
                                      residual_ ? output<T>(tz) : nullptr, results_too ? output<T>(out) : nullptr,
                                      extra.numel() > 0 ? output<T>(extra) : nullptr,
                                      sum ? output<C>(*sum) : nullptr, results_too ? nullptr : output<C>(t_sums),
                                      samples, channels, spatial, groups, relu};
      run(p, !z.is_contiguous(), !given && (batch_statistics || residual_ || sum || !results_too));
    });
  if (sum && sum->const_data_ptr() != grad_weight->const_data_ptr()) {
    Tensor target = *grad_weight;
    torch::stable::copy_(target, *sum);
  }
  return {tz, out, extra, t_sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(atlas_fast, CPU, m) { m.impl("norm_relu_tangent", TORCH_BOX(&norm_relu_tangent)); }

}  // namespace atlas_fast::binding
