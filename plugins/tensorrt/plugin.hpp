// A TensorRT plugin and its creator around an operator, which says its name, attributes, shapes and launch. Compiled as
// CUDA.
//
// An operator is a class with
//   kName, kInputs, kOutputs
//   explicit Operator(const PluginFieldCollection&)  reads its attributes; refuses those that are missing or wrong
//   static std::vector<PluginField> fieldNames()     its attributes, without values
//   std::vector<PluginField> fields() const          the same with values, which belong to the operator
//   static DataType outputType(int place)
//   static void check(const nvinfer1::Dims* inputs)  refuses shapes that it does not take; -1 is an unknown size
//   void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder&) const
//   void launch(const nvinfer1::Dims* inputs, const void* const* data, void* const* out, cudaStream_t stream) const
// Its inputs are FP32. What it refuses is an exception.
#pragma once

#include <NvInferRuntime.h>
#include <NvInferRuntimePlugin.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

namespace trt_pose {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

constexpr char kVersion[] = "1";
constexpr char kNamespace[] = "";

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

// The value of a field that holds one number.
template <class T>
T scalar(const PluginField& field, PluginFieldType type) {
    if (field.type != type || field.length != 1 || field.data == nullptr)
        refuse(std::string(field.name) + " must be one " + (type == PluginFieldType::kFLOAT32 ? "float" : "int32"));
    T value;
    std::memcpy(&value, field.data, sizeof value);
    return value;
}

// -1 stands for a dimension that is not known yet, as while the engine is built.
inline bool agree(int64_t a, int64_t b) { return a == b || a == -1 || b == -1; }

inline void setShape(nvinfer1::DimsExprs& shape, std::initializer_list<const nvinfer1::IDimensionExpr*> dims) {
    shape.nbDims = 0;
    for (const auto* dim : dims) shape.d[shape.nbDims++] = dim;
}

inline void checkLaunch() {
    const cudaError_t error = cudaGetLastError();  // and clears it: the next launch is not to blame for this one
    if (error != cudaSuccess) refuse(cudaGetErrorString(error));
}

template <class Operator>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
    static constexpr int kInputs = Operator::kInputs;
    static constexpr int kOutputs = Operator::kOutputs;
    using Shapes = std::array<nvinfer1::Dims, kInputs>;

  public:
    explicit Plugin(const Operator& made) : operator_(made) {}
    Plugin(const Plugin& other) : Plugin(other.operator_) {}

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
        return guarded<nvinfer1::IPluginV3*>("clone", nullptr, [&] { return new Plugin(*this); });
    }

    const char* getPluginName() const noexcept override { return Operator::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    int32_t getNbOutputs() const noexcept override { return kOutputs; }

    int32_t getOutputDataTypes(DataType* outputs, int32_t count, const DataType*,
                               int32_t inputs) const noexcept override {
        if (count != kOutputs || inputs != kInputs) return 1;
        for (int place = 0; place < kOutputs; ++place) outputs[place] = Operator::outputType(place);
        return 0;
    }

    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t count, const nvinfer1::DimsExprs*, int32_t,
                            nvinfer1::DimsExprs* outputs, int32_t outputCount,
                            nvinfer1::IExprBuilder& builder) noexcept override {
        return guarded("getOutputShapes", 1, [&] {
            if (count != kInputs || outputCount != kOutputs) refuse("another number of inputs or outputs");
            operator_.outputShapes(inputs, outputs, builder);
            return 0;
        });
    }

    bool supportsFormatCombination(int32_t place, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t outputs) noexcept override {
        if (inputs != kInputs || outputs != kOutputs || place < 0 || place >= kInputs + kOutputs) return false;
        const auto& tensor = tensors[place].desc;
        return tensor.format == nvinfer1::PluginFormat::kLINEAR &&
               tensor.type == (place < kInputs ? DataType::kFLOAT : Operator::outputType(place - kInputs));
    }

    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override {
        return guarded("configurePlugin", 1, [&] {
            if (count != kInputs) refuse("another number of inputs");
            Operator::check(shapesOf(inputs).data());
            return 0;
        });
    }

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t count, const nvinfer1::PluginTensorDesc*,
                          int32_t) noexcept override {
        return guarded("onShapeChange", 1, [&] {
            if (count != kInputs) refuse("another number of inputs");
            Operator::check(shapesOf(inputs).data());
            return 0;
        });
    }

    int32_t enqueue(const nvinfer1::PluginTensorDesc* inputs, const nvinfer1::PluginTensorDesc*,
                    const void* const* data, void* const* out, void*, cudaStream_t stream) noexcept override {
        return guarded("enqueue", 1, [&] {
            operator_.launch(shapesOf(inputs).data(), data, out, stream);
            checkLaunch();
            return 0;
        });
    }

    int32_t setTactic(int32_t) noexcept override { return 0; }

    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

    const PluginFieldCollection* getFieldsToSerialize() noexcept override {
        return guarded<const PluginFieldCollection*>("getFieldsToSerialize", nullptr, [&] {
            fields_ = operator_.fields();
            collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
            return &collection_;
        });
    }

  private:
    static const nvinfer1::Dims& dimsOf(const nvinfer1::PluginTensorDesc& tensor) { return tensor.dims; }
    static const nvinfer1::Dims& dimsOf(const nvinfer1::DynamicPluginTensorDesc& tensor) { return tensor.desc.dims; }

    template <class Tensor>
    static Shapes shapesOf(const Tensor* inputs) {
        Shapes shapes;
        for (int place = 0; place < kInputs; ++place) shapes[place] = dimsOf(inputs[place]);
        return shapes;
    }

    Operator operator_;
    std::vector<PluginField> fields_;
    PluginFieldCollection collection_{};
};

template <class Operator>
class Creator final : public nvinfer1::IPluginCreatorV3One {
  public:
    nvinfer1::IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase) noexcept override {
        return guarded<nvinfer1::IPluginV3*>("createPlugin", nullptr, [&]() -> nvinfer1::IPluginV3* {
            if (fields == nullptr) refuse("got no attributes");
            return new Plugin<Operator>(Operator(*fields));
        });
    }

    const PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return Operator::kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    std::vector<PluginField> fields_ = Operator::fieldNames();
    PluginFieldCollection collection_{static_cast<int32_t>(fields_.size()), fields_.data()};
};

}  // namespace
}  // namespace trt_pose
