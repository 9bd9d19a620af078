// An engine inside a C++ program: images in, people out. Needs the engine, its description beside it, TensorRT 10.3 to
// 11.x or TensorRT-RTX, and the CUDA runtime; no nvcc.
//
//   trt_pose::Engine engine("pose.engine");
//   std::vector<trt_pose::Pose> people = engine(image);
//
// One Engine serves one thread at a time; `clone()` shares the weights with another for the next thread.
#pragma once

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#ifdef TRT_POSE_NVINFER_PLUGIN  // link nvinfer_plugin: TensorRT's own EfficientNMS_TRT, which detection engines call
#include <NvInferPlugin.h>
#endif

#include <algorithm>
#include <cstdio>
#include <cstring>
#ifdef TRT_MAJOR_RTX
#include <cstdlib>
#include <filesystem>
#endif
#include <map>
#include <memory>

#include "core.hpp"

namespace trt_pose {

struct EngineOptions {
    std::string pluginLibrary = "libtrt_pose_plugins.so";  // looked up by the loader; used where the engine has plugins
    float threshold = 0;                                   // keep scores above it; the file has applied its own already
    bool cudaGraph = true;  // capture the work of a batch size once, then launch it whole
    int device = 0;
};

namespace detail {

inline void check(cudaError_t result, const char* action) {
    if (result == cudaSuccess) return;
    throw Error(std::string(action) + ": CUDA answered " + cudaGetErrorString(result) +
                ". Check the driver and the GPU.");
}

// TensorRT's log: the first error of each thread is kept for its exception, the rest is passed over. TensorRT keeps the
// logger of its first runtime for the life of the process, so there is one, and it is never freed.
class Logger final : public nvinfer1::ILogger {
  public:
    static Logger& instance() {
        static auto* logger = new Logger;
        return *logger;
    }
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR && last().empty()) last() = message;
    }
    static std::string take() { return std::exchange(last(), {}); }

  private:
    Logger() = default;
    static std::string& last() {
        static thread_local std::string text;
        return text;
    }
};

struct DeviceFree {
    void operator()(void* memory) const { cudaFree(memory); }
};
struct HostFree {
    void operator()(void* memory) const { cudaFreeHost(memory); }
};
struct StreamFree {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct GraphFree {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};

// The two ends of a tensor: pinned memory here, memory on the GPU.
struct Buffer {
    Buffer() = default;
    explicit Buffer(std::size_t size) : bytes(size) {
        void* memory = nullptr;
        check(cudaMalloc(&memory, size), "allocating memory on the GPU");
        device.reset(memory);
        check(cudaMallocHost(&memory, size), "allocating pinned memory");
        host.reset(memory);
    }
    std::size_t bytes = 0;
    std::unique_ptr<void, DeviceFree> device;
    std::unique_ptr<void, HostFree> host;
};

constexpr std::size_t sizeOf(nvinfer1::DataType type) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT:
        case nvinfer1::DataType::kINT32:
            return 4;
        case nvinfer1::DataType::kHALF:
        case nvinfer1::DataType::kBF16:
            return 2;
        case nvinfer1::DataType::kINT64:
            return 8;
        default:
            return 1;
    }
}

// The driver's CUDA and the runtime's, for a message.
inline std::string versions() {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const auto text = [](int version) {
        return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    };
    return "The driver supports CUDA " + text(driver) + ", the program uses " + text(runtime) + ".";
}

inline std::vector<char> readPlan(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error("opening " + path + ": there is no such file. Check the path.");
    std::vector<char> plan((std::istreambuf_iterator<char>(file)), {});
    const bool known =
        plan.size() >= 32 && (std::memcmp(plan.data(), "ftrt", 4) == 0 || std::memcmp(plan.data(), "vtrt", 4) == 0);
    if (!known) throw Error("opening " + path + ": it is no TensorRT plan, or a truncated one. Build it again.");
    return plan;
}

// What several Engines share. Members are freed from the last to the first: the engine before its runtime.
struct Weights {
    Sidecar sidecar;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
};

// Makes an operator known that an engine calls.
inline void findPlugin(Weights& weights, const std::string& name, const std::string& path, const std::string& library) {
    auto& registry = weights.runtime->getPluginRegistry();
    if (registry.getCreator(name.c_str(), "1", "")) return;
    if (name == "PoseNMS_TRT" || name == "DetectionNMS_TRT") {
        if (registry.loadLibrary(library.c_str())) return;
        throw Error("opening " + path + ": it calls " + name + ", and " + library +
                    " does not load. Build it with make plugin and put it on the loader's path.");
    }
#ifdef TRT_POSE_NVINFER_PLUGIN
    if (initLibNvInferPlugins(&Logger::instance(), "") && registry.getCreator(name.c_str(), "1", "")) return;
#endif
    throw Error(
        "opening " + path + ": it calls " + name +
        ", which is not registered. Compile with TRT_POSE_NVINFER_PLUGIN and link nvinfer_plugin, or load its library "
        "first.");
}

inline std::shared_ptr<Weights> load(const std::string& path, const EngineOptions& options) {
    auto weights = std::make_shared<Weights>();
    weights->sidecar = readSidecar(path);
    const auto plan = readPlan(path);
    check(cudaSetDevice(options.device), "choosing the GPU");
    if (weights->sidecar.stripWeights)
        throw Error("opening " + path + ": it was built without weights. Build it without --stripWeights.");
    Logger::take();
    auto* runtime = nvinfer1::createInferRuntime(Logger::instance());
    // With a driver that is too old, TensorRT logs an error and may return what is no object.
    const std::string problem = Logger::take();
    if (!runtime || !problem.empty())
        throw Error("opening " + path + ": TensorRT did not start (" + problem + "). " + versions());
    weights->runtime.reset(runtime);
    if (weights->sidecar.versionCompatible)
        weights->runtime->setEngineHostCodeAllowed(true);  // such a plan brings its runtime, which is code
    for (const auto& name : weights->sidecar.plugins) findPlugin(*weights, name, path, options.pluginLibrary);
    weights->engine.reset(weights->runtime->deserializeCudaEngine(plan.data(), plan.size()));
    if (!weights->engine)
        throw Error("opening " + path + ": it was built with " + weights->sidecar.flavor + " " +
                    weights->sidecar.flavorVersion + " and does not load here (" + Logger::take() +
                    "). Build it on this machine.");
    return weights;
}

// An execution context. TensorRT-RTX compiles kernels when it first runs: at once for each shape, into a file for the
// next process; and it captures CUDA graphs itself, anew when the shape changes.
struct Execution {
#ifdef TRT_MAJOR_RTX
    std::unique_ptr<nvinfer1::IRuntimeConfig> config;
    std::unique_ptr<nvinfer1::IRuntimeCache> kernels;
    std::string file;
#endif
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    bool capturesItself = false;

    Execution() = default;
    Execution(Execution&&) = default;
    Execution& operator=(Execution&&) = default;
    ~Execution() {
#ifdef TRT_MAJOR_RTX
        if (!kernels) return;
        const std::unique_ptr<nvinfer1::IHostMemory> blob(kernels->serialize());
        if (!blob) return;
        std::error_code ignored;  // without a writable cache the next process compiles again
        std::filesystem::create_directories(std::filesystem::path(file).parent_path(), ignored);
        const std::string temporary = file + "." + std::to_string(std::hash<const void*>()(this));
        std::ofstream(temporary, std::ios::binary)
            .write(static_cast<const char*>(blob->data()), static_cast<std::streamsize>(blob->size()));
        std::filesystem::rename(temporary, file, ignored);
        if (ignored) std::filesystem::remove(temporary, ignored);
#endif
    }
};

#ifdef TRT_MAJOR_RTX
// The file that the Python runtime uses, too.
inline std::string kernelFile(const Sidecar& sidecar, int device) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
    const std::string base = cache && *cache ? cache : home && *home ? std::string(home) + "/.cache" : "/tmp";
    return base + "/trt_pose/rtx/" + sidecar.engineSha256.substr(0, 16) + "-" + std::to_string(major) + "." +
           std::to_string(minor) + "-" + sidecar.flavorVersion + ".bin";
}
#endif

inline Execution makeContext(Weights& weights, [[maybe_unused]] bool graphs, [[maybe_unused]] int device) {
    Execution made;
#ifdef TRT_MAJOR_RTX
    made.config.reset(weights.engine->createRuntimeConfig());
    made.config->setDynamicShapesKernelSpecializationStrategy(
        nvinfer1::DynamicShapesKernelSpecializationStrategy::kEAGER);
    made.capturesItself =
        graphs && made.config->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE);
    made.kernels.reset(made.config->createRuntimeCache());
    if (made.kernels) {
        made.file = kernelFile(weights.sidecar, device);
        std::ifstream file(made.file, std::ios::binary);
        const std::vector<char> blob((std::istreambuf_iterator<char>(file)), {});
        if (!blob.empty()) made.kernels->deserialize(blob.data(), blob.size());  // one that does not fit is passed over
        made.config->setRuntimeCache(*made.kernels);
    }
    made.context.reset(weights.engine->createExecutionContext(made.config.get()));
#else
    made.context.reset(weights.engine->createExecutionContext());
#endif
    return made;
}

}  // namespace detail

class Engine {
  public:
    explicit Engine(const std::string& path, EngineOptions options = {})
        : Engine(detail::load(path, options), options) {}

    // Another context of the same engine, with buffers and a stream of its own.
    std::unique_ptr<Engine> clone() const { return std::unique_ptr<Engine>(new Engine(weights_, options_)); }

    const ModelSpec& spec() const { return weights_->sidecar.spec; }
    int largestBatch() const { return largestBatch_; }

    // People of one image, best first, px of the image.
    std::vector<Pose> operator()(const ImageView& image) { return (*this)(std::vector<ImageView>{image}).front(); }

    // People of several images; any number of them, run in batches the engine takes.
    std::vector<std::vector<Pose>> operator()(const std::vector<ImageView>& images) {
        if (spec().task != "pose") throw Error("finding people: " + spec().model + " detects objects. Call detect().");
        std::vector<std::vector<Pose>> results;
        forEach(images, [&](const BatchOutputs& outputs, int index, const Placed& placed) {
            results.push_back(readPoses(outputs, index, placed, spec().jointCount(), options_.threshold));
        });
        return results;
    }

    // Objects of several images, for detection models.
    std::vector<std::vector<Detection>> detect(const std::vector<ImageView>& images) {
        if (spec().task != "detection") throw Error("detecting objects: " + spec().model + " finds people. Call it.");
        std::vector<std::vector<Detection>> results;
        forEach(images, [&](const BatchOutputs& outputs, int index, const Placed& placed) {
            results.push_back(readDetections(outputs, index, placed, options_.threshold));
        });
        return results;
    }

  private:
    Engine(std::shared_ptr<detail::Weights> weights, const EngineOptions& options)
        : weights_(std::move(weights)), options_(options) {
        if (spec().output.format != "batch")
            throw Error("opening an engine: its outputs are in " + spec().output.format +
                        " format, this runtime reads the batch format. Export it with --format batch.");
        detail::check(cudaSetDevice(options_.device), "choosing the GPU");
        cudaStream_t stream = nullptr;
        detail::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
        stream_.reset(stream);
        execution_ = detail::makeContext(*weights_, options_.cudaGraph, options_.device);
        if (!context())
            throw Error("opening an engine: no execution context (" + detail::Logger::take() + "). Free GPU memory.");
        prepare();
    }

    nvinfer1::IExecutionContext* context() const { return execution_.context.get(); }

    // Buffers for the largest batch, once and for all.
    void prepare() {
        auto& engine = *weights_->engine;
        const auto& input = spec().input;
        const auto most = engine.getProfileShape(input.name.c_str(), 0, nvinfer1::OptProfileSelector::kMAX);
        largestBatch_ = most.nbDims > 0 && most.d[0] > 0 ? static_cast<int>(most.d[0]) : input.batch.value_or(1);
        setBatch(largestBatch_);
        for (int index = 0; index < engine.getNbIOTensors(); ++index) {
            const char* name = engine.getIOTensorName(index);
            const auto shape = context()->getTensorShape(name);
            std::size_t count = 1;
            for (int axis = 0; axis < shape.nbDims; ++axis) {
                if (shape.d[axis] < 0)
                    throw Error(std::string("opening an engine: ") + name +
                                " has no fixed size. Export it in batch format for TensorRT.");
                count *= static_cast<std::size_t>(shape.d[axis]);
            }
            auto& buffer = buffers_[name] = detail::Buffer(count * detail::sizeOf(engine.getTensorDataType(name)));
            if (!context()->setTensorAddress(name, buffer.device.get()))
                throw Error(std::string("opening an engine: TensorRT refused the memory of ") + name + ".");
            if (std::string(name) == "pred_scores") limit_ = static_cast<int>(shape.d[1]);
        }
        for (const char* name : {"num_predictions", "pred_boxes", "pred_scores"})
            if (!buffers_.count(name))
                throw Error(std::string("opening an engine: it has no output ") + name + ". Export it with trt-pose.");
    }

    void setBatch(int batch) {
        if (spec().input.batch) return;
        const auto& input = spec().input;
        nvinfer1::Dims shape{};
        shape.nbDims = 4;
        shape.d[0] = batch;
        shape.d[1] = input.channels;
        shape.d[2] = input.height;
        shape.d[3] = input.width;
        if (!context()->setInputShape(input.name.c_str(), shape))
            throw Error("running an engine: a batch of " + std::to_string(batch) +
                        " is outside its profile. Build it with other --minShapes.");
    }

    template <class Read>
    void forEach(const std::vector<ImageView>& images, Read read) {
        detail::check(cudaSetDevice(options_.device), "choosing the GPU");  // of this thread
        for (std::size_t start = 0; start < images.size(); start += static_cast<std::size_t>(largestBatch_)) {
            const int count =
                static_cast<int>(std::min(images.size() - start, static_cast<std::size_t>(largestBatch_)));
            const auto& input = spec().input;
            const std::size_t bytes = input.elements() * input.bytesPerElement();
            char* target = static_cast<char*>(buffers_.at(input.name).host.get());
            std::vector<Placed> placed;
            for (int i = 0; i < count; ++i) placed.push_back(letterbox(images[start + i], input, target + i * bytes));
            // A fixed batch that is not full carries what lay there before; nobody reads its rows.
            infer(input.batch.value_or(count));
            const BatchOutputs outputs = this->outputs();
            for (int i = 0; i < count; ++i) read(outputs, i, placed[static_cast<std::size_t>(i)]);
        }
    }

    BatchOutputs outputs() const {
        const auto host = [&](const char* name) -> const void* {
            const auto found = buffers_.find(name);
            return found == buffers_.end() ? nullptr : found->second.host.get();
        };
        return {static_cast<const std::int32_t*>(host("num_predictions")),
                static_cast<const float*>(host("pred_boxes")),
                static_cast<const float*>(host("pred_scores")),
                static_cast<const float*>(host("pred_joints")),
                static_cast<const std::int32_t*>(host("pred_classes")),
                limit_};
    }

    // As a graph from the second run of a batch size on. Another batch size ends the graph: setting it changes what the
    // graph relies on (NVIDIA/TensorRT issue 3798). The first run of one is not captured, because TensorRT updates that
    // state in it and may allocate.
    void infer(int batch) {
        const int last = std::exchange(batch_, 0);  // 0 until this run has succeeded
        if (batch != last) {
            graph_.reset();
            captured_ = 0;
            setBatch(batch);
        } else if (captures() && captured_ == 0) {
            capture();
            captured_ = batch;
        }
        if (graph_)
            detail::check(cudaGraphLaunch(graph_.get(), stream_.get()), "launching the CUDA graph");
        else
            enqueue();
        detail::check(cudaStreamSynchronize(stream_.get()), "running the engine");
        batch_ = batch;
    }

    // TensorRT-RTX captures its graphs itself, see detail::Execution.
    bool captures() const { return options_.cudaGraph && !execution_.capturesItself; }

    // Copies in, engine, copies out; only as much as the batch has.
    void enqueue() {
        const auto copy = [&](const char* name, cudaMemcpyKind kind) {
            auto& buffer = buffers_.at(name);
            const auto shape = context()->getTensorShape(name);
            std::size_t bytes = detail::sizeOf(weights_->engine->getTensorDataType(name));
            for (int axis = 0; axis < shape.nbDims; ++axis) bytes *= static_cast<std::size_t>(shape.d[axis]);
            void* to = kind == cudaMemcpyHostToDevice ? buffer.device.get() : buffer.host.get();
            const void* from = kind == cudaMemcpyHostToDevice ? buffer.host.get() : buffer.device.get();
            detail::check(cudaMemcpyAsync(to, from, bytes, kind, stream_.get()), "copying a tensor");
        };
        copy(spec().input.name.c_str(), cudaMemcpyHostToDevice);
        if (!context()->enqueueV3(stream_.get())) throw Error("running the engine: " + detail::Logger::take() + ".");
        for (const auto& name : spec().output.names) copy(name.c_str(), cudaMemcpyDeviceToHost);
    }

    // Leaves no graph where TensorRT or the driver refuses; the stream is usable either way.
    void capture() {
        graph_.reset();
        detail::check(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal), "beginning a capture");
        bool complete = true;
        try {
            enqueue();
        } catch (const Error&) {
            complete = false;  // some engines cannot be captured; the capture is ended and plain launches serve
        }
        cudaGraph_t captured = nullptr;
        const bool ended = cudaStreamEndCapture(stream_.get(), &captured) == cudaSuccess;
        cudaGraphExec_t executable = nullptr;
        if (complete && ended && cudaGraphInstantiate(&executable, captured, 0) == cudaSuccess)
            graph_.reset(executable);
        if (captured) cudaGraphDestroy(captured);
        cudaGetLastError();  // the next call is not to blame for a refused capture
        detail::Logger::take();
    }

    std::shared_ptr<detail::Weights> weights_;
    EngineOptions options_;
    std::unique_ptr<std::remove_pointer_t<cudaStream_t>, detail::StreamFree> stream_;
    std::map<std::string, detail::Buffer> buffers_;
    detail::Execution execution_;
    std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, detail::GraphFree> graph_;
    int largestBatch_ = 1, limit_ = 0;
    int batch_ = 0, captured_ = 0;  // of the last run, and of the graph or a refused capture
};

}  // namespace trt_pose
