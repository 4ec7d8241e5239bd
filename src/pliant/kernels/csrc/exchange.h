// The part of DLPack's exchange protocol that is needed to read where a tensor lies: the layout of its structures, which are fixed
// for a major version. Torch offers it as torch.Tensor.__dlpack_c_exchange_api__; with an older torch, cpu.py reads the tensors.

#pragma once

#include <cstdint>

namespace pliant::exchange {

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kCpu = 1;
enum Code : std::uint8_t { kFloat = 2, kBFloat = 4 };

struct Device {
    std::int32_t type, id;
};
struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};
struct Tensor {
    void* data;
    Device device;
    std::int32_t dimensions;
    DataType dtype;
    std::int64_t *shape, *strides;
    std::uint64_t byte_offset;
};
struct Api {
    std::uint32_t major, minor;
    Api* older;
    void *allocate, *export_owning, *import_owning;
    int (*describe)(void* py_object, Tensor* out);  // may be null; 0, or -1 with a Python exception
    void* current_stream;
};

}  // namespace pliant::exchange
