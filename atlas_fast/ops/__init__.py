"""The fused operations. One file per operation: formula, reference, schema, fake shapes, gradient, public function."""

from ._registry import backends
from .ce_kl import ce_kl, ce_kl_reference, ce_kl_terms
from .fgsm import fgsm, fgsm_reference
from .jacobian_norm import jacobian_norm, jacobian_norm_reference
from .pgd_step import pgd_step, pgd_step_reference
from .random_start import random_start, random_start_reference
from .rng import (
    AUGMENT,
    INIT,
    PROJECTION,
    RANDOM_START,
    SHUFFLE,
    SPLIT,
    make_rng,
    random_bits,
    random_bits_reference,
    stream,
)
from .squared_norm import squared_norm, squared_norm_reference
from .unit_vectors import unit_vectors, unit_vectors_reference

__all__ = [
    "AUGMENT", "INIT", "PROJECTION", "RANDOM_START", "SHUFFLE", "SPLIT",
    "backends", "ce_kl", "ce_kl_reference", "ce_kl_terms", "fgsm", "fgsm_reference", "jacobian_norm",
    "jacobian_norm_reference", "make_rng", "pgd_step", "pgd_step_reference", "random_bits", "random_bits_reference",
    "random_start", "random_start_reference", "squared_norm", "squared_norm_reference", "stream", "unit_vectors",
    "unit_vectors_reference",
]
