// PoseNMS_TRT and DetectionNMS_TRT as TensorRT plugins: the shell around pose_nms_kernel.cuh. Compiled as CUDA.
//
// One binary serves TensorRT 10.3 to 11.x and TensorRT-RTX: it uses the V3 interfaces alone, links no TensorRT library,
// no logger and no registration macro, and carries its CUDA runtime inside.
#include <NvInferRuntime.h>
#include <NvInferRuntimePlugin.h>

#include <dlfcn.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "pose_nms_kernel.cuh"

namespace trt_pose {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

// The two operators: poses come with joints and have one class, detections have classes and no joints.
enum class Operator { kPoses, kDetections };
constexpr const char* nameOf(Operator kind) { return kind == Operator::kPoses ? "PoseNMS_TRT" : "DetectionNMS_TRT"; }

constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "";
constexpr int kMaxOutputs = 4096;
constexpr int kMaxJoints = 256;
constexpr int kOutputs = 4;
constexpr int inputsOf(Operator kind) { return kind == Operator::kPoses ? 3 : 2; }

// The attributes of both operators; serialized whole into the engine.
struct Attributes {
    float scoreThreshold = 0, iouThreshold = 0;
    int maxOutputBoxes = 0, numPreNmsPredictions = 0;
};

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

// Runs `action`; an exception becomes a line on standard error (a plugin has no logger of its own) and `failed`.
template <class Result, class Action>
Result guarded(const char* where, Result failed, Action action) noexcept {
    try {
        return action();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "trt_pose plugin: %s: %s\n", where, error.what());
    } catch (...) {
        std::fprintf(stderr, "trt_pose plugin: %s: unknown error\n", where);
    }
    return failed;
}

template <class T>
T scalar(const PluginField& field, PluginFieldType type) {
    if (field.type != type || field.length != 1 || field.data == nullptr)
        refuse(std::string(field.name) + " must be one " + (type == PluginFieldType::kFLOAT32 ? "float" : "int32"));
    T value;
    std::memcpy(&value, field.data, sizeof value);
    return value;
}

Attributes readAttributes(const PluginFieldCollection& fields) {
    Attributes read;
    std::array<bool, 4> seen{};
    for (int i = 0; i < fields.nbFields; ++i) {
        const PluginField& field = fields.fields[i];
        const std::string name = field.name;
        if (name == "score_threshold") {
            read.scoreThreshold = scalar<float>(field, PluginFieldType::kFLOAT32);
            seen[0] = true;
        } else if (name == "iou_threshold") {
            read.iouThreshold = scalar<float>(field, PluginFieldType::kFLOAT32);
            seen[1] = true;
        } else if (name == "max_output_boxes") {
            read.maxOutputBoxes = scalar<int>(field, PluginFieldType::kINT32);
            seen[2] = true;
        } else if (name == "num_pre_nms_predictions") {
            read.numPreNmsPredictions = scalar<int>(field, PluginFieldType::kINT32);
            seen[3] = true;
        }
    }
    for (bool one : seen)
        if (!one) refuse("needs score_threshold, iou_threshold, max_output_boxes and num_pre_nms_predictions");
    for (float threshold : {read.scoreThreshold, read.iouThreshold})
        if (!(std::isfinite(threshold) && threshold >= 0 && threshold <= 1)) refuse("thresholds must be in 0..1");
    if (read.maxOutputBoxes < 1 || read.maxOutputBoxes > kMaxOutputs) refuse("max_output_boxes must be in 1..4096");
    if (read.numPreNmsPredictions < 1 || read.numPreNmsPredictions > kMaxCandidates)
        refuse("num_pre_nms_predictions must be in 1..4096");
    return read;
}

// -1 stands for a dimension that is not known yet, as while the engine is built.
bool agree(int64_t a, int64_t b) { return a == b || a == -1 || b == -1; }

void checkBoxes(const nvinfer1::Dims& boxes, const nvinfer1::Dims& others) {
    const bool shaped = boxes.nbDims == 3 && others.nbDims >= 3 && agree(boxes.d[2], 4) &&
                        agree(boxes.d[0], others.d[0]) && agree(boxes.d[1], others.d[1]);
    if (!shaped) refuse("boxes must be (B, A, 4), scores (B, A, K) and joints (B, A, J, 3)");
    if (boxes.d[1] > kMaxAnchors) refuse("at most 65536 anchors");
}

void checkShapes(Operator kind, const nvinfer1::Dims& boxes, const nvinfer1::Dims& scores,
                 const nvinfer1::Dims& joints) {
    checkBoxes(boxes, scores);
    if (scores.nbDims != 3) refuse("scores must be (B, A, K)");
    if (kind == Operator::kDetections) {
        if (scores.d[2] == 0 || scores.d[2] > kMaxClasses) refuse("1 to 4096 classes");
        return;
    }
    checkBoxes(boxes, joints);
    if (!agree(scores.d[1], joints.d[1]) || !agree(scores.d[0], joints.d[0])) refuse("scores and joints must agree");
    if (!agree(scores.d[2], 1)) refuse("scores of poses must be (B, A, 1)");
    if (joints.nbDims != 4 || !agree(joints.d[3], 3)) refuse("joints must be (B, A, J, 3)");
    if (joints.d[2] > kMaxJoints) refuse("at most 256 joints");
}

template <Operator kKind>
class NmsPlugin final : public nvinfer1::IPluginV3,
                        public nvinfer1::IPluginV3OneCore,
                        public nvinfer1::IPluginV3OneBuild,
                        public nvinfer1::IPluginV3OneRuntime {
    static constexpr bool kPoses = kKind == Operator::kPoses;
    static constexpr int kInputs = inputsOf(kKind);

  public:
    explicit NmsPlugin(const Attributes& attributes) : attributes_(attributes) {}
    NmsPlugin(const NmsPlugin& other) : NmsPlugin(other.attributes_) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {
            case nvinfer1::PluginCapabilityType::kCORE:
                return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD:
                return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME:
                return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override {
        return guarded<nvinfer1::IPluginV3*>("clone", nullptr, [&] { return new NmsPlugin(*this); });
    }

    const char* getPluginName() const noexcept override { return nameOf(kKind); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return kOutputs; }

    int32_t getOutputDataTypes(DataType* outputs, int32_t count, const DataType*,
                               int32_t inputs) const noexcept override {
        if (count != kOutputs || inputs != kInputs) return 1;
        for (int place = 0; place < kOutputs; ++place) outputs[place] = outputType(place);
        return 0;
    }

    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t count, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t outputCount,
                            nvinfer1::IExprBuilder& builder) noexcept override {
        return guarded("getOutputShapes", 1, [&] {
            if (count != kInputs || outputCount != kOutputs) refuse("another number of inputs or outputs");
            if (inputs[0].nbDims != 3 || inputs[kInputs - 1].nbDims != (kPoses ? 4 : 3))
                refuse("another number of dimensions");
            const auto* batch = inputs[0].d[0];
            const auto* limit = builder.constant(attributes_.maxOutputBoxes);
            const auto set = [](nvinfer1::DimsExprs& shape,
                                std::initializer_list<const nvinfer1::IDimensionExpr*> dims) {
                shape.nbDims = 0;
                for (const auto* dim : dims) shape.d[shape.nbDims++] = dim;
            };
            set(outputs[0], {batch, builder.constant(1)});
            set(outputs[1], {batch, limit, builder.constant(4)});
            set(outputs[2], {batch, limit});
            if constexpr (kPoses)
                set(outputs[3], {batch, limit, inputs[2].d[2], builder.constant(3)});
            else
                set(outputs[3], {batch, limit});
            return 0;
        });
    }

    bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t outputs) noexcept override {
        if (inputs != kInputs || outputs != kOutputs || place < 0 || place >= kInputs + kOutputs) return false;
        const auto& tensor = tensors[place].desc;
        return tensor.format == nvinfer1::PluginFormat::kLINEAR &&
               tensor.type == (place < kInputs ? DataType::kFLOAT : outputType(place - kInputs));
    }

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        return guarded("configurePlugin", 1, [&] {
            if (count != kInputs) refuse("another number of inputs");
            checkShapes(kKind, inputs[0].desc.dims, inputs[1].desc.dims, inputs[kInputs - 1].desc.dims);
            return 0;
        });
    }

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t count, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return guarded("onShapeChange", 1, [&] {
            if (count != kInputs) refuse("another number of inputs");
            checkShapes(kKind, inputs[0].dims, inputs[1].dims, inputs[kInputs - 1].dims);
            return 0;
        });
    }

    int32_t enqueue(const nvinfer1::PluginTensorDesc* inputs, const nvinfer1::PluginTensorDesc*,
                    const void* const* data, void* const* out, void*, cudaStream_t stream) noexcept override {
        return guarded("enqueue", 1, [&] {
            const auto& scores = inputs[1].dims;
            PoseNmsParams params{};
            params.boxes = static_cast<const float*>(data[0]);
            params.scores = static_cast<const float*>(data[1]);
            params.numPredictions = static_cast<int*>(out[0]);
            params.predBoxes = static_cast<float*>(out[1]);
            params.predScores = static_cast<float*>(out[2]);
            if constexpr (kPoses) {
                params.joints = static_cast<const float*>(data[2]);
                params.predJoints = static_cast<float*>(out[3]);
                params.jointCount = static_cast<int>(inputs[2].dims.d[2]);
            } else {
                params.predClasses = static_cast<int*>(out[3]);
            }
            params.anchors = static_cast<int>(scores.d[1]);
            params.classes = static_cast<int>(scores.d[2]);
            const int pairs = params.anchors * params.classes;
            params.candidates = attributes_.numPreNmsPredictions < pairs ? attributes_.numPreNmsPredictions : pairs;
            params.limit = attributes_.maxOutputBoxes;
            params.scoreThreshold = attributes_.scoreThreshold;
            params.iouThreshold = attributes_.iouThreshold;
            if (scores.d[0] == 0) return 0;  // no images; CUDA refuses an empty grid
            poseNms<kBlockThreads><<<static_cast<unsigned>(scores.d[0]), kBlockThreads, 0, stream>>>(params);
            const cudaError_t error =
                cudaGetLastError();  // and clears it: the next launch is not to blame for this one
            if (error != cudaSuccess) refuse(cudaGetErrorString(error));
            return 0;
        });
    }

    int32_t setTactic(int32_t) noexcept override { return 0; }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    const PluginFieldCollection* getFieldsToSerialize() noexcept override {
        fields_ = {
            PluginField{"score_threshold", &attributes_.scoreThreshold, PluginFieldType::kFLOAT32, 1},
            PluginField{"iou_threshold", &attributes_.iouThreshold, PluginFieldType::kFLOAT32, 1},
            PluginField{"max_output_boxes", &attributes_.maxOutputBoxes, PluginFieldType::kINT32, 1},
            PluginField{"num_pre_nms_predictions", &attributes_.numPreNmsPredictions, PluginFieldType::kINT32, 1}};
        collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
        return &collection_;
    }

  private:
    // The number of rows is int32, classes too.
    static constexpr DataType outputType(int place) {
        return place == 0 || (place == 3 && !kPoses) ? DataType::kINT32 : DataType::kFLOAT;
    }

    Attributes attributes_;
    std::array<PluginField, 4> fields_;
    PluginFieldCollection collection_{};
};

template <Operator kKind>
class NmsCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    nvinfer1::IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase) noexcept override {
        return guarded<nvinfer1::IPluginV3*>("createPlugin", nullptr, [&]() -> nvinfer1::IPluginV3* {
            if (fields == nullptr) refuse("got no attributes");
            return new NmsPlugin<kKind>(readAttributes(*fields));
        });
    }

    const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return nameOf(kKind); }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    std::array<PluginField, 4> fields_{PluginField{"score_threshold", nullptr, PluginFieldType::kFLOAT32, 1},
                                       PluginField{"iou_threshold", nullptr, PluginFieldType::kFLOAT32, 1},
                                       PluginField{"max_output_boxes", nullptr, PluginFieldType::kINT32, 1},
                                       PluginField{"num_pre_nms_predictions", nullptr, PluginFieldType::kINT32, 1}};
    PluginFieldCollection collection_{static_cast<int32_t>(fields_.size()), fields_.data()};
};

NmsCreator<Operator::kPoses>& poses() {
    static NmsCreator<Operator::kPoses> creator;
    return creator;
}

NmsCreator<Operator::kDetections>& detections() {
    static NmsCreator<Operator::kDetections> creator;
    return creator;
}

// The registry of a TensorRT of another major version has other virtual functions: only that of the headers is called.
#define TRT_POSE_TEXT(macro) TRT_POSE_WORD(macro)
#define TRT_POSE_WORD(word) #word
#define TRT_POSE_MAJOR TRT_POSE_TEXT(NV_TENSORRT_MAJOR)

// Triton, DeepStream and LD_PRELOAD only open a library. So it registers itself in the TensorRT that is loaded then.
class SelfRegistration {
  public:
    SelfRegistration() {
        for (const char* name : {"libnvinfer.so." TRT_POSE_MAJOR, "libnvinfer_lean.so." TRT_POSE_MAJOR,
                                 "libnvinfer_dispatch.so." TRT_POSE_MAJOR, "libtensorrt_rtx.so." TRT_POSE_MAJOR})
            if (registerWith(name)) return;
    }

    // IPluginRegistry::loadLibrary opens the library, too, and then registers the creators itself: they must be new.
    void undo() {
        if (registry_ == nullptr) return;
        registry_->deregisterCreator(poses());
        registry_->deregisterCreator(detections());
        registry_ = nullptr;
    }

  private:
    bool registerWith(const char* name) {
        void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);  // loads nothing
        if (library == nullptr) return false;
        const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
        const auto get = reinterpret_cast<nvinfer1::IPluginRegistry* (*)()>(dlsym(library, "getPluginRegistry"));
        dlclose(library);  // one of the two references
        if (version == nullptr || get == nullptr || version() / 10000 != NV_TENSORRT_MAJOR) return false;
        auto* registry = get();
        if (registry == nullptr || registry->getCreator(nameOf(Operator::kPoses), kVersion, kNamespace) != nullptr)
            return false;
        if (registry->registerCreator(poses(), kNamespace) && registry->registerCreator(detections(), kNamespace))
            registry_ = registry;
        return registry_ != nullptr;
    }

    nvinfer1::IPluginRegistry* registry_ = nullptr;
};

SelfRegistration selfRegistration;

}  // namespace
}  // namespace trt_pose

#define TRT_POSE_EXPORT extern "C" __attribute__((visibility("default")))

// What IPluginRegistry::loadLibrary and trtexec's --dynamicPlugins look for.
TRT_POSE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&trt_pose::poses(), &trt_pose::detections()};
    trt_pose::selfRegistration.undo();
    count = 2;
    return creators;
}

// Required beside getCreators; this library logs nothing.
TRT_POSE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}
