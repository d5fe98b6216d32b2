"""What the fuzz tests draw: tensors of any dtype, layout and content, and numbers at the edges of what makes sense."""

import torch
from hypothesis import strategies as st

FLOATS = (torch.float32, torch.float64, torch.bfloat16)
OTHERS = (torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64)
LAYOUTS = ("contiguous", "channels_last", "permuted", "sliced", "offset", "expanded")
SPECIAL = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-45, 1e-40, -1e-310, 1e38, -3.3e38, 1.0)

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.sampled_from((0, 1, 2, 3, 5, 7, 17, 33)), min_size=1, max_size=3).map(tuple)
image_shapes = st.tuples(st.sampled_from((0, 1, 2, 3)), st.sampled_from((1, 2, 3, 5)), st.integers(1, 19),
                         st.integers(1, 19))
radii = st.one_of(st.floats(0, 1), st.sampled_from((0.0, 1e-45, 1e-310, 8 / 255, 1.25, 1e30, 3e38)))
wrong_radii = st.sampled_from((-1.0, -1e-300, float("nan"), float("inf"), 1e39, 1e300, 10**400, "0.1", None, [0.1]))
floats = st.sampled_from(FLOATS)


def arranged(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The values of x in another memory layout; those of "expanded" become those of its first sample."""
    if layout == "channels_last" and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "permuted":  # dense, samples innermost
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "offset":
        return torch.cat([x.flatten()[:1], x.flatten()])[1 if x.numel() else 0:].view(x.shape)
    if layout == "expanded" and len(x):
        return x[:1].expand(x.shape)
    return x


@st.composite
def tensors(draw, shape, dtype=torch.float32, kind="unit", special=True) -> torch.Tensor:
    """kind: "unit" [0, 1], "normal", or "wide" (powers of ten); special: now and then NaN, infinities, denormals."""
    generator = torch.Generator().manual_seed(draw(seeds))
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind != "unit":
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "wide":
        values *= 10.0 ** draw(st.integers(-30, 30))
    if special and values.numel() and draw(st.integers(0, 2)) == 0:
        for _ in range(draw(st.integers(1, 4))):
            values.view(-1)[draw(st.integers(0, values.numel() - 1))] = draw(st.sampled_from(SPECIAL))
    return arranged(values.to(dtype), draw(st.sampled_from(LAYOUTS)))


def labels(n: int, classes: int):
    """int64 [n] in 0..classes-1."""
    return seeds.map(lambda seed: torch.randint(max(classes, 1), (n,), generator=torch.Generator().manual_seed(seed)))


@st.composite
def wrong_labels(draw, n: int, classes: int) -> torch.Tensor:
    """Labels that no batch of n >= 1 samples and classes may have: of another type, length or range."""
    right = draw(labels(n, classes))
    kind = draw(st.sampled_from(("int32", "float", "short", "long", "column", "one hot", "high", "low", "huge")))
    if kind in ("high", "low", "huge"):
        right[draw(st.integers(0, n - 1))] = {"high": classes, "low": -1, "huge": 2**62}[kind]
        return right
    return {"int32": right.int(), "float": right.float(), "short": right[:-1], "long": torch.cat([right, right]),
            "column": right[:, None], "one hot": torch.nn.functional.one_hot(right, classes)}[kind]


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """The file with one to three changes: bytes flipped, overwritten, cut out, repeated, put in, or its end missing."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, max(len(content) - 1, 0))), draw(st.sampled_from((1, 1, 1, 2, 8, 100)))
        kind = draw(st.sampled_from(("flip", "flip", "set", "cut", "insert", "repeat", "end")))
        piece = bytes(content[at:at + length])
        content[at:at + length] = {
            "flip": bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in piece) if length == 1 else piece[::-1],
            "set": bytes([draw(st.sampled_from((0, 1, 127, 128, 255)))]) * len(piece), "cut": b"",
            "insert": draw(st.binary(min_size=1, max_size=8)) + piece, "repeat": piece + piece, "end": piece}[kind]
        if kind == "end":
            del content[at:]
    return bytes(content)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.sampled_from((
        0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, -1e-300, float("nan"), float("inf"), "", "a",
        "pgd-20", "\0", "1e-3", "wrn-10-1", "cpu", "..", "atlas", "é" * 300))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(("a", "eps", "")), inner,
                                                                         max_size=3)), max_leaves=4)
