// The functions, forward and backward, over one run of memory. setup.py compiles this file once per instruction set, with
// PLIANT_ISA naming it; nothing here may come from a header with inline functions, because the linker would be free to keep
// the copy that was compiled for the newest processor.
//
// Formulas, branches at ties and the grouping of gradients are those of pliant/activations. Products and sums are rounded
// one by one (-ffp-contract=off), as torch rounds them, so that the piecewise linear functions agree bit for bit; mad() is
// for the inside of the exponential alone.

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

#define PLIANT_JOIN_(a, b) a##b
#define PLIANT_JOIN(a, b) PLIANT_JOIN_(a, b)
#define PLIANT_TEXT_(a) #a
#define PLIANT_TEXT(a) PLIANT_TEXT_(a)
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

#if defined(__AVX512F__)
#define PLIANT_WIDTH 64
#elif defined(__AVX__)
#define PLIANT_WIDTH 32
#else
#define PLIANT_WIDTH 16
#endif

namespace pliant {
namespace {

typedef float VFloat __attribute__((vector_size(PLIANT_WIDTH)));
typedef double VDouble __attribute__((vector_size(PLIANT_WIDTH)));
typedef uint32_t VBits32 __attribute__((vector_size(PLIANT_WIDTH)));
typedef uint64_t VBits64 __attribute__((vector_size(PLIANT_WIDTH)));
typedef uint16_t VHalves __attribute__((vector_size(PLIANT_WIDTH / 2)));

// a * b + c, rounded once where the processor can.
INLINE VFloat mad(VFloat a, VFloat b, VFloat c) {
#if defined(__AVX512F__)
    return (VFloat)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (VFloat)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (VFloat)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE VDouble mad(VDouble a, VDouble b, VDouble c) {
#if defined(__AVX512F__)
    return (VDouble)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (VDouble)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (VDouble)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

template <class V> struct Exponential { V value, minus_one; };

// What the reduction x = n ln 2 + r needs, per precision. Beyond [kLowest, kHighest] the result is 0 or infinity. The
// coefficients are Chebyshev approximations of (expm1(r) - r) / r^2 on |r| <= ln 2 / 2.
struct Single {
    using T = float;
    using V = VFloat;
    using Bits = VBits32;
    static constexpr int kMantissa = 23;
    static constexpr uint32_t kHalf = 126u << 23;
    static constexpr uint32_t kSign = 1u << 31;
    static constexpr T kRound = 0x1.8p23f, kHigh = 0x1.63p-1f, kLow = -0x1.bd0106p-13f;
    static constexpr T kLowest = -86.9f, kHighest = 0x1.62e42ep6f;
    static INLINE V polynomial(V r) {
        V q = r * 1.9891030654e-4f + 1.3933685862617e-3f;
        q = mad(q, r, V{} + 8.3333108895820772e-3f);
        q = mad(q, r, V{} + 4.1666464602026542e-2f);
        q = mad(q, r, V{} + 1.6666666681659179e-1f);
        return mad(q, r, V{} + 5.0000000134981779e-1f);
    }
};

struct Double {
    using T = double;
    using V = VDouble;
    using Bits = VBits64;
    static constexpr int kMantissa = 52;
    static constexpr uint64_t kHalf = uint64_t{1022} << 52;
    static constexpr uint64_t kSign = uint64_t{1} << 63;
    static constexpr T kRound = 0x1.8p52, kHigh = 0x1.62e42feep-1, kLow = 0x1.a39ef35793c76p-33;
    static constexpr T kLowest = -708.0, kHighest = 0x1.62e42fefa39efp9;
    static INLINE V polynomial(V r) {
        V q = r * 2.0914717341716376e-9 + 2.5105259538448493e-8;
        q = mad(q, r, V{} + 2.7557273570102140e-7);
        q = mad(q, r, V{} + 2.7557255297969645e-6);
        q = mad(q, r, V{} + 2.4801587605325603e-5);
        q = mad(q, r, V{} + 1.9841269874901259e-4);
        q = mad(q, r, V{} + 1.3888888888883732e-3);
        q = mad(q, r, V{} + 8.3333333333261121e-3);
        q = mad(q, r, V{} + 4.1666666666666670e-2);
        q = mad(q, r, V{} + 1.6666666666666671e-1);
        return mad(q, r, V{} + 5.0e-1);
    }
};

template <class V> struct PrecisionOf;
template <> struct PrecisionOf<VFloat> { using P = Single; };
template <> struct PrecisionOf<VDouble> { using P = Double; };

// exp(x) and expm1(x) from one reduction: 2^n (1 + p) and 2^n p + (2^n - 1) with p = expm1(r). Carried with 2^(n - 1), for
// 2^128 is no float32. Results below the normal numbers are 0. NaN passes through every comparison.
template <class V> INLINE Exponential<V> exponential(V x) {
    using P = typename PrecisionOf<V>::P;
    using Bits = typename P::Bits;
    const V lowest = V{} + P::kLowest, highest = V{} + P::kHighest, round = V{} + P::kRound;
    V inside = x < lowest ? lowest : x;
    inside = inside > highest ? highest : inside;
    V shifted = mad(inside, V{} + typename P::T(0x1.71547652b82fep0), round);
    V n = shifted - round;
    V r = mad(n, V{} + -P::kHigh, inside);
    r = mad(n, V{} + -P::kLow, r);
    V p = mad(r * r, P::polynomial(r), r);
    V half_power = (V)(((Bits)shifted << P::kMantissa) + P::kHalf);
    V value = mad(half_power, p, half_power);
    V minus_one = mad(half_power, p, half_power - typename P::T(0.5));
    const V infinity = V{} + typename P::T(__builtin_inf());
    value = x < lowest ? V{} : value + value;
    value = x > highest ? infinity : value;
    minus_one = x > highest ? infinity : minus_one + minus_one;
    return {value, minus_one};
}

template <class V> INLINE V negative_magnitude(V x) {
    using P = typename PrecisionOf<V>::P;
    return (V)((typename P::Bits)x | P::kSign);
}

template <class V> INLINE V with_sign_of(V magnitude, V sign) {
    using P = typename PrecisionOf<V>::P;
    using Bits = typename P::Bits;
    return (V)(((Bits)magnitude & ~(Bits{} + P::kSign)) | ((Bits)sign & P::kSign));
}

// A sigmoid or tanh alone, and with its derivative from the same division, an ulp less exact. h (1 - h) and 1 - h^2 lose every digit where h is next to 1; written
// with the exponential they keep them.
template <class V> struct Saturating { V value, slope; };

template <class V> INLINE V sigmoid_value(V u) {
    V e = exponential(negative_magnitude(u)).value;
    return (u >= V{} ? V{} + 1 : e) / (1 + e);
}

template <class V> INLINE V tanh_value(V u) {
    V e = exponential(negative_magnitude(u + u)).minus_one;
    return with_sign_of(e / (2 + e), u);
}

template <class V> INLINE Saturating<V> sigmoid(V u) {
    V e = exponential(negative_magnitude(u)).value;
    V r = 1 / (1 + e);
    V tail = e * r;
    return {u >= V{} ? r : tail, tail * r};
}

template <class V> INLINE Saturating<V> tanh(V u) {
    V twice = negative_magnitude(u + u);
    Exponential<V> e = exponential(twice);
    V q = 1 / (2 + e.minus_one);
    V twice_q = q + q;
    return {with_sign_of(e.minus_one * q, u), e.value * twice_q * twice_q};
}

// Each function: coefficients as the kernel wants them (prepare), its value, and its gradients. `terms` receives what the
// element adds to the gradient of each coefficient.

// act(0), ..., act(count - 1), unrolled before the compiler decides what lives in registers: sums in a loop stay in memory.
template <int count, class Act> INLINE void each(const Act& act) {
    if constexpr (count > 0) {
        each<count - 1>(act);
        act(count - 1);
    }
}

template <class T> INLINE void copy(const double* from, T* to, int count) {
    for (int i = 0; i < count; ++i) to[i] = T(from[i]);
}

struct DSReLU {
    static constexpr int kCount = 1, kPrepared = 1;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 1); }
    template <class V> static INLINE V value(V x, const V* c) { return x > V{} ? c[0] * x : x; }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        auto above = x > V{};
        terms[0] = (above ? g : V{}) * x;
        return above ? g * c[0] : g;
    }
};

struct SReLU {
    static constexpr int kCount = 2, kPrepared = 2;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 2); }
    template <class V> static INLINE V value(V x, const V* c) {
        auto above = x > V{};
        V bent = exponential(above ? V{} : x).minus_one;
        return above ? c[0] * x : c[1] * bent;
    }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        auto above = x > V{};
        Exponential<V> e = exponential(above ? V{} : x);
        terms[0] = (above ? g : V{}) * x;
        terms[1] = (above ? V{} : g) * e.minus_one;
        return above ? g * c[0] : g * c[1] * e.value;
    }
};

struct AReLU {
    static constexpr int kCount = 4, kPrepared = 4;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 4); }
    template <class V> static INLINE V value(V x, const V* c) {
        V u = c[0] * x + c[2], v = c[1] * x + c[3];
        return u >= v ? u : v;
    }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        auto first = c[0] * x + c[2] >= c[1] * x + c[3];
        V gu = first ? g : V{}, gv = first ? V{} : g;
        terms[0] = gu * x;
        terms[1] = gv * x;
        terms[2] = gu;
        terms[3] = gv;
        return g * (first ? c[0] : c[1]);
    }
};

template <bool kTanh> struct Adaptive {
    static constexpr int kCount = 4, kPrepared = 4;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 4); }
    template <class V> static INLINE Saturating<V> inner(V u) {
        if constexpr (kTanh) return tanh(u);
        else return sigmoid(u);
    }
    template <class V> static INLINE V value(V x, const V* c) {
        V u = c[0] * x + c[2], h;
        if constexpr (kTanh) h = tanh_value(u);
        else h = sigmoid_value(u);
        return c[1] * h + c[3];
    }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        Saturating<V> h = inner(c[0] * x + c[2]);
        V gu = g * c[1] * h.slope;
        terms[0] = gu * x;
        terms[1] = g * h.value;
        terms[2] = gu;
        terms[3] = g;
        return gu * c[0];
    }
};

struct AffineReLU {
    static constexpr int kCount = 4, kPrepared = 4;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 4); }
    template <class V> static INLINE V value(V x, const V* c) {
        V u = c[0] * x + c[2];
        return c[1] * (u <= V{} ? V{} : u) + c[3];
    }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        V u = c[0] * x + c[2];
        auto off = u <= V{};
        V gu = off ? V{} : g * c[1];
        terms[0] = gu * x;
        terms[1] = g * (off ? V{} : u);
        terms[2] = gu;
        terms[3] = g;
        return gu * c[0];
    }
};

struct PReLU {
    static constexpr int kCount = 1, kPrepared = 1;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 1); }
    template <class V> static INLINE V value(V x, const V* c) { return x > V{} ? x : c[0] * x; }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        auto above = x > V{};
        terms[0] = (above ? V{} : g) * x;
        return above ? g : g * c[0];
    }
};

struct Swish {
    static constexpr int kCount = 1, kPrepared = 1;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 1); }
    template <class V> static INLINE V value(V x, const V* c) { return x * sigmoid_value(c[0] * x); }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        Saturating<V> h = sigmoid(c[0] * x);
        V gu = g * x * h.slope;
        terms[0] = gu * x;
        return g * h.value + gu * c[0];
    }
};

struct PELU {
    static constexpr int kCount = 2, kPrepared = 4;
    template <class T> static void prepare(const double* v, T* c) {
        c[0] = T(v[0]);
        c[1] = T(v[0] / v[1]);
        c[2] = T(1 / v[1]);
        c[3] = T(-v[0] / (v[1] * v[1]));
    }
    template <class V> static INLINE V value(V x, const V* c) {
        V bent = exponential((x > V{} ? V{} : x) * c[2]).minus_one;
        return x >= V{} ? c[1] * x : c[0] * bent;
    }
    template <class V> static INLINE V gradient(V g, V x, const V* c, V* terms) {
        auto above = x >= V{};
        Exponential<V> e = exponential((x > V{} ? V{} : x) * c[2]);
        V slope = above ? V{} + 1 : e.value;
        terms[0] = g * (above ? x * c[2] : e.minus_one);
        terms[1] = g * slope * x * c[3];
        return g * c[1] * slope;
    }
};

struct FReLU {
    static constexpr int kCount = 1, kPrepared = 1;
    template <class T> static void prepare(const double* v, T* c) { copy(v, c, 1); }
    template <class V> static INLINE V value(V x, const V* c) { return (x <= V{} ? V{} : x) + c[0]; }
    template <class V> static INLINE V gradient(V g, V x, const V*, V* terms) {
        terms[0] = g;
        return x <= V{} ? V{} : g;
    }
};

// From the output y, which has the sign of x where the slope is positive.

struct DSReLUOutput {
    static constexpr int kCount = 1, kPrepared = 2;
    template <class T> static void prepare(const double* v, T* c) {
        c[0] = T(v[0]);
        c[1] = T(1 / v[0]);
    }
    template <class V> static INLINE V gradient(V g, V y, const V* c, V* terms) {
        auto above = y > V{};
        terms[0] = (above ? g : V{}) * (y * c[1]);
        return above ? g * c[0] : g;
    }
};

struct PReLUOutput {
    static constexpr int kCount = 1, kPrepared = 2;
    template <class T> static void prepare(const double* v, T* c) { DSReLUOutput::prepare(v, c); }
    template <class V> static INLINE V gradient(V g, V y, const V* c, V* terms) {
        auto above = y > V{};
        terms[0] = (above ? V{} : g) * (y * c[1]);
        return above ? g : g * c[0];
    }
};

// How elements lie in memory. The half precisions are computed in float32 and rounded once, to nearest even.

struct Float32 : Single {
    using Element = float;
    static INLINE V load(const Element* p) {
        V v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    static INLINE void store(Element* p, V v) { memcpy(p, &v, sizeof v); }
};

struct Float64 : Double {
    using Element = double;
    static INLINE V load(const Element* p) {
        V v;
        memcpy(&v, p, sizeof v);
        return v;
    }
    static INLINE void store(Element* p, V v) { memcpy(p, &v, sizeof v); }
};

INLINE VBits32 load_halves(const uint16_t* p) {
    VHalves h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, VBits32);
}

INLINE void store_halves(uint16_t* p, VBits32 bits) {
    VHalves h = __builtin_convertvector(bits, VHalves);
    memcpy(p, &h, sizeof h);
}

struct BFloat16 : Single {
    using Element = uint16_t;
    static INLINE V load(const Element* p) { return (V)(load_halves(p) << 16); }
    static INLINE void store(Element* p, V v) {
        VBits32 bits = (VBits32)v;
        VBits32 rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
        store_halves(p, (v == v ? rounded : bits | 0x400000u) >> 16);
    }
};

struct Float16 : Single {
    using Element = uint16_t;
    static INLINE V load(const Element* p) {
        VBits32 bits = load_halves(p);
        // The exponent is 112 too small after the shift; a product mends it and makes denormals normal.
        VBits32 magnitude = (VBits32)((V)((bits & 0x7fffu) << 13) * 0x1p112f);
        VBits32 special = (VBits32)((bits & 0x7c00u) == 0x7c00u);
        return (V)(magnitude | (special & 0x7f800000u) | ((bits & 0x8000u) << 16));
    }
    static INLINE void store(Element* p, V v) {
        VBits32 bits = (VBits32)v;
        VBits32 magnitude = bits & 0x7fffffffu;
        VBits32 normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
        // Adding 0.5 leaves a denormal of the target in the lowest bits, rounded by the addition.
        VBits32 denormal = (VBits32)((V)magnitude + 0.5f) - (126u << 23);
        VBits32 half = magnitude < 0x38800000u ? denormal : normal;
        half = magnitude >= 0x47800000u ? VBits32{} + 0x7c00u : half;
        half = magnitude > 0x7f800000u ? VBits32{} + 0x7e00u : half;
        store_halves(p, half | ((bits >> 16) & 0x8000u));
    }
};

template <class F, class S> struct Prepared {
    typename S::V c[F::kPrepared];
    explicit Prepared(const double* coefficients) {
        typename S::T scalars[F::kPrepared];
        F::prepare(coefficients, scalars);
        for (int i = 0; i < F::kPrepared; ++i) c[i] = typename S::V{} + scalars[i];
    }
};

template <class S> constexpr size_t kLanes = sizeof(typename S::V) / sizeof(typename S::T);

constexpr size_t kStrip = 32;  // vectors

template <class F, class S> void forward(const void* from, void* to, size_t n, const double* coefficients) {
    using V = typename S::V;
    using Element = typename S::Element;
    const Prepared<F, S> prepared(coefficients);
    const Element* x = static_cast<const Element*>(from);
    Element* out = static_cast<Element*>(to);
    size_t i = 0;
    for (; i + kLanes<S> <= n; i += kLanes<S>) S::store(out + i, F::template value<V>(S::load(x + i), prepared.c));
    if (i < n) {
        Element rest[kLanes<S>] = {};
        memcpy(rest, x + i, (n - i) * sizeof(Element));
        S::store(rest, F::template value<V>(S::load(rest), prepared.c));
        memcpy(out + i, rest, (n - i) * sizeof(Element));
    }
}

template <class F, class S, bool kSum>
INLINE void gradients(const void* g_, const void* x_, void* gx_, size_t n, const double* coefficients, double* sums) {
    using V = typename S::V;
    using T = typename S::T;
    using Element = typename S::Element;
    const Prepared<F, S> prepared(coefficients);
    const Element* g = static_cast<const Element*>(g_);
    const Element* x = static_cast<const Element*>(x_);
    Element* gx = static_cast<Element*>(gx_);
    // Two levels of lanes: equal terms, as from a gradient that is one number expanded, are rounded the same way each time, and
    // the error of a single level would grow with its length.
    const size_t whole = n - n % kLanes<S>, strip = kSum ? kStrip * kLanes<S> : whole;
    V lanes[F::kCount] = {};
    size_t i = 0;
    while (i < whole) {
        const size_t stop = whole - i < strip ? whole : i + strip;
        V short_lanes[F::kCount] = {};
        for (; i < stop; i += kLanes<S>) {
            V terms[F::kCount];
            S::store(gx + i, F::template gradient<V>(S::load(g + i), S::load(x + i), prepared.c, terms));
            if constexpr (kSum) each<F::kCount>([&](int k) INLINE_LAMBDA { short_lanes[k] += terms[k]; });
        }
        if constexpr (kSum) each<F::kCount>([&](int k) INLINE_LAMBDA { lanes[k] += short_lanes[k]; });
    }
    if (i < n) {
        Element rest_g[kLanes<S>] = {}, rest_x[kLanes<S>] = {};
        memcpy(rest_g, g + i, (n - i) * sizeof(Element));
        memcpy(rest_x, x + i, (n - i) * sizeof(Element));
        V terms[F::kCount];
        S::store(rest_g, F::template gradient<V>(S::load(rest_g), S::load(rest_x), prepared.c, terms));
        memcpy(gx + i, rest_g, (n - i) * sizeof(Element));
        if constexpr (kSum)
            each<F::kCount>([&](int k) INLINE_LAMBDA {
                T scalars[kLanes<S>] = {};
                memcpy(scalars, &terms[k], (n - i) * sizeof(T));
                V valid;
                memcpy(&valid, scalars, sizeof valid);
                lanes[k] += valid;
            });
    }
    if constexpr (kSum)
        each<F::kCount>([&](int k) INLINE_LAMBDA {
            T scalars[kLanes<S>];
            memcpy(scalars, &lanes[k], sizeof scalars);
            double sum = 0;
            for (T scalar : scalars) sum += double(scalar);
            sums[k] = sum;
        });
}

template <class F, class S>
void backward(const void* g, const void* x, void* gx, size_t n, const double* coefficients, double* sums) {
    if (sums) gradients<F, S, true>(g, x, gx, n, coefficients, sums);
    else gradients<F, S, false>(g, x, gx, n, coefficients, nullptr);
}

#define PLIANT_FORWARD(F) {forward<F, Float32>, forward<F, Float64>, forward<F, BFloat16>, forward<F, Float16>}
#define PLIANT_BACKWARD(F) {backward<F, Float32>, backward<F, Float64>, backward<F, BFloat16>, backward<F, Float16>}

using ASigmoid = Adaptive<false>;
using ATanh = Adaptive<true>;

}  // namespace

extern const Kernels PLIANT_JOIN(kernels_, PLIANT_ISA) = {
    PLIANT_TEXT(PLIANT_ISA),
    {PLIANT_FORWARD(DSReLU), PLIANT_FORWARD(SReLU), PLIANT_FORWARD(AReLU), PLIANT_FORWARD(ASigmoid), PLIANT_FORWARD(ATanh),
     PLIANT_FORWARD(AffineReLU), PLIANT_FORWARD(PReLU), PLIANT_FORWARD(Swish), PLIANT_FORWARD(PELU), PLIANT_FORWARD(FReLU),
     {}, {}},
    {PLIANT_BACKWARD(DSReLU), PLIANT_BACKWARD(SReLU), PLIANT_BACKWARD(AReLU), PLIANT_BACKWARD(ASigmoid),
     PLIANT_BACKWARD(ATanh), PLIANT_BACKWARD(AffineReLU), PLIANT_BACKWARD(PReLU), PLIANT_BACKWARD(Swish),
     PLIANT_BACKWARD(PELU), PLIANT_BACKWARD(FReLU), PLIANT_BACKWARD(DSReLUOutput), PLIANT_BACKWARD(PReLUOutput)},
};

}  // namespace pliant
