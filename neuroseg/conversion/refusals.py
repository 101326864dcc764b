"""Why an operation has no spiking counterpart, and what to do: in the words of who wrote the model."""

from __future__ import annotations

PRODUCT = (
    "multiplies two activations (a gate, an attention, a squeeze-and-excitation); neurons add, so leave the gate out "
    "or train without it"
)
CURVED = "is no piecewise linear function, so no sum of ReLUs is the same; train with ReLU, LeakyReLU, ReLU6 or PReLU"
GATE = "is followed by more of the model: a curved function inside. At the end of a model it is left out by itself"

REASONS = {
    **dict.fromkeys(("elu", "gelu", "silu", "mish", "celu", "selu", "softplus", "hardswish", "glu"), CURVED),
    **dict.fromkeys(("log_sigmoid", "log_sigmoid_forward", "erf", "exp", "log", "sin", "cos", "tan"), CURVED),
    **dict.fromkeys(("sigmoid", "tanh", "_softmax", "_log_softmax"), GATE),
    **dict.fromkeys(
        ("pow", "sqrt", "rsqrt", "reciprocal", "norm", "linalg_vector_norm", "var", "var_mean", "std"), CURVED
    ),
    **dict.fromkeys(("bmm", "baddbmm", "dot", "einsum"), PRODUCT),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "scaled_dot_product_attention",
            "_scaled_dot_product_attention_math",
        ),
        f"is attention: it {PRODUCT}",
    ),
    **dict.fromkeys(("argmax", "gt", "ge", "lt", "le", "eq"), "decides; end with the logits"),
    **dict.fromkeys(
        ("max_unpool2d", "gather", "scatter", "where", "topk", "sort"),
        "moves values to where others say: a choice that each image makes anew",
    ),
    **dict.fromkeys(
        ("rand", "randn", "rand_like", "randn_like", "normal"),
        "draws at random; a network has to be the same at every run",
    ),
}
SUPPORTED = (
    "every linear operation (convolutions, Linear, BatchNorm, poolings, resizing, padding, concatenation, sums, "
    "slices) and ReLU, LeakyReLU, PReLU, ReLU6, Hardtanh, Hardsigmoid, abs, clamp, maximum and max pooling "
    "are supported"
)


def refusal(operation: str) -> str:
    """Why an operation is refused, and what to do."""
    name = {"_softmax": "softmax", "_log_softmax": "log_softmax"}.get(operation, operation)
    reason = REASONS.get(operation.rstrip("_")) or REASONS.get(operation)
    return f"{name} {reason}" if reason else f"{name} has no spiking counterpart; {SUPPORTED}"
