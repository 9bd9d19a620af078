// A CUDA driver without a GPU, for tests of code that calls the real CUDA packages of Python.
//
// Memory is the host's, and kernels are their builds for the CPU. Work is not done when it is enqueued but when
// somebody waits for it, so that a missing wait shows. What a real driver refuses is refused with the same code: calls
// without a context, handles of another type or already destroyed, memory outside an allocation, and what a capture
// prohibits. Each refusal is written down, too: `strict_misuses` returns them, and a test that expects none asserts so.
//
// Built as libcuda.so.1. Without strict_open() it has no GPU.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

using Address = unsigned long long;
using Result = int;
enum : Result {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNoDevice = 100,
    kInvalidDevice = 101,
    kInvalidImage = 200,
    kInvalidContext = 201,
    kInvalidHandle = 400,
    kIllegalState = 401,
    kNotFound = 500,
    kNotReady = 600,
    kIllegalAddress = 700,
    kCaptureUnsupported = 900,
    kCaptureInvalidated = 901,
    kCaptureWrongThread = 908,
};

namespace {

enum class Kind { kContext, kStream, kEvent, kGraph, kExecutable, kLibrary, kKernel, kPool, kUserObject };
const char* const kNames[] = {"context", "stream", "event", "graph",      "executable",
                              "library", "kernel", "pool",  "user object"};

struct Object {
    explicit Object(Kind what) : kind(what) {}
    virtual ~Object() = default;
    Kind kind;
    bool alive = true;
    int session = 0;
};

using Work = std::function<void()>;

struct Context : Object {
    Context() : Object(Kind::kContext) {}
    int retained = 0;
};

struct Stream : Object {
    explicit Stream(Context* owner) : Object(Kind::kStream), context(owner) {}
    Context* context;
    std::deque<Work> queue;
    unsigned long long enqueued = 0, done = 0;
    bool capturing = false, invalidated = false;
    int mode = 0;
    unsigned long long captureId = 0;
    struct Graph* captured = nullptr;
};

struct Event : Object {
    explicit Event(unsigned options) : Object(Kind::kEvent), flags(options) {}
    unsigned flags;
    Stream* stream = nullptr;      // of the last record
    unsigned long long after = 0;  // how much of its work comes before
    double time_ms = 0;
    bool inCapture = false;
};

// Something of the host's that lives as long as the graphs that hold it.
struct UserObject : Object {
    UserObject() : Object(Kind::kUserObject) {}
    void* value = nullptr;
    void (*destroy)(void*) = nullptr;
    unsigned references = 0;
    void drop() {
        if (--references == 0) alive = false, destroy(value);
    }
};

struct Graph : Object {
    explicit Graph(Kind what) : Object(what) {}
    std::vector<Work> work;
    std::vector<UserObject*> held;
    void end() {
        alive = false;
        for (auto* object : held) object->drop();
    }
};

struct Library : Object {
    Library() : Object(Kind::kLibrary) {}
};

using KernelOnCpu = int (*)(const void* params, unsigned gridX, unsigned gridY, unsigned threads);

struct Kernel : Object {
    Kernel() : Object(Kind::kKernel) {}
    std::string name;
    KernelOnCpu run = nullptr;
    std::size_t bytes = 0;  // of its one parameter
};

struct Block {
    std::size_t size;
    bool pinned;
    Context* context;
    int session;
};

std::recursive_mutex lock;       // of everything below
std::recursive_mutex execution;  // one piece of work at a time
bool opened = false;
int session = 0;  // of strict_open(); what an earlier one left behind is not counted
constexpr int kVersion = 13000;
int driverVersion = kVersion, capabilityMajor = 9, capabilityMinor = 0;
std::size_t memoryLeft = SIZE_MAX;
std::unordered_map<void*, std::unique_ptr<Object>> objects;  // also the destroyed ones: their handles stay known
std::map<Address, Block> blocks;
std::map<Address, std::size_t> freed;  // poisoned, given back by strict_close
std::vector<std::string> misuses, kernelLibraries, missing, calls;
Context* primary = nullptr;
unsigned long long captures = 0;
bool refusesCapture = false, waitsFail = false;
std::map<Address, Stream*> defaultStreams;  // of the null, legacy and per-thread handle
std::string text;

thread_local std::vector<Context*> contexts;
thread_local std::vector<Stream*> prohibiting;  // captures of this thread that forbid unsafe calls

using Guard = std::lock_guard<std::recursive_mutex>;

Result refuse(Result code, const std::string& what) {
    misuses.push_back(what);
    return code;
}

template <class T, class... A>
T* make(A... arguments) {
    auto made = std::make_unique<T>(arguments...);
    auto* object = made.get();
    object->session = session;
    objects[object] = std::move(made);
    return object;
}

template <class T>
T* find(void* handle, Kind kind, const char* caller) {
    const auto found = objects.find(handle);
    const auto* object = found == objects.end() ? nullptr : found->second.get();
    if (object && object->alive && object->kind == kind) return static_cast<T*>(found->second.get());
    const std::string got = !object ? "an unknown handle" : object->alive ? "a " : "a destroyed ";
    misuses.push_back(std::string(caller) + ": got " + got + (object ? kNames[static_cast<int>(object->kind)] : "") +
                      ", expected a " + kNames[static_cast<int>(kind)]);
    return nullptr;
}

double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs the work of a stream up to a number. The lock is free while a piece of work runs.
void drain(Stream* stream, unsigned long long upTo) {
    const Guard one(execution);
    while (true) {
        Work work;
        {
            const Guard guard(lock);
            if (stream->done >= upTo || stream->queue.empty()) return;
            work = std::move(stream->queue.front());
            stream->queue.pop_front();
        }
        work();
        const Guard guard(lock);
        ++stream->done;
    }
}

void drainAll() {
    std::vector<Stream*> streams;
    {
        const Guard guard(lock);
        for (const auto& [handle, object] : objects)
            if (object->kind == Kind::kStream) streams.push_back(static_cast<Stream*>(object.get()));
    }
    for (auto* stream : streams) drain(stream, UINT64_MAX);
}

Result enqueue(Stream* stream, Work work) {
    if (stream->capturing) {
        stream->captured->work.push_back(std::move(work));
        return kSuccess;
    }
    stream->queue.push_back(std::move(work));
    ++stream->enqueued;
    return kSuccess;
}

Result invalidate(Stream* stream, const char* caller) {
    stream->invalidated = true;
    return refuse(kCaptureUnsupported, std::string(caller) + ": prohibited while capturing");
}

// The stream of a handle; default streams exist per context and are made at first use.
Stream* streamOf(void* handle, const char* caller) {
    const auto number = reinterpret_cast<Address>(handle);
    if (number <= 2) {
        auto*& stream = defaultStreams[number];
        if (!stream) stream = make<Stream>(primary);
        return stream;
    }
    return find<Stream>(handle, Kind::kStream, caller);
}

// The live allocation that holds `size` bytes from an address; null for pageable memory of the host.
const Block* blockOf(Address address, std::size_t size, const char* caller, bool* broken) {
    auto next = blocks.upper_bound(address);
    if (next != blocks.begin()) {
        const auto& [start, block] = *std::prev(next);
        if (address < start + block.size) {
            if (address + size <= start + block.size) return &block;
            misuses.push_back(std::string(caller) + ": " + std::to_string(size) + " bytes reach past an allocation");
            *broken = true;
            return nullptr;
        }
    }
    auto dead = freed.upper_bound(address);
    if (dead != freed.begin() && address < std::prev(dead)->first + std::prev(dead)->second) {
        misuses.push_back(std::string(caller) + ": memory that was freed");
        *broken = true;
    }
    return nullptr;
}

Result copy(Address to, Address from, std::size_t size, void* handle, bool fromHost, bool toHost, const char* caller) {
    auto* stream = streamOf(handle, caller);
    if (!stream) return kInvalidHandle;
    if (size == 0) return kSuccess;
    bool broken = false;
    const auto* source = blockOf(from, size, caller, &broken);
    const auto* target = blockOf(to, size, caller, &broken);
    if (broken) return kInvalidValue;
    if ((fromHost && source && !source->pinned) || (toHost && target && !target->pinned))
        return refuse(kInvalidValue, std::string(caller) + ": memory of the GPU, expected the host's");
    if ((!fromHost && !source) || (!toHost && !target))
        return refuse(kInvalidValue, std::string(caller) + ": pageable memory, expected the GPU's");
    const auto kind = fromHost || (source && source->pinned)   ? "h2d"
                      : (toHost || (target && target->pinned)) ? "d2h"
                                                               : "d2d";
    const auto note = std::string(kind) + " " + std::to_string(size);
    auto* destination = reinterpret_cast<void*>(to);
    if (!source) {  // pageable: the driver has read it when the call returns
        if (stream->capturing) return invalidate(stream, caller);
        std::vector<char> staged(reinterpret_cast<char*>(from), reinterpret_cast<char*>(from) + size);
        return enqueue(stream, [=] {
            std::memcpy(destination, staged.data(), size);
            calls.push_back(note);
        });
    }
    if (!target && stream->capturing) return invalidate(stream, caller);
    enqueue(stream, [=] {
        std::memcpy(destination, reinterpret_cast<void*>(from), size);
        calls.push_back(note);
    });
    if (!target) drain(stream, stream->enqueued);  // a copy to pageable memory ends with the call
    return kSuccess;
}

Result allocate(Address* address, std::size_t size, bool pinned, Context* context) {
    if (size == 0) return refuse(kInvalidValue, "allocating no bytes");
    if (size > memoryLeft) return kOutOfMemory;
    constexpr std::size_t kAlignment = 512;
    auto* memory = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
    std::memset(memory, 0xA5, size);  // what nobody wrote must not look like anything
    *address = reinterpret_cast<Address>(memory);
    blocks[*address] = {size, pinned, context, session};
    return kSuccess;
}

Result release(Address address, bool pinned, const char* caller) {
    const auto found = blocks.find(address);
    if (found == blocks.end() || found->second.pinned != pinned)
        return refuse(kInvalidValue, std::string(caller) + ": no such allocation, or freed already");
    std::memset(reinterpret_cast<void*>(address), 0xDD, found->second.size);
    freed[address] = found->second.size;
    blocks.erase(found);
    return kSuccess;
}

}  // namespace

#define GUARD const Guard guard(lock)
#define NEEDS_CONTEXT \
    GUARD;            \
    if (contexts.empty()) return refuse(kInvalidContext, std::string(__func__) + ": no context is current")
#define NOT_WHILE_CAPTURING                                                                         \
    if (!prohibiting.empty()) {                                                                     \
        for (auto* capturing : prohibiting) capturing->invalidated = true;                          \
        return refuse(kCaptureUnsupported, std::string(__func__) + ": prohibited while capturing"); \
    }
#define FIND(type, variable, handle)                              \
    auto* variable = find<type>(handle, Kind::k##type, __func__); \
    if (!variable) return kInvalidHandle
// What a wait is for; the lock must be given back before the wait itself.
#define FIND_STREAM_TO_WAIT_FOR(variable, handle)                   \
    NEEDS_CONTEXT;                                                  \
    variable = streamOf(handle, __func__);                          \
    if (!variable) return kInvalidHandle;                           \
    if (variable->capturing) return invalidate(variable, __func__); \
    NOT_WHILE_CAPTURING
#define FIND_EVENT_TO_WAIT_FOR(variable, handle)                       \
    GUARD;                                                             \
    variable = find<Event>(handle, Kind::kEvent, __func__);            \
    if (!variable) return kInvalidHandle;                              \
    if (const auto code = checkEvent(variable, __func__)) return code; \
    NOT_WHILE_CAPTURING
#define FIND_STREAM(variable, handle)            \
    auto* variable = streamOf(handle, __func__); \
    if (!variable) return kInvalidHandle

// For the tests.
API void strict_open(int major, int minor, int version) {
    GUARD;
    opened = true, capabilityMajor = major, capabilityMinor = minor, driverVersion = version;
    memoryLeft = SIZE_MAX, refusesCapture = waitsFail = false;
}
API void strict_drain() { drainAll(); }
// Forgets what lived, and how it was misused; the GPU is gone.
API void strict_close() {
    drainAll();
    GUARD;
    opened = false, driverVersion = kVersion;
    misuses.clear(), calls.clear();
    ++session;
}
API int strict_live(const char* kind) {
    GUARD;
    int count = 0;
    if (!std::strcmp(kind, "memory") || !std::strcmp(kind, "pinned")) {
        for (const auto& [address, block] : blocks)
            count += block.session == session && block.pinned == !std::strcmp(kind, "pinned");
        return count;
    }
    for (const auto& [handle, object] : objects) {
        const bool byDefault = std::any_of(defaultStreams.begin(), defaultStreams.end(),
                                           [&](auto& one) { return one.second == object.get(); });
        count += object->alive && object->session == session && !byDefault &&
                 !std::strcmp(kNames[static_cast<int>(object->kind)], kind);
    }
    return count;
}
static const char* joined(const std::vector<std::string>& lines) {
    text.clear();
    for (const auto& line : lines) text += line + "\n";
    return text.c_str();
}
API const char* strict_misuses() {
    GUARD;
    return joined(misuses);
}
API void strict_forgive() {
    GUARD;
    misuses.clear();
}
// What ran, in order: "h2d 64", "kernel letterbox", "graph".
API const char* strict_calls() {
    GUARD;
    return joined(calls);
}
API void strict_forget_calls() {
    GUARD;
    calls.clear();
}
API void strict_kernels(const char* library) {
    GUARD;
    kernelLibraries.push_back(library);
}
API void strict_memory_left(std::size_t bytes) { memoryLeft = bytes; }
API void strict_fail_waits(int fails) { waitsFail = fails; }
API void strict_refuse_capture(int refuses) { refusesCapture = refuses; }
// Another context of the GPU, as pycuda.autoinit makes one; current on this thread.
API void* strict_new_context() {
    GUARD;
    contexts.push_back(make<Context>());
    return contexts.back();
}
API int strict_contexts() { return static_cast<int>(contexts.size()); }
// Enqueues a call of the host's, as TensorRT enqueues its kernels; captured like them.
API Result strict_enqueue(void* handle, void (*function)(long long), long long argument) {
    NEEDS_CONTEXT;
    FIND_STREAM(stream, handle);
    return enqueue(stream, [=] { function(argument); });
}
API int strict_is_capturing(void* handle) {
    GUARD;
    auto* stream = streamOf(handle, __func__);
    return stream && stream->capturing;
}
// Whether an address is memory of the GPU with room for so many bytes.
API int strict_holds(Address address, std::size_t size) {
    GUARD;
    bool broken = false;
    const auto* block = blockOf(address, size, __func__, &broken);
    return block && !block->pinned;
}

// Devices and contexts.
API Result cuInit(unsigned) { return opened ? kSuccess : kNoDevice; }
API Result cuDriverGetVersion(int* version) {
    *version = driverVersion;
    return kSuccess;
}
API Result cuDeviceGetCount(int* count) {
    *count = opened;
    return opened ? kSuccess : kNoDevice;
}
API Result cuDeviceGet(int* device, int index) {
    *device = index;
    return index == 0 && opened ? kSuccess : kInvalidDevice;
}
API Result cuDeviceGetName(char* name, int size, int) {
    std::snprintf(name, static_cast<std::size_t>(size), "Strict GPU");
    return kSuccess;
}
API Result cuDeviceGetUuid(void* uuid, int) {
    std::memset(uuid, 1, 16);
    return kSuccess;
}
API Result cuDeviceGetUuid_v2(void* uuid, int device) { return cuDeviceGetUuid(uuid, device); }
API Result cuDeviceGetAttribute(int* value, int attribute, int) {
    constexpr int kMajor = 75, kMinor = 76, kPools = 115, kUnifiedAddressing = 41;
    *value = attribute == kMajor   ? capabilityMajor
             : attribute == kMinor ? capabilityMinor
                                   : attribute == kPools || attribute == kUnifiedAddressing;
    return kSuccess;
}
API Result cuDevicePrimaryCtxRetain(void** context, int) {
    GUARD;
    NOT_WHILE_CAPTURING;
    if (!primary) primary = make<Context>();
    primary->alive = true;
    ++primary->retained;
    *context = primary;
    return kSuccess;
}
API Result cuDevicePrimaryCtxRelease(int) {
    GUARD;
    if (!primary || primary->retained <= 0) return refuse(kInvalidContext, "cuDevicePrimaryCtxRelease: once too often");
    primary->alive = --primary->retained > 0;
    return kSuccess;
}
API Result cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
    *flags = 0;
    *active = primary && primary->retained > 0;
    return kSuccess;
}
API Result cuCtxDestroy(void* handle) {
    GUARD;
    FIND(Context, context, handle);
    context->alive = false;
    contexts.erase(std::remove(contexts.begin(), contexts.end(), context), contexts.end());
    return kSuccess;
}
API Result cuCtxCreate_v4(void** context, void*, unsigned, int) {
    *context = strict_new_context();
    return kSuccess;
}
API Result cuCtxDetach(void* handle) { return cuCtxDestroy(handle); }
API Result cuCtxPushCurrent(void* handle) {
    GUARD;
    FIND(Context, context, handle);
    contexts.push_back(context);
    return kSuccess;
}
API Result cuCtxPopCurrent(void** context) {
    NEEDS_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    return kSuccess;
}
API Result cuCtxSetCurrent(void* handle) {
    GUARD;
    if (!contexts.empty()) contexts.pop_back();
    if (!handle) return kSuccess;
    FIND(Context, context, handle);
    contexts.push_back(context);
    return kSuccess;
}
API Result cuCtxGetCurrent(void** context) {
    *context = contexts.empty() ? nullptr : contexts.back();
    return kSuccess;
}
API Result cuCtxGetDevice(int* device) {
    NEEDS_CONTEXT;
    *device = 0;
    return kSuccess;
}
API Result cuCtxGetDevice_v2(int* device, void*) {
    *device = 0;
    return kSuccess;
}
API Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    NEEDS_CONTEXT;
    *least = *greatest = 0;
    return kSuccess;
}
API Result cuCtxSynchronize() {
    {
        NEEDS_CONTEXT;
        NOT_WHILE_CAPTURING;
    }
    drainAll();
    return kSuccess;
}

// Memory.
API Result cuMemAlloc(Address* address, std::size_t size) {
    NEEDS_CONTEXT;
    NOT_WHILE_CAPTURING;
    return allocate(address, size, false, contexts.back());
}
API Result cuMemFree(Address address) {
    {
        NEEDS_CONTEXT;
        NOT_WHILE_CAPTURING;
    }
    drainAll();  // a real driver waits for the GPU, too
    GUARD;
    return release(address, false, __func__);
}
API Result cuMemHostAlloc(void** memory, std::size_t size, unsigned) {
    NEEDS_CONTEXT;
    NOT_WHILE_CAPTURING;
    return allocate(reinterpret_cast<Address*>(memory), size, true, contexts.back());
}
API Result cuMemAllocHost(void** memory, std::size_t size) { return cuMemHostAlloc(memory, size, 0); }
API Result cuMemFreeHost(void* memory) {
    {
        NEEDS_CONTEXT;
        NOT_WHILE_CAPTURING;
    }
    drainAll();
    GUARD;
    return release(reinterpret_cast<Address>(memory), true, __func__);
}
API Result cuDeviceGetDefaultMemPool(void** pool, int) {
    GUARD;
    static auto* made = make<Object>(Kind::kPool);
    *pool = made;
    return kSuccess;
}
API Result cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
API Result cuMemPoolGetAttribute(void*, int, void* value) {
    *static_cast<unsigned long long*>(value) = UINT64_MAX;
    return kSuccess;
}
API Result cuMemPoolSetAttribute(void*, int, void*) { return kSuccess; }
API Result cuMemAllocAsync(Address* address, std::size_t size, void* handle) {
    NEEDS_CONTEXT;
    FIND_STREAM(stream, handle);
    if (stream->capturing) return invalidate(stream, __func__);
    return allocate(address, size, false, contexts.back());
}
API Result cuMemAllocFromPoolAsync(Address* address, std::size_t size, void*, void* handle) {
    return cuMemAllocAsync(address, size, handle);
}
// Needs no context: the stream has one.
API Result cuMemFreeAsync(Address address, void* handle) {
    GUARD;
    FIND_STREAM(stream, handle);
    if (stream->capturing) return invalidate(stream, __func__);
    const auto found = blocks.find(address);
    if (found == blocks.end() || found->second.pinned)
        return refuse(kInvalidValue, "cuMemFreeAsync: no such allocation, or freed already");
    return enqueue(stream, [address] {
        GUARD;
        release(address, false, "cuMemFreeAsync");
    });
}
API Result cuMemcpyHtoDAsync(Address to, const void* from, std::size_t size, void* stream) {
    NEEDS_CONTEXT;
    return copy(to, reinterpret_cast<Address>(from), size, stream, true, false, __func__);
}
API Result cuMemcpyDtoHAsync(void* to, Address from, std::size_t size, void* stream) {
    NEEDS_CONTEXT;
    return copy(reinterpret_cast<Address>(to), from, size, stream, false, true, __func__);
}
API Result cuMemcpyDtoDAsync(Address to, Address from, std::size_t size, void* stream) {
    NEEDS_CONTEXT;
    return copy(to, from, size, stream, false, false, __func__);
}
API Result cuMemcpyAsync(Address to, Address from, std::size_t size, void* stream) {
    NEEDS_CONTEXT;
    bool broken = false;
    const auto* source = blockOf(from, size, __func__, &broken);
    const auto* target = blockOf(to, size, __func__, &broken);
    return copy(to, from, size, stream, !source || source->pinned, !target || target->pinned, __func__);
}
API Result cuPointerGetAttributes(unsigned count, const int* attributes, void** values, Address address) {
    GUARD;
    enum { kContextOf = 1, kMemoryType = 2, kIsManaged = 8, kOrdinal = 9 };
    bool broken = false;
    const auto* block = blockOf(address, 1, __func__, &broken);
    for (unsigned i = 0; i < count; ++i) {
        if (attributes[i] == kContextOf) *static_cast<void**>(values[i]) = block ? block->context : nullptr;
        if (attributes[i] == kMemoryType) *static_cast<unsigned*>(values[i]) = !block ? 0 : block->pinned ? 1 : 2;
        if (attributes[i] == kIsManaged) *static_cast<unsigned*>(values[i]) = 0;
        if (attributes[i] == kOrdinal) *static_cast<int*>(values[i]) = block ? 0 : -2;
    }
    return kSuccess;
}
API Result cuPointerGetAttribute(void* value, int attribute, Address address) {
    GUARD;
    bool broken = false;
    if (!blockOf(address, 1, __func__, &broken)) return kInvalidValue;
    return cuPointerGetAttributes(1, &attribute, &value, address);
}

// Streams and events.
API Result cuStreamCreate(void** stream, unsigned) {
    NEEDS_CONTEXT;
    NOT_WHILE_CAPTURING;
    *stream = make<Stream>(contexts.back());
    return kSuccess;
}
API Result cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API Result cuStreamDestroy(void* handle) {
    GUARD;
    FIND(Stream, stream, handle);
    if (stream->capturing) invalidate(stream, __func__);
    stream->alive = false;  // what it still has to do is done
    return kSuccess;
}
API Result cuStreamGetCtx(void* handle, void** context) {
    GUARD;
    FIND_STREAM(stream, handle);
    *context = stream->context;
    return kSuccess;
}
API Result cuStreamGetCtx_v2(void* handle, void** context, void** green) {
    *green = nullptr;
    return cuStreamGetCtx(handle, context);
}
API Result cuStreamGetDevice(void*, int* device) {
    *device = 0;
    return kSuccess;
}
API Result cuStreamGetFlags(void*, unsigned* flags) {
    *flags = 1;
    return kSuccess;
}
API Result cuStreamGetPriority(void*, int* priority) {
    *priority = 0;
    return kSuccess;
}
API Result cuStreamSynchronize(void* handle) {
    Stream* stream;
    {
        FIND_STREAM_TO_WAIT_FOR(stream, handle);
        if (waitsFail && reinterpret_cast<Address>(handle) > 2) return kIllegalAddress;
    }
    if (reinterpret_cast<Address>(handle) <= 2) drainAll();
    drain(stream, UINT64_MAX);
    return kSuccess;
}
API Result cuStreamQuery(void* handle) {
    Stream* stream;
    {
        FIND_STREAM_TO_WAIT_FOR(stream, handle);
        if (stream->queue.empty()) return kSuccess;
    }
    drain(stream, stream->done + 1);
    return kNotReady;
}
API Result cuStreamWaitEvent(void* handle, void* eventHandle, unsigned) {
    GUARD;
    FIND_STREAM(stream, handle);
    FIND(Event, event, eventHandle);
    if (!event->stream) return kSuccess;  // as in CUDA: an event that was never recorded is complete
    if (stream->capturing || event->inCapture)
        return refuse(kCaptureUnsupported, "cuStreamWaitEvent: this driver has no captures of two streams");
    auto* other = event->stream;
    const auto after = event->after;
    return enqueue(stream, [=] { drain(other, after); });
}
API Result cuEventCreate(void** event, unsigned flags) {
    NEEDS_CONTEXT;
    *event = make<Event>(flags);
    return kSuccess;
}
API Result cuEventDestroy(void* handle) {
    GUARD;
    FIND(Event, event, handle);
    event->alive = false;
    return kSuccess;
}
API Result cuEventRecord(void* handle, void* streamHandle) {
    GUARD;
    FIND(Event, event, handle);
    FIND_STREAM(stream, streamHandle);
    event->inCapture = stream->capturing;
    event->stream = stream;
    enqueue(stream, [event] { event->time_ms = now(); });
    event->after = stream->enqueued;
    return kSuccess;
}
static Result checkEvent(Event* event, const char* caller) {
    if (event->inCapture) {
        event->stream->invalidated = true;
        return refuse(900, std::string(caller) + ": the event was recorded in a capture");
    }
    return kSuccess;
}
API Result cuEventSynchronize(void* handle) {
    Event* event;
    {
        FIND_EVENT_TO_WAIT_FOR(event, handle);
        if (!event->stream) return kSuccess;
    }
    drain(event->stream, event->after);
    return kSuccess;
}
API Result cuEventQuery(void* handle) {
    Event* event;
    {
        FIND_EVENT_TO_WAIT_FOR(event, handle);
        if (!event->stream || event->stream->done >= event->after) return kSuccess;
    }
    drain(event->stream, event->stream->done + 1);
    return kNotReady;
}
API Result cuEventElapsedTime(float* ms, void* first, void* last) {
    GUARD;
    FIND(Event, start, first);
    FIND(Event, end, last);
    constexpr unsigned kNoTiming = 2;
    if ((start->flags | end->flags) & kNoTiming || !start->stream || !end->stream)
        return refuse(kInvalidHandle, "cuEventElapsedTime: an event without timing, or never recorded");
    if (end->stream->done < end->after || start->stream->done < start->after) return kNotReady;
    *ms = static_cast<float>(end->time_ms - start->time_ms);
    return kSuccess;
}

// Capture and graphs.
API Result cuStreamBeginCapture(void* handle, int mode) {
    NEEDS_CONTEXT;
    FIND(Stream, stream, handle);
    if (stream->capturing) return refuse(kInvalidValue, "cuStreamBeginCapture: it captures already");
    stream->capturing = true, stream->invalidated = false, stream->mode = mode;
    stream->captureId = ++captures;
    stream->captured = make<Graph>(Kind::kGraph);
    constexpr int kRelaxed = 2;
    if (mode != kRelaxed) prohibiting.push_back(stream);
    return kSuccess;
}
API Result cuStreamEndCapture(void* handle, void** graph) {
    NEEDS_CONTEXT;
    FIND(Stream, stream, handle);
    *graph = nullptr;
    if (!stream->capturing) return kIllegalState;  // no misuse: cuda.core ends an invalidated capture twice
    const auto mine = std::find(prohibiting.begin(), prohibiting.end(), stream);
    if (mine == prohibiting.end() && stream->mode != 2) return refuse(kCaptureWrongThread, "cuStreamEndCapture");
    if (mine != prohibiting.end()) prohibiting.erase(mine);
    stream->capturing = false;
    if (stream->invalidated || refusesCapture) {
        stream->captured->end();
        return kCaptureInvalidated;
    }
    *graph = stream->captured;
    return kSuccess;
}
API Result cuStreamIsCapturing(void* handle, int* status) {
    GUARD;
    FIND_STREAM(stream, handle);
    *status = !stream->capturing ? 0 : stream->invalidated ? 2 : 1;
    return kSuccess;
}
static Result captureInfo(void* handle, int* status, unsigned long long* id, void** graph) {
    if (const auto code = cuStreamIsCapturing(handle, status)) return code;
    auto* stream = streamOf(handle, __func__);
    if (id) *id = stream->captureId;
    if (graph) *graph = stream->captured;
    return kSuccess;
}
API Result cuStreamGetCaptureInfo_v2(void* handle, int* status, unsigned long long* id, void** graph, void*,
                                     std::size_t* count) {
    if (count) *count = 0;
    return captureInfo(handle, status, id, graph);
}
API Result cuStreamGetCaptureInfo_v3(void* handle, int* status, unsigned long long* id, void** graph, void*, void*,
                                     std::size_t* count) {
    if (count) *count = 0;
    return captureInfo(handle, status, id, graph);
}
API Result cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long) {
    NEEDS_CONTEXT;
    FIND(Graph, graph, handle);
    auto* made = make<Graph>(Kind::kExecutable);
    made->work = graph->work;
    made->held = graph->held;
    for (auto* object : made->held) ++object->references;
    *executable = made;
    return kSuccess;
}
API Result cuGraphInstantiateWithParams(void** executable, void* handle, void* params) {
    struct {
        std::uint64_t flags;
        void *uploadStream, *errorNode;
        int result;
    } outcome{};
    std::memcpy(&outcome, params, sizeof(outcome));
    outcome.result = 0;
    std::memcpy(params, &outcome, sizeof(outcome));
    return cuGraphInstantiateWithFlags(executable, handle, 0);
}
// Nobody looks at the nodes of a graph: it says that it has none.
API Result cuGraphGetNodes(void* handle, void**, std::size_t* count) {
    GUARD;
    FIND(Graph, graph, handle);
    *count = 0;
    return kSuccess;
}
API Result cuUserObjectCreate(void** object, void* value, void (*destroy)(void*), unsigned references, unsigned) {
    GUARD;
    auto* made = make<UserObject>();
    made->value = value, made->destroy = destroy, made->references = references;
    *object = made;
    return kSuccess;
}
API Result cuUserObjectRelease(void* handle, unsigned count) {
    GUARD;
    FIND(UserObject, object, handle);
    while (count--) object->drop();
    return kSuccess;
}
API Result cuGraphRetainUserObject(void* graphHandle, void* handle, unsigned count, unsigned flags) {
    GUARD;
    FIND(Graph, graph, graphHandle);
    FIND(UserObject, object, handle);
    constexpr unsigned kMove = 1;
    if (!(flags & kMove)) object->references += count;
    graph->held.insert(graph->held.end(), count, object);
    return kSuccess;
}
API Result cuGraphReleaseUserObject(void* graphHandle, void* handle, unsigned count) {
    GUARD;
    FIND(Graph, graph, graphHandle);
    FIND(UserObject, object, handle);
    for (; count--; object->drop()) graph->held.erase(std::find(graph->held.begin(), graph->held.end(), object));
    return kSuccess;
}
API Result cuGraphUpload(void*, void*) { return kSuccess; }
API Result cuGraphLaunch(void* handle, void* streamHandle) {
    NEEDS_CONTEXT;
    auto* graph = find<Graph>(handle, Kind::kExecutable, __func__);
    FIND_STREAM(stream, streamHandle);
    if (!graph) return kInvalidHandle;
    if (stream->capturing) return invalidate(stream, __func__);
    return enqueue(stream, [work = graph->work] {
        calls.push_back("graph");
        for (const auto& one : work) one();
    });
}
API Result cuGraphDestroy(void* handle) {
    GUARD;
    FIND(Graph, graph, handle);
    graph->end();
    return kSuccess;
}
API Result cuGraphExecDestroy(void* handle) {
    GUARD;
    auto* graph = find<Graph>(handle, Kind::kExecutable, __func__);
    if (!graph) return kInvalidHandle;
    graph->end();
    return kSuccess;
}

// Kernels: a cubin is any ELF file; the function is NAME_cpu of the libraries of strict_kernels().
API Result cuLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*, unsigned) {
    GUARD;
    NOT_WHILE_CAPTURING;
    if (std::memcmp(code,
                    "\x7f"
                    "ELF",
                    4) != 0)
        return refuse(kInvalidImage, "cuLibraryLoadData: no cubin");
    *library = make<Library>();
    return kSuccess;
}
API Result cuLibraryUnload(void* handle) {
    GUARD;
    FIND(Library, library, handle);
    library->alive = false;
    return kSuccess;
}
API Result cuLibraryGetKernel(void** kernel, void* handle, const char* name) {
    GUARD;
    FIND(Library, library, handle);
    for (const auto& path : kernelLibraries) {
        auto* file = dlopen(path.c_str(), RTLD_NOW);
        const auto wanted = std::string(name) + "_launch", size = std::string(name) + "_bytes";
        auto* function = file ? dlsym(file, wanted.c_str()) : nullptr;
        if (!function) continue;
        auto* made = make<Kernel>();
        made->name = name;
        made->run = reinterpret_cast<KernelOnCpu>(function);
        made->bytes = *static_cast<const unsigned*>(dlsym(file, size.c_str()));
        *kernel = made;
        return kSuccess;
    }
    return refuse(kNotFound, std::string("cuLibraryGetKernel: ") + name);
}
API Result cuKernelGetFunction(void** function, void* handle) {
    GUARD;
    FIND(Kernel, kernel, handle);
    *function = kernel;
    return kSuccess;
}
API Result cuLaunchKernel(void* function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                          unsigned blockY, unsigned blockZ, unsigned, void* streamHandle, void** params, void** extra) {
    NEEDS_CONTEXT;
    FIND(Kernel, kernel, function);
    FIND_STREAM(stream, streamHandle);
    const auto threads = static_cast<unsigned long long>(blockX) * blockY * blockZ;
    if (!gridX || !gridY || !gridZ || gridY > 65535 || gridZ > 65535 || !threads || threads > 1024 || extra || !params)
        return refuse(kInvalidValue, "cuLaunchKernel: " + kernel->name + " with an impossible grid or block");
    const auto* bytes = static_cast<const char*>(params[0]);
    std::vector<char> saved(bytes, bytes + kernel->bytes);  // by value: read when the call is made
    return enqueue(stream, [=] {
        calls.push_back("kernel " + kernel->name);
        if (kernel->run(saved.data(), gridX, gridY, blockX)) {
            GUARD;
            misuses.push_back("cuLaunchKernel: " + kernel->name + " does not run with this block");
        }
    });
}

// NVRTC asks for a table of private functions; this one is empty. Its first word is its size.
API Result cuGetExportTable(const void** table, const void*) {
    static const std::size_t empty[] = {sizeof(std::size_t)};
    *table = empty;
    return kSuccess;
}
// pycuda is linked with the versioned names. Its plain copies end with the call.
#define ALIAS(name, versioned) extern "C" __attribute__((visibility("default"), alias(#name))) decltype(name) versioned
ALIAS(cuCtxPushCurrent, cuCtxPushCurrent_v2);
ALIAS(cuCtxPopCurrent, cuCtxPopCurrent_v2);
ALIAS(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2);
ALIAS(cuMemAlloc, cuMemAlloc_v2);
ALIAS(cuMemFree, cuMemFree_v2);
ALIAS(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2);
ALIAS(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2);
ALIAS(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2);
ALIAS(cuStreamDestroy, cuStreamDestroy_v2);
ALIAS(cuEventDestroy, cuEventDestroy_v2);
ALIAS(cuEventElapsedTime, cuEventElapsedTime_v2);
API Result cuMemcpyHtoD_v2(Address to, const void* from, std::size_t size) {
    const auto code = cuMemcpyHtoDAsync(to, from, size, nullptr);
    drainAll();
    return code;
}
API Result cuMemcpyDtoH_v2(void* to, Address from, std::size_t size) {
    drainAll();
    return cuMemcpyDtoHAsync(to, from, size, nullptr);
}
API Result cuDeviceComputeCapability(int* major, int* minor, int) {
    *major = capabilityMajor, *minor = capabilityMinor;
    return kSuccess;
}
API Result cuCtxGetApiVersion(void*, unsigned* version) {
    *version = 3020;
    return kSuccess;
}

// What pycuda is linked with besides, and does not call here.
#define LACKS(name) \
    API Result name() { return refuse(kNotFound, "this driver has no " #name); }
// clang-format off
LACKS(cuArray3DCreate_v2) LACKS(cuArray3DGetDescriptor_v2) LACKS(cuArrayCreate_v2) LACKS(cuArrayDestroy)
LACKS(cuArrayGetDescriptor_v2) LACKS(cuCtxAttach) LACKS(cuCtxDisablePeerAccess) LACKS(cuCtxEnablePeerAccess)
LACKS(cuCtxGetCacheConfig) LACKS(cuCtxGetLimit) LACKS(cuCtxGetSharedMemConfig) LACKS(cuCtxSetCacheConfig)
LACKS(cuCtxSetLimit) LACKS(cuCtxSetSharedMemConfig) LACKS(cuDeviceCanAccessPeer) LACKS(cuDeviceGetByPCIBusId)
LACKS(cuDeviceGetPCIBusId) LACKS(cuDeviceTotalMem_v2) LACKS(cuFuncGetAttribute) LACKS(cuFuncSetAttribute)
LACKS(cuFuncSetBlockShape) LACKS(cuFuncSetCacheConfig) LACKS(cuFuncSetSharedSize) LACKS(cuIpcCloseMemHandle)
LACKS(cuIpcGetEventHandle) LACKS(cuIpcGetMemHandle) LACKS(cuIpcOpenEventHandle) LACKS(cuIpcOpenMemHandle_v2)
LACKS(cuLaunch) LACKS(cuLaunchGrid) LACKS(cuLaunchGridAsync) LACKS(cuLinkAddData_v2) LACKS(cuLinkAddFile_v2)
LACKS(cuLinkComplete) LACKS(cuLinkCreate_v2) LACKS(cuLinkDestroy) LACKS(cuMemAllocManaged) LACKS(cuMemAllocPitch_v2)
LACKS(cuMemGetAddressRange_v2) LACKS(cuMemGetInfo_v2) LACKS(cuMemHostGetDevicePointer_v2) LACKS(cuMemHostGetFlags)
LACKS(cuMemHostRegister_v2) LACKS(cuMemHostUnregister) LACKS(cuMemcpy2DAsync_v2) LACKS(cuMemcpy2DUnaligned_v2)
LACKS(cuMemcpy2D_v2) LACKS(cuMemcpy3DAsync_v2) LACKS(cuMemcpy3DPeer) LACKS(cuMemcpy3DPeerAsync) LACKS(cuMemcpy3D_v2)
LACKS(cuMemcpyAtoA_v2) LACKS(cuMemcpyAtoD_v2) LACKS(cuMemcpyAtoH_v2) LACKS(cuMemcpyDtoA_v2) LACKS(cuMemcpyDtoD_v2)
LACKS(cuMemcpyHtoA_v2) LACKS(cuMemcpyPeer) LACKS(cuMemcpyPeerAsync) LACKS(cuMemsetD16Async) LACKS(cuMemsetD16_v2)
LACKS(cuMemsetD2D16Async) LACKS(cuMemsetD2D16_v2) LACKS(cuMemsetD2D32Async) LACKS(cuMemsetD2D32_v2)
LACKS(cuMemsetD2D8Async) LACKS(cuMemsetD2D8_v2) LACKS(cuMemsetD32Async) LACKS(cuMemsetD32_v2) LACKS(cuMemsetD8Async)
LACKS(cuMemsetD8_v2) LACKS(cuModuleGetFunction) LACKS(cuModuleGetGlobal_v2) LACKS(cuModuleGetSurfRef)
LACKS(cuModuleGetTexRef) LACKS(cuModuleLoad) LACKS(cuModuleLoadData) LACKS(cuModuleLoadDataEx) LACKS(cuModuleUnload)
LACKS(cuParamSetSize) LACKS(cuParamSetTexRef) LACKS(cuParamSetf) LACKS(cuParamSeti) LACKS(cuParamSetv)
LACKS(cuProfilerInitialize) LACKS(cuProfilerStart) LACKS(cuProfilerStop) LACKS(cuStreamAttachMemAsync)
LACKS(cuSurfRefGetArray) LACKS(cuSurfRefSetArray) LACKS(cuTexRefCreate) LACKS(cuTexRefDestroy)
LACKS(cuTexRefGetAddressMode) LACKS(cuTexRefGetAddress_v2) LACKS(cuTexRefGetArray) LACKS(cuTexRefGetFilterMode)
LACKS(cuTexRefGetFlags) LACKS(cuTexRefGetFormat) LACKS(cuTexRefSetAddress2D_v3) LACKS(cuTexRefSetAddressMode)
LACKS(cuTexRefSetAddress_v2) LACKS(cuTexRefSetArray) LACKS(cuTexRefSetFilterMode) LACKS(cuTexRefSetFlags)
LACKS(cuTexRefSetFormat)
    // clang-format on

    API Result cuGetErrorString(Result, const char** message) {
    *message = "the strict driver refused";
    return kSuccess;
}
API Result cuGetErrorName(Result code, const char** name) {
    static const std::map<Result, const char*> names = {{kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
                                                        {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                        {kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"}};
    const auto found = names.find(code);
    *name = found == names.end() ? "CUDA_ERROR" : found->second;
    return kSuccess;
}

// What this driver lacks says so when it is called.
constexpr std::size_t kMostMissing = 600;
template <std::size_t kIndex>
static Result lacks() {
    GUARD;
    return refuse(kNotFound, "this driver has no " + missing[kIndex]);
}
template <std::size_t... kIndices>
static void* lacking(std::size_t index, std::index_sequence<kIndices...>) {
    static Result (*const functions[])() = {lacks<kIndices>...};
    return reinterpret_cast<void*>(functions[index]);
}

// Where a function has several versions, the one that CUDA `version` declared under the plain name.
API Result cuGetProcAddress_v2(const char* name, void** function, int version, std::uint64_t, int* status) {
    std::string wanted(name);
    if (wanted == "cuGetProcAddress") wanted += "_v2";
    if (wanted == "cuStreamGetCaptureInfo") wanted += version >= 12030 ? "_v3" : "_v2";
    if (wanted == "cuStreamGetCtx" && version >= 12050) wanted += "_v2";
    if (wanted == "cuCtxGetDevice" && version >= 13000) wanted = "cuCtxGetDevice";
    if (wanted == "cuGraphInstantiate") wanted += "WithFlags";
    static void* self = [] {
        Dl_info info;
        dladdr(reinterpret_cast<void*>(cuInit), &info);
        return dlopen(info.dli_fname, RTLD_NOW);
    }();
    *function = dlsym(self, wanted.c_str());
    GUARD;
    if (!*function && missing.size() < kMostMissing) {
        missing.push_back(name);
        *function = lacking(missing.size() - 1, std::make_index_sequence<kMostMissing>());
    }
    if (status) *status = 0;
    return kSuccess;
}
API Result cuGetProcAddress(const char* name, void** function, int version, std::uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}
