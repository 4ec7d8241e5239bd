"""The GPU programs, in Triton's language: two kernels, and the scalar functions that they are handed.

Only :mod:`pliant.kernels.gpu` imports this file, and only when a GPU kernel is asked for: importing it imports Triton.

Every scalar function has the signature ``(x, a, b, c, d)``: the input, then as many coefficients as the activation has, in the
order of its public function; the others are None. A value function returns the activation. A gradient function returns the
derivatives to the input and to each coefficient. All arithmetic is in float32, or in float64 for a float64 input.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

# --- Exponentials ----------------------------------------------------------------------------------------------------------
# Written out because Triton offers no expm1 that its interpreter can also run, because its float32 exp is the hardware's 2^x
# after one rounded product, with a relative error that grows with |x|, and because at 16 bits an element the arithmetic is as
# scarce as the bandwidth: about 20 instructions for both results, none of them on the slow units.


@triton.jit
def exponentials(x):
    """exp(x) and expm1(x), each within two units in the last place; an exp below 2^-125 (float64: 2^-1021) is 0."""
    # x = n log(2) + r with |r| <= log(2) / 2. The high part of log(2) ends in zeros, so that its product with n is exact.
    # 1.5 * 2^23 plus a number holds the nearest integer in its last bits: from there it goes into an exponent as it is.
    if x.dtype == tl.float64:
        x = tl.clamp(x, -708.5, 710.0, propagate_nan=tl.PropagateNan.ALL)
        shifted = x * 1.4426950408889634 + 6755399441055744.0
        n = shifted - 6755399441055744.0
        r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10
        series = r * (1.0 / 6227020800) + (1.0 / 479001600)
        series = series * r + (1.0 / 39916800)
        series = series * r + (1.0 / 3628800)
        series = series * r + (1.0 / 362880)
        series = series * r + (1.0 / 40320)
        series = series * r + (1.0 / 5040)
        series = series * r + (1.0 / 720)
        exponent = (shifted.to(tl.int64, bitcast=True) << 52) + (1022 << 52)
    else:
        x = tl.clamp(x, -87.5, 89.0, propagate_nan=tl.PropagateNan.ALL)
        shifted = x * 1.4426950408889634 + 12582912.0
        n = shifted - 12582912.0
        r = (x - n * 0.693359375) - n * -2.12194440054690582e-4
        series = r * (1.0 / 5040) + (1.0 / 720)
        exponent = (shifted.to(tl.int32, bitcast=True) << 23) + (126 << 23)
    series = series * r + (1.0 / 120)
    series = series * r + (1.0 / 24)
    series = series * r + (1.0 / 6)
    series = series * r + 0.5
    series = series * r + 1.0
    small = series * r
    # Half of 2^n, because 2^128 is out of range while exp(88.7) is not.
    half = exponent.to(x.dtype, bitcast=True)
    return 2.0 * (half * small + half), 2.0 * (half * small + (half - 0.5))


@triton.jit
def sigmoid(u):
    exp, _ = exponentials(-u)
    return 1.0 / (1.0 + exp)


@triton.jit
def sigmoid_and_slope(u):
    """sigmoid(u) and its derivative, both relatively accurate in both tails, where 1 - sigmoid(u) would not be."""
    t, _ = exponentials(-tl.abs(u))
    r = 1.0 / (1.0 + t)
    return tl.where(u >= 0.0, 1.0, t) * r, t * r * r


@triton.jit
def tanh_and_slope(u):
    """tanh(u) and its derivative; the tanh is relatively accurate near 0, its derivative in both tails."""
    t, minus = exponentials(-2.0 * tl.abs(u))
    r = 1.0 / (1.0 + t)
    return tl.where(u < 0.0, minus, -minus) * r, 4.0 * t * r * r


# --- Activations -----------------------------------------------------------------------------------------------------------
# Ties, the side that 0 belongs to, and what NaN does are those of the readable formulas. Derivatives to a coefficient that
# acts on one side are selected with the condition of the other side, so that NaN reaches them and an infinity on the inactive
# side does not (there the readable form computes 0 * inf).


@triton.jit
def dsrelu(x, slope, b, c, d):
    return tl.where(x > 0.0, slope * x, x)


@triton.jit
def dsrelu_gradients(x, slope, b, c, d):
    return tl.where(x > 0.0, slope, 1.0), tl.where(x <= 0.0, 0.0, x)


@triton.jit
def dsrelu_gradients_of_output(y, slope, b, c, d):
    return tl.where(y > 0.0, slope, 1.0), tl.where(y <= 0.0, 0.0, y * (1.0 / slope))


@triton.jit
def srelu(x, alpha, beta, c, d):
    _, minus = exponentials(x)
    return tl.where(x > 0.0, alpha * x, beta * minus)


@triton.jit
def srelu_gradients(x, alpha, beta, c, d):
    exp, minus = exponentials(x)
    return tl.where(x > 0.0, alpha, beta * exp), tl.where(x <= 0.0, 0.0, x), tl.where(x > 0.0, 0.0, minus)


@triton.jit
def arelu(x, a, b, c, d):
    u = a * x + c
    v = b * x + d
    return tl.where(u >= v, u, v)


@triton.jit
def arelu_gradients(x, a, b, c, d):
    u = a * x + c
    v = b * x + d
    first = u >= v
    return (
        tl.where(first, a, b),
        tl.where(u < v, 0.0, x),
        tl.where(first, 0.0, x),
        tl.where(first, 1.0, 0.0),
        tl.where(first, 0.0, 1.0),
    )


@triton.jit
def asigmoid(x, a, b, c, d):
    return b * sigmoid(a * x + c) + d


@triton.jit
def asigmoid_gradients(x, a, b, c, d):
    h, slope = sigmoid_and_slope(a * x + c)
    return a * b * slope, x * b * slope, h, b * slope, tl.full(h.shape, 1.0, h.dtype)


@triton.jit
def atanh(x, a, b, c, d):
    h, _ = tanh_and_slope(a * x + c)
    return b * h + d


@triton.jit
def atanh_gradients(x, a, b, c, d):
    h, slope = tanh_and_slope(a * x + c)
    return a * b * slope, x * b * slope, h, b * slope, tl.full(h.shape, 1.0, h.dtype)


@triton.jit
def prelu(x, weight, b, c, d):
    return tl.where(x > 0.0, x, weight * x)


@triton.jit
def prelu_gradients(x, weight, b, c, d):
    return tl.where(x > 0.0, 1.0, weight), tl.where(x > 0.0, 0.0, x)


@triton.jit
def prelu_gradients_of_output(y, weight, b, c, d):
    return tl.where(y > 0.0, 1.0, weight), tl.where(y > 0.0, 0.0, y * (1.0 / weight))


@triton.jit
def swish(x, beta, b, c, d):
    return x * sigmoid(beta * x)


@triton.jit
def swish_gradients(x, beta, b, c, d):
    h, slope = sigmoid_and_slope(beta * x)
    return h + beta * x * slope, x * x * slope


@triton.jit
def pelu(x, a, b, c, d):
    _, minus = exponentials(x * (1.0 / b))
    return tl.where(x >= 0.0, (a / b) * x, a * minus)


@triton.jit
def pelu_gradients(x, a, b, c, d):
    u = x * (1.0 / b)
    exp, minus = exponentials(u)
    slope = tl.where(x >= 0.0, a / b, (a / b) * exp)
    return slope, tl.where(x >= 0.0, u, minus), -u * slope


@triton.jit
def frelu(x, b, unused, c, d):
    return tl.where(x <= 0.0, 0.0, x) + b


@triton.jit
def frelu_gradients(x, b, unused, c, d):
    return tl.where(x <= 0.0, 0.0, 1.0), tl.full(x.shape, 1.0, x.dtype)


# --- Kernels ---------------------------------------------------------------------------------------------------------------


@triton.jit
def numbers(a, b, c, d, TENSORS: tl.constexpr, DTYPE: tl.constexpr):
    """The coefficients as scalars. Bit i of TENSORS: the i-th is an address, read here and never on the host."""
    if a is not None:
        a = tl.load(a).to(DTYPE) if TENSORS & 1 else tl.full((), a, DTYPE)
    if b is not None:
        b = tl.load(b).to(DTYPE) if TENSORS & 2 else tl.full((), b, DTYPE)
    if c is not None:
        c = tl.load(c).to(DTYPE) if TENSORS & 4 else tl.full((), c, DTYPE)
    if d is not None:
        d = tl.load(d).to(DTYPE) if TENSORS & 8 else tl.full((), d, DTYPE)
    return a, b, c, d


@triton.jit
def places(tensor, start, lane, sizes, strides):
    """Addresses of the elements ``start + lane``; sizes and strides from the innermost dimension on, () if they lie dense."""
    if len(sizes) == 0:
        # First the scalar, in 64 bits, then the lanes, in 32: no size overflows, and the lanes are seen to be neighbours.
        at = tensor + start + lane
    else:
        index = start + lane
        offset = index * 0
        for i in tl.static_range(len(sizes)):
            if i == len(sizes) - 1:
                offset += index * strides[i]
            else:
                offset += index % sizes[i] * strides[i]
                index = index // sizes[i]
        at = tensor + offset
    return at


@triton.jit
def shares(terms, VECTOR: tl.constexpr):
    """The sums of neighbours that one thread holds, so that a running sum takes one register where the terms take VECTOR."""
    return tl.sum(tl.reshape(terms, [terms.shape[0] // VECTOR, VECTOR]), axis=1)


# No recompilation for another size or another place of a coefficient. Strides are specialized: 1 and multiples of 16 pay.
_COEFFICIENTS = ["a", "b", "c", "d"]


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=_COEFFICIENTS)
def forward(
    x,
    out,
    a,
    b,
    c,
    d,
    n,
    sizes,
    x_strides,
    out_strides,
    VALUE: tl.constexpr,
    TENSORS: tl.constexpr,
    DTYPE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = VALUE(x), one program per BLOCK of the n elements."""
    a, b, c, d = numbers(a, b, c, d, TENSORS, DTYPE)
    start = tl.program_id(0).to(INDEX) * BLOCK
    lane = tl.arange(0, BLOCK)
    x_at = places(x, start, lane, sizes, x_strides)
    out_at = places(out, start, lane, sizes, out_strides)
    # A mask is not known to be constant along 16 bytes; without one, loads and stores are 16 bytes wide at every n.
    if n - start >= BLOCK:
        z = tl.load(x_at).to(DTYPE)
        tl.store(out_at, VALUE(z, a, b, c, d).to(out.dtype.element_ty))
    else:
        inside = lane < n - start
        z = tl.load(x_at, mask=inside, other=0.0).to(DTYPE)
        tl.store(out_at, VALUE(z, a, b, c, d).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"], do_not_specialize_on_alignment=_COEFFICIENTS)
def backward(
    grad,
    x,
    grad_x,
    partials,
    a,
    b,
    c,
    d,
    n,
    sizes,
    grad_strides,
    x_strides,
    grad_x_strides,
    GRADIENTS: tl.constexpr,
    COUNT: tl.constexpr,
    TENSORS: tl.constexpr,
    DTYPE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """grad_x = grad * df/dx unless it is None; partials[k, program] = this program's share of the gradient of coefficient k.

    Program p takes the blocks p, p + P, p + 2P ... of P programs and keeps one sum per lane, added up once at its end: the
    order of every addition is fixed by n and P. COUNT is the number of coefficients, 0 if no gradient of one is wanted.
    """
    a, b, c, d = numbers(a, b, c, d, TENSORS, DTYPE)
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    sum_a = tl.zeros([BLOCK // VECTOR], DTYPE)
    sum_b = tl.zeros([BLOCK // VECTOR], DTYPE)
    sum_c = tl.zeros([BLOCK // VECTOR], DTYPE)
    sum_d = tl.zeros([BLOCK // VECTOR], DTYPE)
    for start in range(program.to(INDEX) * BLOCK, n.to(INDEX), tl.num_programs(0).to(INDEX) * BLOCK):
        grad_at = places(grad, start, lane, sizes, grad_strides)
        x_at = places(x, start, lane, sizes, x_strides)
        inside = lane < n - start
        # Both are read for the last time in this pass; what they would push out of the cache is needed sooner.
        if n - start >= BLOCK:
            g = tl.load(grad_at, eviction_policy="evict_first").to(DTYPE)
            z = tl.load(x_at, eviction_policy="evict_first").to(DTYPE)
        else:
            g = tl.load(grad_at, mask=inside, other=0.0).to(DTYPE)
            z = tl.load(x_at, mask=inside, other=0.0).to(DTYPE)
        by = GRADIENTS(z, a, b, c, d)
        if grad_x is not None:
            grad_x_at = places(grad_x, start, lane, sizes, grad_x_strides)
            result = (g * by[0]).to(grad_x.dtype.element_ty)
            if n - start >= BLOCK:
                tl.store(grad_x_at, result)
            else:
                tl.store(grad_x_at, result, mask=inside)
        if COUNT > 0:
            sum_a += shares(g * by[1], VECTOR)
        if COUNT > 1:
            sum_b += shares(g * by[2], VECTOR)
        if COUNT > 2:
            sum_c += shares(g * by[3], VECTOR)
        if COUNT > 3:
            sum_d += shares(g * by[4], VECTOR)
    if COUNT > 0:
        tl.store(partials + program, tl.sum(sum_a))
    if COUNT > 1:
        tl.store(partials + tl.num_programs(0) + program, tl.sum(sum_b))
    if COUNT > 2:
        tl.store(partials + 2 * tl.num_programs(0) + program, tl.sum(sum_c))
    if COUNT > 3:
        tl.store(partials + 3 * tl.num_programs(0) + program, tl.sum(sum_d))


# --- Index -----------------------------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """The scalar functions of one activation."""

    coefficients: int
    value: Any
    gradients: Any
    gradients_of_output: Any = None


FUNCTIONS = {
    "dsrelu": Function(1, dsrelu, dsrelu_gradients, dsrelu_gradients_of_output),
    "srelu": Function(2, srelu, srelu_gradients),
    "arelu": Function(4, arelu, arelu_gradients),
    "asigmoid": Function(4, asigmoid, asigmoid_gradients),
    "atanh": Function(4, atanh, atanh_gradients),
    "prelu": Function(1, prelu, prelu_gradients, prelu_gradients_of_output),
    "swish": Function(1, swish, swish_gradients),
    "pelu": Function(2, pelu, pelu_gradients),
    "frelu": Function(1, frelu, frelu_gradients),
}

VERSION: str = triton.__version__
INTERPRETED = not isinstance(forward, triton.JITFunction)
FLOAT32, FLOAT64, INT32, INT64 = tl.float32, tl.float64, tl.int32, tl.int64
