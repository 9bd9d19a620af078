// The description of a model, the letterbox of an image and what an engine found in it, in standard C++17.
//
// Needs nlohmann-json and nothing else: no CUDA, no TensorRT. Its letterbox and results equal those of the Python
// package byte for byte (tests/plugins/test_core.py).
#pragma once

#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "frames.cuh"

namespace trt_pose {

// Every error of the runtime: what was done, what was found, what to do.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// An image in memory: RGB bytes, rows `pitch` bytes apart.
struct ImageView {
    const std::uint8_t* data = nullptr;
    int width = 0, height = 0;
    int pitch = 0;  // 0: no gaps between rows

    int rowBytes() const { return pitch ? pitch : 3 * width; }
};

// How an image becomes the network input: InputSpec of the Python package.
struct InputSpec {
    std::string name = "input";
    std::optional<int> batch = 1;  // none: symbolic
    int height = 640, width = 640, channels = 3;
    std::string dtype = "uint8";
    std::string resize = "longest_side";
    int resizeHeight = 640, resizeWidth = 640;
    std::string padding = "bottom_right";
    int padValue = 127;
    bool normalizedInGraph = true, customPreprocessing = false;
    int white = 255;

    std::size_t elements() const { return static_cast<std::size_t>(channels) * height * width; }
    std::size_t bytesPerElement() const { return dtype == "uint8" ? 1 : dtype == "float16" ? 2 : 4; }
};

struct OutputSpec {
    std::string format = "batch";
    std::vector<std::string> names;
    float confidenceThreshold = 0;
    int maxPredictionsPerImage = 0;
};

struct ModelSpec {
    std::string model, task = "pose", precision = "fp32";
    InputSpec input;
    OutputSpec output;
    std::vector<std::string> jointNames, classNames, pluginsRequired;
    std::vector<std::pair<int, int>> edges;
    std::vector<float> sigmas;

    int jointCount() const { return static_cast<int>(jointNames.size()); }
};

// What lies beside an engine, in engine + ".json".
struct Sidecar {
    ModelSpec spec;
    std::string flavor, flavorVersion, engineSha256;
    std::vector<std::string> plugins;
    bool versionCompatible = false, stripWeights = false;
};

struct Joint {
    float x, y, confidence;
};

// One person: a box and joints in px of the source image, never clipped to it.
struct Pose {
    float x1, y1, x2, y2, score;
    std::vector<Joint> joints;
};

// One object of a detection model.
struct Detection {
    float x1, y1, x2, y2, score;
    int classIndex;
};

namespace detail {

constexpr int kSidecarVersion = 1, kSpecVersion = 1;

inline InputSpec readInput(const nlohmann::json& record) {
    InputSpec input;
    input.name = record.at("name").get<std::string>();
    const auto& batch = record.at("batch");
    input.batch = batch.is_null() ? std::nullopt : std::optional<int>(batch.get<int>());
    input.height = record.at("height").get<int>();
    input.width = record.at("width").get<int>();
    input.channels = record.at("channels").get<int>();
    input.dtype = record.at("dtype").get<std::string>();
    input.resize = record.at("resize").get<std::string>();
    input.resizeHeight = record.at("resize_to").at(0).get<int>();
    input.resizeWidth = record.at("resize_to").at(1).get<int>();
    input.padding = record.at("padding").get<std::string>();
    input.padValue = record.at("pad_value").get<int>();
    input.normalizedInGraph = record.at("normalized_in_graph").get<bool>();
    input.customPreprocessing = record.value("custom_preprocessing", false);
    input.white = record.value("white", 255);
    return input;
}

inline ModelSpec readSpec(const nlohmann::json& record) {
    if (record.at("version").get<int>() > kSpecVersion) throw Error("a newer description. Upgrade trt_pose.");
    ModelSpec spec;
    spec.model = record.at("model").get<std::string>();
    spec.task = record.at("task").get<std::string>();
    spec.precision = record.at("precision").get<std::string>();
    spec.input = readInput(record.at("input"));
    const auto& output = record.at("output");
    spec.output.format = output.at("format").get<std::string>();
    spec.output.names = output.at("names").get<std::vector<std::string>>();
    if (!output.at("confidence_threshold").is_null())
        spec.output.confidenceThreshold = output.at("confidence_threshold").get<float>();
    if (!output.at("max_predictions_per_image").is_null())
        spec.output.maxPredictionsPerImage = output.at("max_predictions_per_image").get<int>();
    const auto& skeleton = record.at("skeleton");
    spec.jointNames = skeleton.at("names").get<std::vector<std::string>>();
    spec.edges = skeleton.at("edges").get<std::vector<std::pair<int, int>>>();
    spec.sigmas = skeleton.at("sigmas").get<std::vector<float>>();
    spec.classNames = record.at("class_names").get<std::vector<std::string>>();
    spec.pluginsRequired = record.at("plugins_required").get<std::vector<std::string>>();
    return spec;
}

}  // namespace detail

// The description beside `engine`. Throws Error when it is missing, damaged or newer.
inline Sidecar readSidecar(const std::string& engine) {
    const std::string path = engine + ".json";
    std::ifstream file(path);
    if (!file)
        throw Error(
            "reading " + path +
            ": there is no description beside the engine. Build it with trt-pose build, or copy the .json along "
            "with it.");
    try {
        const auto record = nlohmann::json::parse(file);
        if (record.at("trt_pose_engine").get<int>() > detail::kSidecarVersion)
            throw Error("a newer version. Upgrade trt_pose.");
        Sidecar sidecar;
        sidecar.spec = detail::readSpec(record.at("spec"));
        sidecar.flavor = record.at("flavor").get<std::string>();
        sidecar.flavorVersion = record.at("flavor_version").get<std::string>();
        sidecar.engineSha256 = record.at("engine_sha256").get<std::string>();
        sidecar.plugins = record.value("plugins", std::vector<std::string>{});
        if (record.contains("options")) {
            sidecar.versionCompatible = record["options"].value("version_compatible", false);
            sidecar.stripWeights = record["options"].value("strip_weights", false);
        }
        return sidecar;
    } catch (const Error& error) {
        throw Error("reading " + path + ": " + error.what());
    } catch (const nlohmann::json::exception& error) {
        throw Error("reading " + path + ": not a description of an engine (" + error.what() + "). Build it again.");
    }
}

// Where an image comes to lie in the network input.
struct Placed {
    int newWidth, newHeight, left, top;
    double scaleX, scaleY;
};

// Throws Error for an image without pixels.
inline Placed placeImage(int width, int height, const InputSpec& input) {
    if (width < 1 || height < 1) throw Error("placing an image: it has no pixels. Check where it came from.");
    Placed placed{};
    if (input.resize == "stretch") {
        placed.newWidth = input.resizeWidth;
        placed.newHeight = input.resizeHeight;
        placed.scaleX = static_cast<double>(placed.newWidth) / width;
        placed.scaleY = static_cast<double>(placed.newHeight) / height;
    } else if (input.resize == "longest_side") {
        const double scale =
            std::min(static_cast<double>(input.resizeHeight) / height, static_cast<double>(input.resizeWidth) / width);
        placed.scaleX = placed.scaleY = scale;
        placed.newWidth = std::max(static_cast<int>(std::nearbyint(width * scale)), 1);  // half to even
        placed.newHeight = std::max(static_cast<int>(std::nearbyint(height * scale)), 1);
    } else {
        throw Error("placing an image: the resize policy " + input.resize + " is for ONNX Runtime. Use Python.");
    }
    if (input.padding == "center") {
        placed.left = (input.width - placed.newWidth) / 2;
        placed.top = (input.height - placed.newHeight) / 2;
    }
    return placed;
}

// Writes (3, height, width) elements of the input's type to `target`. Throws Error for a type it does not write.
inline Placed letterbox(const ImageView& image, const InputSpec& input, void* target) {
    if (input.channels != 3 || (input.dtype != "uint8" && input.dtype != "float32"))
        throw Error("filling the input: got " + input.dtype +
                    ", expected uint8 or float32 of three channels. Export the "
                    "model again.");
    const Placed placed = placeImage(image.width, image.height, input);
    Frame frame{};
    frame.source = image.data;
    frame.stepX = stepOf(image.width, placed.newWidth);
    frame.stepY = stepOf(image.height, placed.newHeight);
    frame.sourceWidth = image.width;
    frame.sourceHeight = image.height;
    frame.sourcePitch = image.rowBytes();
    frame.newWidth = placed.newWidth;
    frame.newHeight = placed.newHeight;
    frame.left = placed.left;
    frame.top = placed.top;
    const LetterboxParams params{&frame,
                                 target,
                                 input.width,
                                 input.height,
                                 input.padValue,
                                 input.dtype != "uint8",
                                 static_cast<float>(input.white / 255.0)};
    std::vector<Tap> columns;
    for (int x = 0; x < input.width; ++x) columns.push_back(columnTap(frame, x));
    for (int y = 0; y < input.height; ++y) {
        const Tap row = rowTap(frame, y);
        for (int x = 0; x < input.width; ++x)
            letterboxPixel(params, 0, x, y, columns[static_cast<std::size_t>(x)], row);
    }
    return placed;
}

// The outputs of a batch in batch format, on the CPU; joints or classes, whichever the model has.
struct BatchOutputs {
    const std::int32_t* counts = nullptr;
    const float* boxes = nullptr;
    const float* scores = nullptr;
    const float* joints = nullptr;
    const std::int32_t* classes = nullptr;
    int limit = 0;  // rows per image
};

namespace detail {

struct Row {
    float x1, y1, x2, y2, score;
    std::size_t index;
};

inline float undone(float value, int offset, double scale) {
    return (value - static_cast<float>(offset)) / static_cast<float>(scale);
}

// Rows of one image above the threshold, boxes in px of the source image.
inline std::vector<Row> readRows(const BatchOutputs& outputs, int image, const Placed& placed, float threshold) {
    std::vector<Row> rows;
    const int count = std::min(outputs.counts[image], outputs.limit);
    for (int i = 0; i < count; ++i) {
        const std::size_t index = static_cast<std::size_t>(image) * outputs.limit + i;
        if (!(outputs.scores[index] > threshold)) continue;
        const float* box = outputs.boxes + index * 4;
        rows.push_back({undone(box[0], placed.left, placed.scaleX), undone(box[1], placed.top, placed.scaleY),
                        undone(box[2], placed.left, placed.scaleX), undone(box[3], placed.top, placed.scaleY),
                        outputs.scores[index], index});
    }
    return rows;
}

}  // namespace detail

// People of one image of a batch, best first.
inline std::vector<Pose> readPoses(const BatchOutputs& outputs, int image, const Placed& placed, int jointCount,
                                   float threshold = 0) {
    std::vector<Pose> poses;
    for (const auto& row : detail::readRows(outputs, image, placed, threshold)) {
        Pose pose{row.x1, row.y1, row.x2, row.y2, row.score, {}};
        const float* joints = outputs.joints + row.index * 3 * jointCount;
        for (int j = 0; j < jointCount; ++j)
            pose.joints.push_back({detail::undone(joints[3 * j], placed.left, placed.scaleX),
                                   detail::undone(joints[3 * j + 1], placed.top, placed.scaleY), joints[3 * j + 2]});
        poses.push_back(std::move(pose));
    }
    return poses;
}

// Objects of one image of a batch, best first.
inline std::vector<Detection> readDetections(const BatchOutputs& outputs, int image, const Placed& placed,
                                             float threshold = 0) {
    std::vector<Detection> found;
    for (const auto& row : detail::readRows(outputs, image, placed, threshold))
        found.push_back({row.x1, row.y1, row.x2, row.y2, row.score, outputs.classes[row.index]});
    return found;
}

namespace detail {

inline nlohmann::json boxJson(float x1, float y1, float x2, float y2) {
    return {{"x1", x1}, {"y1", y1}, {"x2", x2}, {"y2", y2}};
}

}  // namespace detail

// As `poses.to_dicts()` of the Python package gives them.
inline nlohmann::json toJson(const std::vector<Pose>& poses, const ModelSpec& spec) {
    auto people = nlohmann::json::array();
    for (const auto& pose : poses) {
        auto joints = nlohmann::json::object();
        for (std::size_t j = 0; j < pose.joints.size(); ++j) {
            const auto& joint = pose.joints[j];
            joints[spec.jointNames.at(j)] = {{"x", joint.x}, {"y", joint.y}, {"confidence", joint.confidence}};
        }
        people.push_back(
            {{"score", pose.score}, {"box", detail::boxJson(pose.x1, pose.y1, pose.x2, pose.y2)}, {"joints", joints}});
    }
    return people;
}

inline nlohmann::json toJson(const std::vector<Detection>& found, const ModelSpec& spec) {
    auto objects = nlohmann::json::array();
    for (const auto& item : found)
        objects.push_back({{"class", item.classIndex},
                           {"name", spec.classNames.at(static_cast<std::size_t>(item.classIndex))},
                           {"score", item.score},
                           {"box", detail::boxJson(item.x1, item.y1, item.x2, item.y2)}});
    return objects;
}

}  // namespace trt_pose
