// The Python module: picks the instruction set, divides the work between threads, walks memory that is not dense.
//
// It needs no torch to be built, so one binary serves every Python from 3.11 and every torch. forward and backward see addresses,
// never tensors; apply and differentiate read where plain dense tensors lie through DLPack's exchange protocol, which saves a
// small tensor the price of asking in Python. pliant/kernels/cpu.py is the only caller, and answers for the addresses.

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "exchange.h"
#include "kernels.h"

namespace {

using pliant::kBlock;

const pliant::Kernels* g_kernels = &pliant::kernels_baseline;

std::vector<const pliant::Kernels*> supported() {
    std::vector<const pliant::Kernels*> all;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        all.push_back(&pliant::kernels_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back(&pliant::kernels_avx2);
#endif
    all.push_back(&pliant::kernels_baseline);
    return all;
}

// Elements below which another thread costs more than it brings; the grain of torch's own elementwise loops.
constexpr size_t kGrain = 32768;
// Below this a kernel is over before another Python thread could use the interpreter.
constexpr size_t kReleaseInterpreter = 16384;

// The thread pool that torch itself uses, if it is one of GNU's: two pools would fight for the same processors.
struct Pool {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread)() = nullptr;
    int (*threads)() = nullptr;
    Pool() {
#if defined(__unix__)
        parallel = reinterpret_cast<decltype(parallel)>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
        thread = reinterpret_cast<decltype(thread)>(dlsym(RTLD_DEFAULT, "omp_get_thread_num"));
        threads = reinterpret_cast<decltype(threads)>(dlsym(RTLD_DEFAULT, "omp_get_num_threads"));
#endif
    }
    bool usable() const { return parallel && thread && threads; }
};

const Pool& pool() {
    static const Pool found;  // on the first large call: torch is loaded by then
    return found;
}

// work(first, last) over [0, n) in at most `threads` parts that begin at multiples of kBlock.
template <class Work> void divide(size_t n, size_t threads, const Work& work) {
    const size_t blocks = (n + kBlock - 1) / kBlock;
    const size_t parts = std::max<size_t>(1, std::min({threads, (n + kGrain - 1) / kGrain, blocks}));
    if (parts == 1) {
        if (n) work(size_t{0}, n);
        return;
    }
    struct Shared {
        const Work& work;
        size_t n, blocks, parts;
        void part(size_t i) const {
            const size_t first = blocks * i / parts * kBlock, last = std::min(n, blocks * (i + 1) / parts * kBlock);
            if (first < last) work(first, last);
        }
    } shared{work, n, blocks, parts};
    if (pool().usable()) {
        // The pool may bring fewer threads than asked for, as inside a region that is parallel already.
        auto region = [](void* data) {
            const Shared& all = *static_cast<Shared*>(data);
            for (size_t i = size_t(pool().thread()); i < all.parts; i += size_t(pool().threads())) all.part(i);
        };
        pool().parallel(region, &shared, unsigned(parts), 0);
        return;
    }
    std::vector<std::thread> others;
    for (size_t i = 1; i < parts; ++i) others.emplace_back([&shared, i] { shared.part(i); });
    shared.part(0);
    for (std::thread& other : others) other.join();
}

// The dimensions of several tensors of one shape, in the order in which the first of them lies in memory, with neighbours
// merged where that is possible for all. Strides are in elements.
struct Layout {
    std::vector<size_t> sizes;                   // outermost first
    std::vector<std::vector<int64_t>> strides;  // [tensor][dimension]
    size_t count = 1;
};

Layout coalesce(const std::vector<size_t>& shape, const std::vector<std::vector<int64_t>>& strides) {
    Layout layout;
    layout.strides.resize(strides.size());
    std::vector<size_t> order;
    for (size_t d = 0; d < shape.size(); ++d) {
        layout.count *= shape[d];
        if (shape[d] != 1) order.push_back(d);
    }
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[0][a] > strides[0][b]; });
    for (size_t d : order) {
        bool merges = !layout.sizes.empty();
        for (size_t t = 0; t < strides.size() && merges; ++t)
            merges = layout.strides[t].back() == strides[t][d] * int64_t(shape[d]);
        if (merges) {
            layout.sizes.back() *= shape[d];
            for (size_t t = 0; t < strides.size(); ++t) layout.strides[t].back() = strides[t][d];
        } else {
            layout.sizes.push_back(shape[d]);
            for (size_t t = 0; t < strides.size(); ++t) layout.strides[t].push_back(strides[t][d]);
        }
    }
    return layout;
}

// Visits elements [first, first + n) of one tensor as runs of the innermost dimension: run(offset in elements, length).
template <class Run>
void walk(const Layout& layout, size_t tensor, size_t first, size_t n, const Run& run) {
    const std::vector<int64_t>& strides = layout.strides[tensor];
    const size_t dims = layout.sizes.size();
    if (dims == 0) return run(int64_t{0}, n);
    std::vector<size_t> index(dims);
    int64_t offset = 0;
    for (size_t d = dims, rest = first; d-- > 0; rest /= layout.sizes[d]) {
        index[d] = rest % layout.sizes[d];
        offset += int64_t(index[d]) * strides[d];
    }
    while (n) {
        const size_t inner = dims - 1, length = std::min(n, layout.sizes[inner] - index[inner]);
        run(offset, length);
        n -= length;
        index[inner] += length;
        offset += int64_t(length) * strides[inner];
        for (size_t d = inner; d > 0 && index[d] == layout.sizes[d]; --d) {
            offset += strides[d - 1] - int64_t(index[d]) * strides[d];
            index[d] = 0;
            ++index[d - 1];
        }
    }
}

template <class E> void gather(const Layout& layout, size_t tensor, const E* from, size_t first, size_t n, E* to) {
    const int64_t stride = layout.sizes.empty() ? 1 : layout.strides[tensor].back();
    walk(layout, tensor, first, n, [&](int64_t offset, size_t length) {
        if (stride == 1) memcpy(to, from + offset, length * sizeof(E));
        else for (size_t i = 0; i < length; ++i) to[i] = from[offset + int64_t(i) * stride];
        to += length;
    });
}

template <class E> void scatter(const Layout& layout, size_t tensor, const E* from, size_t first, size_t n, E* to) {
    const int64_t stride = layout.sizes.empty() ? 1 : layout.strides[tensor].back();
    walk(layout, tensor, first, n, [&](int64_t offset, size_t length) {
        if (stride == 1) memcpy(to + offset, from, length * sizeof(E));
        else for (size_t i = 0; i < length; ++i) to[offset + int64_t(i) * stride] = from[i];
        from += length;
    });
}

// A tensor seen block by block. Where it is dense in the order of the walk, a block is where it lies; otherwise it is
// copied through a buffer that stays in the first-level cache.
template <class E> class Blocks {
  public:
    Blocks(const Layout& layout, size_t tensor, uintptr_t address)
        : layout_(layout), tensor_(tensor), base_(reinterpret_cast<E*>(address)) {
        const std::vector<int64_t>& strides = layout.strides[tensor];
        dense_ = strides.empty() || (strides.size() == 1 && strides[0] == 1);
        constant_ = strides.size() == 1 && strides[0] == 0;
    }
    const E* read(size_t first, size_t n) {
        if (dense_) return base_ + first;
        if (!constant_ || n > filled_) gather(layout_, tensor_, base_, first, n, buffer_);
        filled_ = n;
        return buffer_;
    }
    E* write_to(size_t first) { return dense_ ? base_ + first : buffer_; }
    void written(size_t first, size_t n) {
        if (!dense_) scatter(layout_, tensor_, buffer_, first, n, base_);
    }

  private:
    const Layout& layout_;
    size_t tensor_;
    E* base_;
    bool dense_, constant_;
    size_t filled_ = 0;
    alignas(64) E buffer_[kBlock];
};

template <class Work> void by_item_size(int dtype, const Work& work) {
    switch (pliant::kItemSize[dtype]) {
        case 2: return work(uint16_t{});
        case 4: return work(uint32_t{});
        default: return work(uint64_t{});
    }
}

struct Call {
    int function, dtype;
    size_t threads;
    double coefficients[pliant::kMaxCoefficients];
};

// Fresh memory comes from the system page by page, with a trap for each page that is first written. Asking for a stretch of it
// just before it is written takes one call for many pages. In memory that is mapped already this does next to nothing.
constexpr size_t kStretch = size_t(1) << 19, kWorthAsking = size_t(4) << 20;

void map_ahead(uintptr_t address, size_t bytes) {
#if defined(__linux__) && defined(MADV_POPULATE_WRITE)
    constexpr uintptr_t kPage = 4096;
    const uintptr_t first = (address + kPage - 1) / kPage * kPage, last = (address + bytes) / kPage * kPage;
    // A refusal, as from an old kernel, changes nothing but the time.
    if (first < last) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_POPULATE_WRITE);
#else
    (void)address, (void)bytes;
#endif
}

void forward_dense(const Call& call, uintptr_t out, uintptr_t x, size_t n) {
    const auto kernel = g_kernels->forward[call.function][call.dtype];
    const size_t size = pliant::kItemSize[call.dtype];
    const bool fresh = out != x && n * size >= kWorthAsking;
    divide(n, call.threads, [&](size_t first, size_t last) {
        const size_t step = fresh ? kStretch / size : last - first;
        for (size_t part; first < last; first += part) {
            part = std::min(step, last - first);
            if (fresh) map_ahead(out + first * size, part * size);
            kernel(reinterpret_cast<const void*>(x + first * size), reinterpret_cast<void*>(out + first * size), part,
                   call.coefficients);
        }
    });
}

void forward_strided(const Call& call, uintptr_t out, uintptr_t x, const Layout& layout) {
    const auto kernel = g_kernels->forward[call.function][call.dtype];
    by_item_size(call.dtype, [&](auto zero) {
        using E = decltype(zero);
        divide(layout.count, call.threads, [&](size_t first, size_t last) {
            Blocks<E> outs(layout, 0, out), xs(layout, 1, x);
            for (size_t n; first < last; first += n) {
                n = std::min(kBlock, last - first);
                kernel(xs.read(first, n), outs.write_to(first), n, call.coefficients);
                outs.written(first, n);
            }
        });
    });
}

// Adds the sums of the blocks in their order, so the result is the same for any number of threads.
void finish(const Call& call, const std::vector<double>& sums, uintptr_t out) {
    const int count = pliant::kCoefficients[call.function];
    double totals[pliant::kMaxCoefficients] = {};
    for (size_t i = 0; i < sums.size(); ++i) totals[i % size_t(count)] += sums[i];
    for (int k = 0; k < count; ++k) {
        if (call.dtype == pliant::kFloat64) reinterpret_cast<double*>(out)[k] = totals[k];
        else reinterpret_cast<float*>(out)[k] = float(totals[k]);
    }
}

template <class E>
void backward_blocks(const Call& call, uintptr_t grad_x, uintptr_t sums_out, uintptr_t grad, uintptr_t x,
                     const Layout* layout, size_t n) {
    const auto kernel = g_kernels->backward[call.function][call.dtype];
    const size_t count = size_t(pliant::kCoefficients[call.function]);
    std::vector<double> sums(sums_out ? (n + kBlock - 1) / kBlock * count : 0);
    const bool fresh = !layout && grad_x && n * sizeof(E) >= kWorthAsking;
    divide(n, call.threads, [&](size_t first, size_t last) {
        if (!layout) {
            alignas(64) E unwanted[kBlock];
            for (size_t m; first < last; first += m) {
                // A stretch holds whole blocks, and every part begins at one.
                if (fresh && first * sizeof(E) % kStretch == 0)
                    map_ahead(grad_x + first * sizeof(E), std::min(kStretch, (last - first) * sizeof(E)));
                m = std::min(grad_x && !sums_out ? (fresh ? kStretch / sizeof(E) : last - first) : kBlock, last - first);
                if (fresh) m = std::min(m, (kStretch - first * sizeof(E) % kStretch) / sizeof(E));
                kernel(reinterpret_cast<const E*>(grad) + first, reinterpret_cast<const E*>(x) + first,
                       grad_x ? reinterpret_cast<E*>(grad_x) + first : unwanted, m, call.coefficients,
                       sums_out ? &sums[first / kBlock * count] : nullptr);
            }
            return;
        }
        Blocks<E> grad_xs(*layout, 0, grad_x), grads(*layout, 1, grad), xs(*layout, 2, x);
        alignas(64) E unwanted[kBlock];
        for (size_t m; first < last; first += m) {
            m = std::min(kBlock, last - first);
            kernel(grads.read(first, m), xs.read(first, m), grad_x ? grad_xs.write_to(first) : unwanted, m, call.coefficients,
                   sums_out ? &sums[first / kBlock * count] : nullptr);
            if (grad_x) grad_xs.written(first, m);
        }
    });
    if (sums_out) finish(call, sums, sums_out);
}

// Reading the arguments.

// A coefficient: a number, or a tensor of one element.
double read_number(PyObject* given) {
    if (PyFloat_Check(given) || PyLong_Check(given)) return PyFloat_AsDouble(given);
    PyObject* number = PyObject_CallMethod(given, "item", nullptr);
    if (!number) return -1;
    const double value = PyFloat_AsDouble(number);
    Py_DECREF(number);
    return value;
}

bool read_call(PyObject* const* args, Call& call) {
    const long function = PyLong_AsLong(args[0]), dtype = PyLong_AsLong(args[1]), threads = PyLong_AsLong(args[2]);
    if (PyErr_Occurred()) return false;
    if (function < 0 || function >= pliant::kFunctions || dtype < 0 || dtype >= pliant::kDtypes || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "no such function or dtype, or fewer than one thread");
        return false;
    }
    call.function = int(function);
    call.dtype = int(dtype);
    call.threads = size_t(threads);
    const Py_ssize_t count = PyTuple_Size(args[3]);
    if (count != pliant::kCoefficients[function]) {
        if (count >= 0) PyErr_Format(PyExc_ValueError, "%d coefficients expected, %zd given", pliant::kCoefficients[function], count);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; ++i) {
        call.coefficients[i] = read_number(PyTuple_GetItem(args[3], i));
        if (PyErr_Occurred()) return false;
    }
    return true;
}

bool read_integers(PyObject* tuple, std::vector<int64_t>& integers) {
    const Py_ssize_t count = PyTuple_Size(tuple);
    for (Py_ssize_t i = 0; i < count; ++i) integers.push_back(PyLong_AsLongLong(PyTuple_GetItem(tuple, i)));
    return !PyErr_Occurred();
}

// (shape, strides of the first tensor, strides of the second, ...)
bool read_layout(PyObject* tuple, size_t tensors, Layout& layout) {
    std::vector<std::vector<int64_t>> parts(tensors + 1);
    if (PyTuple_Size(tuple) != Py_ssize_t(tensors + 1)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a layout is a shape and the strides of every tensor");
        return false;
    }
    for (size_t t = 0; t <= tensors; ++t)
        if (!read_integers(PyTuple_GetItem(tuple, Py_ssize_t(t)), parts[t])) return false;
    for (const auto& part : parts)
        if (part.size() != parts[0].size()) {
            PyErr_SetString(PyExc_ValueError, "shape and strides differ in length");
            return false;
        }
    const std::vector<size_t> shape(parts[0].begin(), parts[0].end());
    layout = coalesce(shape, {parts.begin() + 1, parts.end()});
    return true;
}

// Runs without the interpreter lock if that is worth it. Memory for sums and threads can run out.
template <class Work> PyObject* run(size_t n, const Work& work) {
    bool failed = false;
    auto guarded = [&] {
        try {
            work();
        } catch (...) {
            failed = true;
        }
    };
    if (n < kReleaseInterpreter) {
        guarded();
    } else {
        Py_BEGIN_ALLOW_THREADS
        guarded();
        Py_END_ALLOW_THREADS
    }
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject* forward(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Call call;
    if (count != 7) return PyErr_Format(PyExc_TypeError, "forward takes 7 arguments, %zd given", count);
    if (!read_call(args, call)) return nullptr;
    if (!g_kernels->forward[call.function][call.dtype]) {
        PyErr_SetString(PyExc_ValueError, "this function has a backward pass only");
        return nullptr;
    }
    const uintptr_t out = PyLong_AsSize_t(args[4]), x = PyLong_AsSize_t(args[5]);
    if (PyTuple_Check(args[6])) {
        Layout layout;
        if (PyErr_Occurred() || !read_layout(args[6], 2, layout)) return nullptr;
        return run(layout.count, [&] { forward_strided(call, out, x, layout); });
    }
    const size_t n = PyLong_AsSize_t(args[6]);
    if (PyErr_Occurred()) return nullptr;
    return run(n, [&] { forward_dense(call, out, x, n); });
}

PyObject* backward(PyObject*, PyObject* const* args, Py_ssize_t count) {
    Call call;
    if (count != 9) return PyErr_Format(PyExc_TypeError, "backward takes 9 arguments, %zd given", count);
    if (!read_call(args, call)) return nullptr;
    uintptr_t addresses[4];
    for (int i = 0; i < 4; ++i) addresses[i] = PyLong_AsSize_t(args[4 + i]);
    if (PyErr_Occurred()) return nullptr;
    Layout layout;
    const bool strided = PyTuple_Check(args[8]);
    if (strided && !read_layout(args[8], 3, layout)) return nullptr;
    const size_t n = strided ? layout.count : PyLong_AsSize_t(args[8]);
    if (PyErr_Occurred()) return nullptr;
    return run(n, [&] {
        by_item_size(call.dtype, [&](auto zero) {
            backward_blocks<decltype(zero)>(
                call, addresses[0], addresses[1], addresses[2], addresses[3], strided ? &layout : nullptr, n);
        });
    });
}

// The usual call, on tensors as they come: on the CPU, dense, plain. Whatever is not usual is left to the caller, who can
// also say why.

struct Torch {
    const pliant::exchange::Api* api = nullptr;
    PyObject *tensor = nullptr, *parameter = nullptr, *empty_like = nullptr, *is_neg = nullptr;
} g_torch;

struct View {
    uintptr_t address;
    int dtype;
    size_t elements;
    bool dense;
};

bool is_plain(PyObject* given) {
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(given));
    return type == g_torch.tensor || type == g_torch.parameter;
}

// The protocol does not say that a tensor stands for its negative.
bool is_turned(PyObject* tensor) {
    PyObject* answer = PyObject_CallFunctionObjArgs(g_torch.is_neg, tensor, nullptr);
    const bool turned = answer != Py_False;
    if (!answer) PyErr_Clear();
    Py_XDECREF(answer);
    return turned;
}

// Whether `given` is a tensor on the CPU of a known dtype; where it lies.
bool look(PyObject* given, View& view, bool fresh = false) {
    using namespace pliant::exchange;
    if (!g_torch.api || !is_plain(given)) return false;
    Tensor t;
    if (g_torch.api->describe(given, &t) != 0) {
        PyErr_Clear();
        return false;
    }
    if (!fresh && is_turned(given)) return false;
    if (t.device.type != kCpu || t.dtype.lanes != 1) return false;
    if (t.dtype.code == kFloat && t.dtype.bits == 32) view.dtype = pliant::kFloat32;
    else if (t.dtype.code == kFloat && t.dtype.bits == 64) view.dtype = pliant::kFloat64;
    else if (t.dtype.code == kFloat && t.dtype.bits == 16) view.dtype = pliant::kFloat16;
    else if (t.dtype.code == kBFloat && t.dtype.bits == 16) view.dtype = pliant::kBFloat16;
    else return false;
    view.address = reinterpret_cast<uintptr_t>(t.data) + t.byte_offset;
    view.elements = 1;
    view.dense = true;
    for (int32_t d = t.dimensions; d-- > 0;) {
        if (t.shape[d] != 1) view.dense = view.dense && t.strides[d] == int64_t(view.elements);
        view.elements *= size_t(t.shape[d]);
    }
    view.dense = view.dense || view.elements == 0;
    // Some tensors stand for numbers that lie nowhere.
    return t.data || view.elements == 0;
}

bool is_number(PyObject* given) { return PyFloat_CheckExact(given) || PyLong_CheckExact(given); }

PyObject* fits(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 3) return PyErr_Format(PyExc_TypeError, "fits takes 3 arguments, %zd given", count);
    const long function = PyLong_AsLong(args[0]);
    const Py_ssize_t values = PyTuple_Size(args[2]);
    if (PyErr_Occurred()) return nullptr;
    View view;
    if (function < 0 || function >= pliant::kFunctions || values != pliant::kCoefficients[function] || !look(args[1], view))
        Py_RETURN_FALSE;
    for (Py_ssize_t i = 0; i < values; ++i) {
        PyObject* value = PyTuple_GetItem(args[2], i);
        if (!is_number(value) && (!look(value, view) || view.elements != 1)) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

// Function, threads and coefficients of a usual call; false, without an exception, if it is not one.
bool read_usual(PyObject* function, PyObject* threads, PyObject* values, const View& x, Call& call) {
    const long number = PyLong_AsLong(function), wanted = PyLong_AsLong(threads);
    if (PyErr_Occurred() || number < 0 || number >= pliant::kFunctions || wanted < 1) return false;
    call.function = int(number);
    call.dtype = x.dtype;
    call.threads = size_t(wanted);
    if (PyTuple_Size(values) != pliant::kCoefficients[number]) return false;
    for (int i = 0; i < pliant::kCoefficients[number]; ++i) {
        PyObject* value = PyTuple_GetItem(values, i);
        View view;
        if (is_number(value)) call.coefficients[i] = PyFloat_AsDouble(value);
        else if (!look(value, view) || view.elements != 1) return false;
        else if (view.dtype == pliant::kFloat32) call.coefficients[i] = *reinterpret_cast<const float*>(view.address);
        else if (view.dtype == pliant::kFloat64) call.coefficients[i] = *reinterpret_cast<const double*>(view.address);
        else return false;
    }
    return !PyErr_Occurred();
}

// A tensor like `model`, whose kind is known; null with an exception, or if it lies otherwise than expected.
PyObject* like(PyObject* model, const View& expected, View& view) {
    PyObject* made = PyObject_CallFunctionObjArgs(g_torch.empty_like, model, nullptr);
    if (made && !(look(made, view, true) && view.dense && view.dtype == expected.dtype && view.elements == expected.elements)) {
        Py_DECREF(made);
        return nullptr;
    }
    return made;
}

PyObject* nothing_or_error() {
    if (PyErr_Occurred()) return nullptr;
    Py_RETURN_NONE;
}

PyObject* apply(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 5) return PyErr_Format(PyExc_TypeError, "apply takes 5 arguments, %zd given", count);
    Call call;
    View x, out;
    PyObject* const given = args[2];
    if (!look(given, x) || !x.dense || !read_usual(args[0], args[1], args[3], x, call) ||
        !g_kernels->forward[call.function][call.dtype])
        return nothing_or_error();
    const bool in_place = args[4] == Py_True;
    PyObject* result = in_place ? Py_NewRef(given) : like(given, x, out);
    if (!result) return nothing_or_error();
    PyObject* done = run(x.elements, [&] { forward_dense(call, in_place ? x.address : out.address, x.address, x.elements); });
    if (!done) {
        Py_DECREF(result);
        return nullptr;
    }
    Py_DECREF(done);
    return result;
}

PyObject* differentiate(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 6) return PyErr_Format(PyExc_TypeError, "differentiate takes 6 arguments, %zd given", count);
    Call call;
    View grad, x, grad_x{}, value, part;
    if (!look(args[3], x) || !x.dense || !look(args[2], grad) || !grad.dense || grad.dtype != x.dtype ||
        grad.elements != x.elements || !read_usual(args[0], args[1], args[4], x, call))
        return nothing_or_error();
    const Py_ssize_t coefficients = pliant::kCoefficients[call.function];
    if (PyTuple_Size(args[5]) != coefficients + 2) return nothing_or_error();

    // What autograd is given for each input of the call: nothing, or a tensor.
    PyObject* dealt = PyTuple_New(coefficients + 2);
    if (!dealt) return nullptr;
    struct Sum {
        View place;
        bool wanted;
    } sums[pliant::kMaxCoefficients] = {};
    bool sum = false, usual = true;
    for (Py_ssize_t i = 0; i < coefficients + 2; ++i) {
        PyObject* made = nullptr;
        if (usual && i > 0 && PyTuple_GetItem(args[5], i) == Py_True) {
            if (i == 1) {
                made = like(args[3], x, grad_x);
                usual = usual && made;
            } else if (PyObject* given = PyTuple_GetItem(args[4], i - 2); !is_number(given)) {
                made = look(given, value) ? like(given, value, part) : nullptr;
                usual = usual && made;
                sums[i - 2] = {part, made != nullptr};
                sum = true;
            }
        }
        PyTuple_SetItem(dealt, i, made ? made : Py_NewRef(Py_None));
    }
    if (!usual) {
        Py_DECREF(dealt);
        return nothing_or_error();
    }
    float singles[pliant::kMaxCoefficients] = {};
    double doubles[pliant::kMaxCoefficients] = {};
    const bool twice = call.dtype == pliant::kFloat64;
    const uintptr_t totals = twice ? reinterpret_cast<uintptr_t>(doubles) : reinterpret_cast<uintptr_t>(singles);
    PyObject* done = run(x.elements, [&] {
        by_item_size(call.dtype, [&](auto zero) {
            backward_blocks<decltype(zero)>(
                call, grad_x.address, sum ? totals : 0, grad.address, x.address, nullptr, x.elements);
        });
    });
    if (!done) {
        Py_DECREF(dealt);
        return nullptr;
    }
    Py_DECREF(done);
    for (Py_ssize_t i = 0; i < coefficients; ++i) {
        if (!sums[i].wanted) continue;
        const double total = twice ? doubles[i] : double(singles[i]);
        if (sums[i].place.dtype == pliant::kFloat64) *reinterpret_cast<double*>(sums[i].place.address) = total;
        else *reinterpret_cast<float*>(sums[i].place.address) = float(total);
    }
    return dealt;
}

PyObject* connect(PyObject*, PyObject* const* args, Py_ssize_t count) {
    if (count != 5) return PyErr_Format(PyExc_TypeError, "connect takes 5 arguments, %zd given", count);
    const auto* api = static_cast<const pliant::exchange::Api*>(PyCapsule_GetPointer(args[0], "dlpack_exchange_api"));
    if (!api) return nullptr;
    if (api->major != pliant::exchange::kMajor || !api->describe) Py_RETURN_FALSE;
    g_torch = {api, Py_NewRef(args[1]), Py_NewRef(args[2]), Py_NewRef(args[3]), Py_NewRef(args[4])};
    Py_RETURN_TRUE;
}

PyObject* functions(PyObject*, PyObject*) {
    PyObject* all = PyTuple_New(pliant::kFunctions);
    for (Py_ssize_t i = 0; all && i < pliant::kFunctions; ++i)
        PyTuple_SetItem(all, i, Py_BuildValue("(si)", pliant::kNames[i], pliant::kCoefficients[i]));
    return all;
}

PyObject* isa(PyObject*, PyObject*) { return PyUnicode_FromString(g_kernels->isa); }

PyObject* instruction_sets(PyObject*, PyObject*) {
    const auto all = supported();
    PyObject* names = PyTuple_New(Py_ssize_t(all.size()));
    for (size_t i = 0; names && i < all.size(); ++i)
        PyTuple_SetItem(names, Py_ssize_t(i), PyUnicode_FromString(all[i]->isa));
    return names;
}

PyObject* select(PyObject*, PyObject* name) {
    for (const pliant::Kernels* kernels : supported())
        if (PyUnicode_CompareWithASCIIString(name, kernels->isa) == 0) {
            g_kernels = kernels;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this processor does not run %R", name);
}

PyObject* shares_pool(PyObject*, PyObject*) { return PyBool_FromLong(pool().usable()); }

template <class F> PyCFunction method(F* function) { return reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)); }

PyMethodDef methods[] = {
    {"forward", method(forward), METH_FASTCALL,
     "forward(function, dtype, threads, coefficients, out, x, elements or (shape, out strides, x strides))"},
    {"backward", method(backward), METH_FASTCALL,
     "backward(function, dtype, threads, coefficients, grad_x or 0, sums or 0, grad, x,\n"
     "         elements or (shape, grad_x strides, grad strides, x strides))"},
    {"connect", method(connect), METH_FASTCALL,
     "connect(exchange capsule, Tensor, Parameter, empty_like, is_neg): whether the three below can serve with this torch."},
    {"fits", method(fits), METH_FASTCALL,
     "fits(function, x, coefficients): whether all are numbers or plain tensors on the CPU, one element a coefficient."},
    {"apply", method(apply), METH_FASTCALL,
     "apply(function, threads, x, coefficients, in place): the result, or None if the call is not a usual one."},
    {"differentiate", method(differentiate), METH_FASTCALL,
     "differentiate(function, threads, grad, x, coefficients, needs): None, the gradient of x and those of the coefficients,\n"
     "or None if the call is not a usual one. needs has a place for each of them."},
    {"functions", functions, METH_NOARGS, "(name, number of coefficients) in the order of the numbers that name them."},
    {"isa", isa, METH_NOARGS, "The instruction set in use."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "Those this processor can run, best first."},
    {"select", select, METH_O, "Use one of instruction_sets() from now on. For tests and benchmarks."},
    {"shares_pool", shares_pool, METH_NOARGS, "Whether large calls run on the OpenMP threads that torch uses."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_cpu", "Fused elementwise functions on raw memory.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cpu() {
    g_kernels = supported().front();
    return PyModule_Create(&definition);
}
