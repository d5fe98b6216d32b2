"""What a kernel or an operator does, by its name: the one table behind `bench.profile`.

The first rule whose pattern is found decides. A name without a rule is listed by itself, so that nothing hides in
"other". The package's own kernels are known by their namespace (CUDA) and by the functions of `atlas_fast/ops/triton`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from atlas_fast import ops

OWN = "atlas_fast operations"
OWN_NORM = "batch norm + ReLU (atlas_fast)"
OWN_CONVOLUTION = "convolution by Winograd's algorithm (atlas_fast)"
FORWARD, INPUT, WEIGHT = "convolution: forward", "convolution: input gradient", "convolution: weight gradient"
BOTH = "convolution: input and weight gradient in one call"
STOCK = "convolution: weight gradient as a forward convolution"
REST = "convolution or matmul: layout, split-K sums"
NORM, POOL, LOSS = "batch norm", "pooling, mean, linear", "softmax, loss"
ELEMENTWISE, COPY, REDUCE = "elementwise, add, ReLU", "copies, casts, fills", "sums"
OPTIMISER, VIEWS, AUTOGRAD = "optimiser", "views, allocation, checks", "autograd's own"
COMPILED = "kernels of torch.compile"

KERNELS = [  # CUDA kernels by (part of) their name, lower case
    (OWN, r"atlas_fast::"),
    (COMPILED, r"^triton_(poi|red|per|tem|mm|for)"),
    (OPTIMISER, r"multi_tensor_apply|multi_tensor|fused_?sgd|foreach"),
    (NORM, r"batch_?norm|\bbn_(fw|bw)|bnorm|bn_fwd|bn_bwd|welford"),
    (REST, r"nchwtonhwc|nhwctonchw|splitk|split_k|tensortransform|convert_?tensor|cask_trt|addpadding|dgrad_alpha_only"
           r"|scalepackedtensor|op_tensor|kern_precompute|computeoffsets|computewgradsplit|computewgradbnoffsets"),
    (WEIGHT, r"wgrad|backward_filter|bwd_?filter"),
    (INPUT, r"dgrad|backward_data|bwd_?data"),
    (FORWARD, r"fprop|implicit_convolve|convolve|conv2d|winograd|implicit_?gemm|xmma|cudnn.*conv|sm\d+_.*conv"),
    (POOL, r"gemm|gemv|nvjet|cublas|cutlass|pool|dot_kernel|splitkreduce"),
    (LOSS, r"softmax|nll_loss|cross_entropy|kl_div"),
    (COPY, r"memcpy|memset|copy_kernel|direct_copy|fillfunctor|catarray|copy_device|bfloat16_copy|float\d*_copy"),
    (REDUCE, r"reduce_kernel|reducekernel|reduce_"),
    (ELEMENTWISE, r"elementwise|unrolled|distribution_|threshold|clamp|index|sort|gather|scatter|compare"),
]

_CONVOLUTION = r"aten::(convolution|_convolution|conv2d|mkldnn_convolution|thnn_conv2d|_slow_conv2d_forward|" \
               r"cudnn_convolution\w*|_nnpack_\w+|_convolution_mode|col2im|im2col)$"
OPERATORS = [  # operators by name; convolution_backward and convolutions with huge kernels: see `operator_kind`
    (OPTIMISER, r"^Optimizer\.|aten::_fused_sgd|aten::_foreach"),
    (OWN_NORM, r"^atlas_fast::norm_relu"),
    (OWN_CONVOLUTION, r"^atlas_fast::winograd"),
    (OWN, r"^atlas_fast::"),
    (AUTOGRAD, r"^_(Share|BiasShare|Sum)$|^autograd::|^torch::autograd::|Backward\d*$|^torch::jit|^ProfilerStep"),
    (FORWARD, _CONVOLUTION),
    (REST, r"aten::(_convolution_double_backward|flip|pad|constant_pad_nd)$"),
    (NORM, r"batch_norm"),
    (POOL, r"aten::(linear|addmm_?|mm|bmm|matmul|mean|\w*pool2d\w*|baddbmm|addbmm|dot|mv)$"),
    (LOSS, r"softmax|cross_entropy|nll_loss|kl_div|xlogy|logsumexp"),
    (VIEWS, r"aten::(empty\w*|new_empty\w*|as_strided_?|view|_unsafe_view|reshape|_reshape_alias|expand|expand_as|"
            r"select|slice|narrow|unsqueeze|squeeze|transpose|t|permute|flatten|unflatten|unbind|detach_?|alias|resize_"
            r"|lift_fresh|view_as|view_as_real|resolve_\w+|to|is_\w+|result_type|promote_types|item|"
            r"_local_scalar_dense|equal|_has_\w+|set_|chunk|split|stack|numpy_T|diagonal|unfold|broadcast_to|swapaxes|"
            r"contiguous|size|stride|requires_grad_|max_size|isfinite)$|^detach$|^\[|^cuda[A-Z]|^cu[A-Z]"),
    (COPY, r"aten::(copy_|_to_copy|clone|fill_|zero_|zeros\w*|ones\w*|full\w*|cat|new_zeros|new_ones|new_full|"
           r"scalar_tensor|arange)$"),
    (REDUCE, r"aten::(sum\w*|max|min|amax|amin|norm|linalg_vector_norm|argmax|all|any|var_mean|std|aminmax|"
             r"clamp_max_sum)$"),
    (ELEMENTWISE, r"aten::(add|sub|mul|div|neg|sign|sgn|abs|pow|sqrt|rsqrt|square|exp|log|relu|threshold|"
                  r"threshold_backward|sin|cos|clamp|clamp_min|clamp_max|maximum|minimum|where|addcmul|addcdiv|lerp|uniform|"
                  r"normal|randn|rand|randn_like|rand_like|eq|ne|gt|lt|ge|le|reciprocal|bitwise_\w+|logical_\w+|"
                  r"__\w+__|index|index_select|index_put|gather|scatter\w*|argsort|sort|remainder|masked_fill|"
                  r"floor_divide|normalize|log1p|expm1|rsub|div_|true_divide|type_as)_?$"),
]



def _first(table, name: str) -> str | None:
    return next((kind for kind, pattern in table if re.search(pattern, name)), None)


def kernel_kind(name: str) -> str | None:
    """The kind of a CUDA kernel; None: no rule knows it."""
    return own_triton_kernels().get(name) or _first(KERNELS, name.lower())


@functools.cache
def own_triton_kernels() -> dict[str, str]:
    """{name: kind} of the package's Triton functions. A name in several files: the last one's that is not BatchNorm's,
    whose inlined helpers share names with kernels of the others."""
    files = sorted((Path(ops.__file__).parent / "triton").glob("*.py"), key=lambda file: not _is_norm(file))
    return {name: OWN_NORM if _is_norm(file) else OWN for file in files
            for name in re.findall(r"@triton\.jit[^\n]*\ndef (\w+)", file.read_text())}


def _is_norm(file: Path) -> bool:
    return file.stem.startswith(("norm_relu", "_norm"))


def operator_kind(name: str, shapes=None, inputs=None) -> str | None:
    """The kind of an operator of a CPU profile; None: no rule knows it.

    shapes, inputs: of its arguments, as the profiler records them (a convolution's kernel, what its backward computes).
    """
    if name == "aten::convolution_backward":
        mask = inputs[10] if inputs and len(inputs) > 10 else None
        return {(True, False): INPUT, (False, True): WEIGHT}.get(tuple(mask[:2]) if mask else None, BOTH)
    kind = _first(OPERATORS, name)
    if kind == FORWARD and shapes and len(shapes) > 1 and len(shapes[1]) == 4 and max(shapes[1][2:]) > 7:
        return STOCK
    return kind


def owner(names: list[str]) -> int:
    """Which of the nested operators (innermost first) stands for the innermost: an optimiser's step or a convolution
    answers for all that it calls, every other operator for itself."""
    for i in reversed(range(len(names))):
        if names[i].startswith("Optimizer.") or names[i] in ("aten::convolution", "aten::convolution_backward"):
            return i
    return 0
