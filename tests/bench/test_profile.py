"""Every operator of a step, and every known kind of kernel name, falls into a kind."""

import pytest
import torch

import atlas_fast as af
from bench import kinds, profile, workload
from bench.step_variants import build, variants

VARIANTS = [v for v in variants("cpu") if not v.bf16]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
@pytest.mark.parametrize("method", ["atlas", "tradesjac-2"])
def test_no_operator_of_a_step_is_unknown(variant, method):
    torch.manual_seed(0)
    model = af.models.create("wrn-10-1", 10, 3, 8).train()
    step, _ = build(variant, workload.workload(method), model, torch.rand(2, 3, 8, 8), torch.arange(2))
    step()
    found = profile.events(step, "cpu", 1)
    made = profile.summary(found, 1)
    assert made["unknown"] == {}
    assert made["ms"] == pytest.approx(sum(kind["ms"] for kind in made["kinds"].values()))
    assert {kinds.FORWARD, kinds.INPUT, kinds.NORM, kinds.ELEMENTWISE, kinds.OPTIMISER} <= set(made["kinds"])
    assert (kinds.STOCK in made["kinds"]) == (variant.engine is None)  # both engines run ordinary weight gradients
    assert (kinds.OWN in made["kinds"]) == (variant.engine is not None)


def test_convolutions_are_told_apart():
    def run():
        x = torch.rand(2, 3, 8, 8, requires_grad=True)
        weight = torch.rand(4, 3, 3, 3, requires_grad=True)
        y = torch.nn.functional.conv2d(x, weight)
        torch.autograd.grad(y.sum(), x, retain_graph=True)
        torch.autograd.grad(y.sum(), weight, retain_graph=True)
        torch.autograd.grad(y.sum(), (x, weight))

    names = {(name, kind) for name, kind, _ in profile.events(run, "cpu", 1) if name == "aten::convolution_backward"}
    assert {kind for _, kind in names} == {kinds.INPUT, kinds.WEIGHT, kinds.BOTH}


def test_fused_batch_norm_is_told_from_the_other_own_kernels(tmp_path, monkeypatch):
    (tmp_path / "triton").mkdir()
    for file, names in (("norm_relu", ["_apply", "_total"]), ("squared_norm", ["_total"])):
        text = "".join(f"@triton.jit(do_not_specialize=['n'])\ndef {name}(x, n):\n    pass\n" for name in names)
        (tmp_path / "triton" / f"{file}.py").write_text(text)
    monkeypatch.setattr(kinds.ops, "__file__", str(tmp_path / "__init__.py"))
    kinds.own_triton_kernels.cache_clear()
    try:
        assert kinds.own_triton_kernels() == {"_apply": kinds.OWN_NORM, "_total": kinds.OWN}
    finally:
        kinds.own_triton_kernels.cache_clear()


def test_an_unknown_name_is_listed():
    made = profile.summary([("mystery_kernel", None, 2.0), ("Memset (Device)", kinds.COPY, 1.0)] * 3, 3)
    assert made["unknown"] == {"mystery_kernel": {"ms": 2.0, "launches": 1.0}}
    assert list(made["kinds"]) == ["unknown", kinds.COPY] and made["launches"] == 2


@pytest.mark.parametrize(("name", "kind"), [
    ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_warpgroupsize1x1x1_g1_execute"
     "_segment_k_off_kernel__5x_cudnn", kinds.FORWARD),
    ("sm80_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x64x64_stage3_warpsize2x2x1_g1_tensor"
     "16x8x16_kernel_cudnn", kinds.INPUT),
    ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_bf16_s16816wgrad_optimized_bf16_128x128_32x5_nhwc_align8>"
     "(cutlass_tensorop_bf16_s16816wgrad_optimized_bf16_128x128_32x5_nhwc_align8::Params)", kinds.WEIGHT),
    ("void cudnn::engines_precompiled::nchwToNhwcKernel<__nv_bfloat16, __nv_bfloat16, float, false, true, 0>(int)",
     kinds.REST),
    ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, __nv_bfloat16>(int)", kinds.REST),
    ("void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1, false, false, true>(int, int)", kinds.FORWARD),
    ("nvjet_hsh_128x128_64x5_1x2_h_bz_coopA_NNT", kinds.POOL),
    ("void at::native::batch_norm_collect_statistics_channels_last_kernel<at::native::Var, float>()", kinds.NORM),
    ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, 512, true, 1, true>(int)", kinds.NORM),
    ("void atlas_fast::cuda::(anonymous namespace)::noise_groups<atlas_fast::Fgsm<float>>(long, long)", kinds.OWN),
    ("_short_rows", kinds.OWN), ("_partial_sums", kinds.OWN), ("_total", kinds.OWN),
    ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<TensorListMetadata<3>, FusedSgdMathFunctor>()",
     kinds.OPTIMISER),
    ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)>()",
     kinds.COPY),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>()",
     kinds.ELEMENTWISE),
    ("void at::native::elementwise_kernel<128, 4, at::native::threshold_kernel_impl<c10::BFloat16>>()",
     kinds.ELEMENTWISE),
    ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>()", kinds.REDUCE),
    ("void (anonymous namespace)::softmax_warp_forward<float, float, float, 4, true, false>(float*)", kinds.LOSS),
    ("triton_red_fused_native_batch_norm_backward_12", kinds.COMPILED),
    ("Memcpy DtoD (Device -> Device)", kinds.COPY), ("Memset (Device)", kinds.COPY),
])
def test_kernels(name, kind):
    assert kinds.kernel_kind(name) == kind
