// The plugins without a GPU: creators, attributes, shapes, formats, serialization. Loads the library as TensorRT does,
// through getCreators.
#include <NvInferRuntime.h>
#include <NvInferRuntimePlugin.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

int failures = 0;

void check(bool good, const char* what, int line) {
    if (good) return;
    std::printf("line %d: %s\n", line, what);
    ++failures;
}
#define CHECK(condition) check((condition), #condition, __LINE__)

struct Values {
    float score = 0.25f, iou = 0.7f;
    int32_t outputs = 100, candidates = 1000;
};

std::vector<PluginField> fieldsOf(const Values& values) {
    return {{"score_threshold", &values.score, PluginFieldType::kFLOAT32, 1},
            {"iou_threshold", &values.iou, PluginFieldType::kFLOAT32, 1},
            {"max_output_boxes", &values.outputs, PluginFieldType::kINT32, 1},
            {"num_pre_nms_predictions", &values.candidates, PluginFieldType::kINT32, 1}};
}

std::unique_ptr<IPluginV3> create(IPluginCreatorV3One& creator, std::vector<PluginField> fields) {
    const PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
    return std::unique_ptr<IPluginV3>(creator.createPlugin("nms", &collection, TensorRTPhase::kBUILD));
}

// Dimensions as plain numbers: TensorRT's own expressions live in its builder.
struct Number final : IDimensionExpr {
    struct Value final : apiv::VDimensionExpr {
        bool isConstant() const noexcept { return true; }
        int64_t getConstantValue() const noexcept { return value; }
        bool isSizeTensor() const noexcept { return false; }
        int64_t value = 0;
    } content;
    explicit Number(int64_t value) {
        content.value = value;
        mImpl = &content;
    }
    ~Number() noexcept override = default;
};

struct Numbers final : IExprBuilder {
    struct Maker final : apiv::VExprBuilder {
        const IDimensionExpr* constant(int64_t value) noexcept {
            made.push_back(std::make_unique<Number>(value));
            return made.back().get();
        }
        const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr& a, const IDimensionExpr&) noexcept {
            return &a;
        }
        const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr& a, const IDimensionExpr&) noexcept {
            return &a;
        }
        std::vector<std::unique_ptr<Number>> made;
    } maker;
    Numbers() { mImpl = &maker; }
    ~Numbers() noexcept override = default;
};

DynamicPluginTensorDesc tensor(DataType type, std::vector<int64_t> shape, TensorFormat format = TensorFormat::kLINEAR) {
    DynamicPluginTensorDesc description{};
    description.desc.type = type;
    description.desc.format = format;
    description.desc.dims.nbDims = static_cast<int32_t>(shape.size());
    for (std::size_t i = 0; i < shape.size(); ++i) description.desc.dims.d[i] = shape[i];
    return description;
}

std::vector<DynamicPluginTensorDesc> detectionTensors(int64_t batch = 2, int64_t anchors = 8400, int64_t classes = 80) {
    return {tensor(DataType::kFLOAT, {batch, anchors, 4}), tensor(DataType::kFLOAT, {batch, anchors, classes}),
            tensor(DataType::kINT32, {batch, 1}),          tensor(DataType::kFLOAT, {batch, 100, 4}),
            tensor(DataType::kFLOAT, {batch, 100}),        tensor(DataType::kINT32, {batch, 100})};
}

std::vector<DynamicPluginTensorDesc> tensors(int64_t batch = 2, int64_t anchors = 8400, int64_t joints = 17) {
    return {tensor(DataType::kFLOAT, {batch, anchors, 4}),
            tensor(DataType::kFLOAT, {batch, anchors, 1}),
            tensor(DataType::kFLOAT, {batch, anchors, joints, 3}),
            tensor(DataType::kINT32, {batch, 1}),
            tensor(DataType::kFLOAT, {batch, 100, 4}),
            tensor(DataType::kFLOAT, {batch, 100}),
            tensor(DataType::kFLOAT, {batch, 100, joints, 3})};
}

template <class T>
T* capability(IPluginV3& plugin, PluginCapabilityType type) {
    return static_cast<T*>(plugin.getCapabilityInterface(type));
}

std::vector<DynamicPluginTensorDesc> heatmapTensors(int64_t rows = 20, int64_t joints = 17, int64_t size = 56) {
    return {tensor(DataType::kFLOAT, {rows, joints, size, size}), tensor(DataType::kFLOAT, {rows, 4}),
            tensor(DataType::kFLOAT, {rows, joints, 3})};
}

void testCreator(IPluginCreatorV3One& creator, const char* name, int attributes = 4) {
    CHECK(std::string(creator.getPluginName()) == name);
    CHECK(std::string(creator.getPluginVersion()) == "1");
    CHECK(std::string(creator.getPluginNamespace()).empty());
    CHECK(creator.getFieldNames()->nbFields == attributes);
    if (attributes == 4) CHECK(std::string(creator.getFieldNames()->fields[3].name) == "num_pre_nms_predictions");
}

void testBadAttributes(IPluginCreatorV3One& creator) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const Values& bad :
         {Values{-0.1f}, Values{1.1f}, Values{nan}, Values{0.2f, -1.0f}, Values{0.2f, 2.0f}, Values{0.2f, 0.7f, 0},
          Values{0.2f, 0.7f, 4097}, Values{0.2f, 0.7f, 100, 0}, Values{0.2f, 0.7f, 100, 4097}})
        CHECK(create(creator, fieldsOf(bad)) == nullptr);
    const Values good;
    for (int missing = 0; missing < 4; ++missing) {
        auto fields = fieldsOf(good);
        fields.erase(fields.begin() + missing);
        CHECK(create(creator, fields) == nullptr);
    }
    auto wrongType = fieldsOf(good);
    wrongType[0].type = PluginFieldType::kINT32;
    CHECK(create(creator, wrongType) == nullptr);
    auto wrongLength = fieldsOf(good);
    wrongLength[2].length = 2;
    CHECK(create(creator, wrongLength) == nullptr);
    CHECK(creator.createPlugin("nms", nullptr, TensorRTPhase::kBUILD) == nullptr);
    auto more = fieldsOf(good);  // attributes of the ONNX node that are not the operator's
    more.push_back({"plugin_version", "1", PluginFieldType::kCHAR, 1});
    CHECK(create(creator, more) != nullptr);
}

void testFormats(IPluginV3OneBuild& build) {
    CHECK(build.getNbOutputs() == 4);
    const auto good = tensors();
    for (int place = 0; place < 7; ++place) {
        CHECK(build.supportsFormatCombination(place, good.data(), 3, 4));
        auto half = good;
        half[place].desc.type = DataType::kHALF;
        CHECK(!build.supportsFormatCombination(place, half.data(), 3, 4));
        auto packed = good;
        packed[place].desc.format = TensorFormat::kCHW32;
        CHECK(!build.supportsFormatCombination(place, packed.data(), 3, 4));
    }
    CHECK(!build.supportsFormatCombination(0, good.data(), 2, 4));
    DataType types[4], inputs[3] = {DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    CHECK(build.getOutputDataTypes(types, 4, inputs, 3) == 0);
    CHECK(types[0] == DataType::kINT32 && types[1] == DataType::kFLOAT && types[3] == DataType::kFLOAT);
    CHECK(build.getOutputDataTypes(types, 3, inputs, 3) != 0);
    CHECK(build.getWorkspaceSize(good.data(), 3, good.data() + 3, 4) == 0);
}

// Whether a plugin takes tensors of these shapes, of which the first are its inputs; building and running must agree.
bool takes(IPluginV3OneBuild& build, IPluginV3OneRuntime& runtime, const std::vector<DynamicPluginTensorDesc>& all,
           int inputs) {
    const int outputs = static_cast<int>(all.size()) - inputs;
    std::vector<PluginTensorDesc> fixed;
    for (const auto& one : all) fixed.push_back(one.desc);
    const bool configured = build.configurePlugin(all.data(), inputs, all.data() + inputs, outputs) == 0;
    CHECK(configured == (runtime.onShapeChange(fixed.data(), inputs, fixed.data() + inputs, outputs) == 0));
    return configured;
}

void testShapes(IPluginV3OneBuild& build, IPluginV3OneRuntime& runtime) {
    const auto accepts = [&](const auto& all) { return takes(build, runtime, all, 3); };
    CHECK(accepts(tensors()));
    CHECK(accepts(tensors(-1)));
    CHECK(accepts(tensors(64, 65536, 256)));
    CHECK(!accepts(tensors(1, 65537)));
    CHECK(!accepts(tensors(1, 100, 257)));
    auto unknown = tensors(-1);
    unknown[0].desc.dims.d[1] = -1;
    unknown[0].desc.dims.d[2] = -1;
    CHECK(accepts(unknown));
    auto batches = tensors();
    batches[0].desc.dims.d[0] = 1;
    CHECK(!accepts(batches));
    auto boxes = tensors();
    boxes[0].desc.dims.d[2] = 5;
    CHECK(!accepts(boxes));
    auto scores = tensors();
    scores[1].desc.dims.d[1] = 100;
    CHECK(!accepts(scores));
    auto joints = tensors();
    joints[2].desc.dims.nbDims = 3;
    CHECK(!accepts(joints));
}

void testOutputShapes(IPluginV3OneBuild& build) {
    Numbers numbers;
    DimsExprs inputs[3], outputs[4];
    const std::vector<std::vector<int64_t>> shapes{{5, 8400, 4}, {5, 8400, 1}, {5, 8400, 17, 3}};
    for (int i = 0; i < 3; ++i) {
        inputs[i].nbDims = static_cast<int32_t>(shapes[i].size());
        for (std::size_t d = 0; d < shapes[i].size(); ++d) inputs[i].d[d] = numbers.constant(shapes[i][d]);
    }
    CHECK(build.getOutputShapes(inputs, 3, nullptr, 0, outputs, 4, numbers) == 0);
    const std::vector<std::vector<int64_t>> wanted{{5, 1}, {5, 100, 4}, {5, 100}, {5, 100, 17, 3}};
    for (int i = 0; i < 4; ++i) {
        std::vector<int64_t> shape;
        for (int d = 0; d < outputs[i].nbDims; ++d) shape.push_back(outputs[i].d[d]->getConstantValue());
        CHECK(shape == wanted[i]);
    }
    CHECK(build.getOutputShapes(inputs, 2, nullptr, 0, outputs, 4, numbers) != 0);
}

void testDetections(IPluginCreatorV3One& creator) {
    const Values values;
    auto plugin = create(creator, fieldsOf(values));
    CHECK(plugin != nullptr);
    if (!plugin) return;
    auto& build = *capability<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
    auto& runtime = *capability<IPluginV3OneRuntime>(*plugin, PluginCapabilityType::kRUNTIME);
    const auto good = detectionTensors();
    for (int place = 0; place < 6; ++place) {
        CHECK(build.supportsFormatCombination(place, good.data(), 2, 4));
        auto half = good;
        half[place].desc.type = DataType::kHALF;
        CHECK(!build.supportsFormatCombination(place, half.data(), 2, 4));
    }
    DataType types[4], inputs[2] = {DataType::kFLOAT, DataType::kFLOAT};
    CHECK(build.getOutputDataTypes(types, 4, inputs, 2) == 0);
    CHECK(types[0] == DataType::kINT32 && types[2] == DataType::kFLOAT && types[3] == DataType::kINT32);
    const auto accepts = [&](const auto& all) { return takes(build, runtime, all, 2); };
    CHECK(accepts(detectionTensors()));
    CHECK(accepts(detectionTensors(-1, 65536, 4096)));
    CHECK(!accepts(detectionTensors(1, 65537)));
    CHECK(!accepts(detectionTensors(1, 100, 4097)));
    auto scores = detectionTensors();
    scores[1].desc.dims.d[1] = 100;
    CHECK(!accepts(scores));
    Numbers numbers;
    DimsExprs shapes[2], outputs[4];
    for (int i = 0; i < 2; ++i) {
        shapes[i].nbDims = 3;
        for (int d = 0; d < 3; ++d) shapes[i].d[d] = numbers.constant(good[i].desc.dims.d[d]);
    }
    CHECK(build.getOutputShapes(shapes, 2, nullptr, 0, outputs, 4, numbers) == 0);
    CHECK(outputs[3].nbDims == 2 && outputs[3].d[1]->getConstantValue() == 100);
    CHECK(build.getOutputShapes(shapes, 3, nullptr, 0, outputs, 4, numbers) != 0);
}

void testKeypoints(IPluginCreatorV3One& creator) {
    auto plugin = create(creator, {});
    CHECK(plugin != nullptr);
    if (!plugin) return;
    auto& build = *capability<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
    auto& runtime = *capability<IPluginV3OneRuntime>(*plugin, PluginCapabilityType::kRUNTIME);
    CHECK(build.getNbOutputs() == 1);
    const auto good = heatmapTensors();
    for (int place = 0; place < 3; ++place) {
        CHECK(build.supportsFormatCombination(place, good.data(), 2, 1));
        auto half = good;
        half[place].desc.type = DataType::kHALF;
        CHECK(!build.supportsFormatCombination(place, half.data(), 2, 1));
    }
    const auto accepts = [&](const auto& all) { return takes(build, runtime, all, 2); };
    CHECK(accepts(heatmapTensors()));
    CHECK(accepts(heatmapTensors(-1)));
    CHECK(accepts(heatmapTensors(65535, 300, 64)));
    CHECK(!accepts(heatmapTensors(65536)));
    CHECK(!accepts(heatmapTensors(20, 17, 65)));
    CHECK(!accepts(heatmapTensors(20, 17, 0)));
    auto oblong = heatmapTensors();
    oblong[0].desc.dims.d[3] = 28;
    CHECK(!accepts(oblong));
    auto boxes = heatmapTensors();
    boxes[1].desc.dims.d[0] = 19;
    CHECK(!accepts(boxes));
    auto five = heatmapTensors();
    five[1].desc.dims.d[1] = 5;
    CHECK(!accepts(five));
    auto flat = heatmapTensors();
    flat[0].desc.dims.nbDims = 3;
    CHECK(!accepts(flat));
    Numbers numbers;
    DimsExprs shapes[2], outputs[1];
    for (int i = 0; i < 2; ++i) {
        shapes[i].nbDims = good[i].desc.dims.nbDims;
        for (int d = 0; d < shapes[i].nbDims; ++d) shapes[i].d[d] = numbers.constant(good[i].desc.dims.d[d]);
    }
    CHECK(build.getOutputShapes(shapes, 2, nullptr, 0, outputs, 1, numbers) == 0);
    CHECK(outputs[0].nbDims == 3 && outputs[0].d[1]->getConstantValue() == 17);
    CHECK(outputs[0].d[0]->getConstantValue() == 20 && outputs[0].d[2]->getConstantValue() == 3);
}

void testSerialization(IPluginCreatorV3One& creator, IPluginV3& plugin, int attributes = 4) {
    auto* runtime = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
    const auto* saved = runtime->getFieldsToSerialize();
    CHECK(saved->nbFields == attributes);
    // As an engine file does: the bytes survive, the plugin that wrote them does not.
    std::vector<std::vector<char>> bytes;
    std::vector<PluginField> fields(saved->fields, saved->fields + saved->nbFields);
    for (auto& field : fields) {
        const auto* data = static_cast<const char*>(field.data);
        bytes.emplace_back(data, data + 4);
    }
    for (std::size_t i = 0; i < fields.size(); ++i) fields[i].data = bytes[i].data();
    auto loaded = create(creator, fields);
    CHECK(loaded != nullptr);
    const auto* again =
        capability<IPluginV3OneRuntime>(*loaded, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize();
    for (int i = 0; i < attributes; ++i) CHECK(std::memcmp(again->fields[i].data, bytes[i].data(), 4) == 0);
    std::unique_ptr<IPluginV3> copy(plugin.clone());
    CHECK(copy != nullptr && copy.get() != &plugin);
    std::unique_ptr<IPluginV3> attached(runtime->attachToContext(nullptr));
    CHECK(attached != nullptr && attached.get() != &plugin);
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) return std::puts("usage: plugin_library_test LIBRARY"), 2;
    void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) return std::printf("%s\n", dlerror()), 1;
    const auto getCreators =
        reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    CHECK(getCreators != nullptr);
    CHECK(dlsym(library, "setLoggerFinder") != nullptr);
    CHECK(dlsym(library, "cudaLaunchKernel") == nullptr);  // its CUDA runtime is nobody else's
    if (!getCreators) return 1;
    int32_t creators = 0;
    auto* creator = static_cast<IPluginCreatorV3One*>(getCreators(creators)[0]);
    CHECK(creators == 3);
    auto* detections = static_cast<IPluginCreatorV3One*>(getCreators(creators)[1]);
    auto* keypoints = static_cast<IPluginCreatorV3One*>(getCreators(creators)[2]);
    testCreator(*creator, "PoseNMS_TRT");
    testCreator(*detections, "DetectionNMS_TRT");
    testCreator(*keypoints, "KeypointDecode_TRT", 0);
    testBadAttributes(*creator);
    testDetections(*detections);
    testKeypoints(*keypoints);
    const Values values;
    auto plugin = create(*creator, fieldsOf(values));
    CHECK(plugin != nullptr);
    if (!plugin) return 1;
    auto* core = capability<IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE);
    CHECK(std::string(core->getPluginName()) == "PoseNMS_TRT");
    auto* build = capability<IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
    auto* runtime = capability<IPluginV3OneRuntime>(*plugin, PluginCapabilityType::kRUNTIME);
    testFormats(*build);
    testShapes(*build, *runtime);
    testOutputShapes(*build);
    testSerialization(*creator, *plugin);
    testSerialization(*detections, *create(*detections, fieldsOf(values)));
    testSerialization(*keypoints, *create(*keypoints, {}), 0);
    std::printf("%d failures\n", failures);
    return failures != 0;
}
