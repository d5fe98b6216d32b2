"""The fused operations. One file per operation: formula, reference, schema, fake shapes, gradient, public function."""

from ._registry import backends
from .ce_kl import ce_kl, ce_kl_reference, ce_kl_terms
from .crop_flip import crop_flip, crop_flip_reference
from .fgsm import fgsm, fgsm_reference
from .jacobian_norm import jacobian_norm, jacobian_norm_reference
from .norm_relu import norm_relu, norm_relu_reference, norm_relu_statistics
from .norm_relu_backward import norm_relu_backward, norm_relu_backward_reference
from .norm_relu_tangent import norm_relu_tangent, norm_relu_tangent_reference, norm_relu_tangent_sums
from .nuclear_norm import nuclear_norm, polar_factor
from .pgd_step import pgd_step, pgd_step_reference
from .random_start import random_start, random_start_reference
from .relu_max_pool import (
    relu_max_pool,
    relu_max_pool_backward,
    relu_max_pool_backward_reference,
    relu_max_pool_reference,
    relu_max_pool_tangent,
    relu_max_pool_tangent_reference,
)
from .rng import (
    AUGMENT,
    INIT,
    NOISE,
    PROJECTION,
    RANDOM_START,
    SHUFFLE,
    SPLIT,
    SQUARE,
    make_rng,
    random_bits,
    random_bits_reference,
    stream,
)
from .squared_norm import squared_norm, squared_norm_reference
from .unit_vectors import unit_vectors, unit_vectors_reference
from .winograd_convolution import (
    winograd_convolution,
    winograd_convolution_reference,
    winograd_weight_gradient,
    winograd_weight_gradient_reference,
)

__all__ = [
    "AUGMENT", "INIT", "NOISE", "PROJECTION", "RANDOM_START", "SHUFFLE", "SPLIT", "SQUARE",
    "backends", "ce_kl", "ce_kl_reference", "ce_kl_terms", "crop_flip", "crop_flip_reference", "fgsm",
    "fgsm_reference", "jacobian_norm", "jacobian_norm_reference", "make_rng", "norm_relu", "norm_relu_backward",
    "norm_relu_backward_reference", "norm_relu_reference", "norm_relu_statistics", "norm_relu_tangent",
    "norm_relu_tangent_reference", "norm_relu_tangent_sums", "nuclear_norm", "pgd_step", "pgd_step_reference",
    "polar_factor", "random_bits", "random_bits_reference", "random_start", "random_start_reference",
    "relu_max_pool", "relu_max_pool_backward", "relu_max_pool_backward_reference", "relu_max_pool_reference",
    "relu_max_pool_tangent", "relu_max_pool_tangent_reference", "squared_norm", "squared_norm_reference", "stream",
    "unit_vectors", "unit_vectors_reference", "winograd_convolution", "winograd_convolution_reference",
    "winograd_weight_gradient", "winograd_weight_gradient_reference",
]
