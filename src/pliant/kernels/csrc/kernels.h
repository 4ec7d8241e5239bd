// What the module and the kernels, which are compiled once per instruction set, agree on.

#pragma once

#include <cstddef>

namespace pliant {

// cpu.py asks the module for the functions by name and repeats the order of the dtypes. The last two functions have a backward pass only, which
// takes the output of the function in the place of its input.
enum Function {
    kDSReLU, kSReLU, kAReLU, kASigmoid, kATanh, kAffineReLU, kPReLU, kSwish, kPELU, kFReLU, kDSReLUOutput, kPReLUOutput,
    kFunctions
};
enum Dtype { kFloat32, kFloat64, kBFloat16, kFloat16, kDtypes };

constexpr const char* kNames[kFunctions] = {
    "dsrelu", "srelu", "arelu", "asigmoid", "atanh", "affine_relu", "prelu", "swish", "pelu", "frelu", "dsrelu from output",
    "prelu from output"};
constexpr int kCoefficients[kFunctions] = {1, 2, 4, 4, 4, 4, 1, 1, 2, 1, 1, 1};
constexpr int kMaxCoefficients = 4;
constexpr std::size_t kItemSize[kDtypes] = {4, 8, 2, 2};

// Elements whose contributions to a coefficient's gradient are added up in the precision of the computation before the sum
// goes into a double. Work is divided between threads at multiples of it, so that no sum depends on the number of threads.
constexpr std::size_t kBlock = 2048;

using Forward = void (*)(const void* x, void* out, std::size_t n, const double* coefficients);

// sums, if not null, receives the contribution of the n <= kBlock elements to each coefficient's gradient.
using Backward = void (*)(
    const void* grad, const void* x, void* grad_x, std::size_t n, const double* coefficients, double* sums);

struct Kernels {
    const char* isa;
    Forward forward[kFunctions][kDtypes];
    Backward backward[kFunctions][kDtypes];
};

extern const Kernels kernels_baseline;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

}  // namespace pliant
