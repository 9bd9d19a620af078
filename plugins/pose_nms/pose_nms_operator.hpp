// PoseNMS_TRT and DetectionNMS_TRT for plugin.hpp.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "../tensorrt/plugin.hpp"
#include "pose_nms_kernel.cuh"

namespace trt_pose {
namespace {

constexpr int kMaxOutputs = 4096;
constexpr int kMaxJoints = 256;

// The attributes of both operators; serialized whole into the engine.
struct NmsAttributes {
    float scoreThreshold = 0, iouThreshold = 0;
    int maxOutputBoxes = 0, numPreNmsPredictions = 0;

    std::vector<PluginField> fields() const {
        return {PluginField{"score_threshold", &scoreThreshold, PluginFieldType::kFLOAT32, 1},
                PluginField{"iou_threshold", &iouThreshold, PluginFieldType::kFLOAT32, 1},
                PluginField{"max_output_boxes", &maxOutputBoxes, PluginFieldType::kINT32, 1},
                PluginField{"num_pre_nms_predictions", &numPreNmsPredictions, PluginFieldType::kINT32, 1}};
    }

    static NmsAttributes read(const PluginFieldCollection& fields) {
        NmsAttributes made;
        std::array<bool, 4> seen{};
        for (int i = 0; i < fields.nbFields; ++i) {
            const PluginField& field = fields.fields[i];
            const std::string name = field.name;
            if (name == "score_threshold") {
                made.scoreThreshold = scalar<float>(field, PluginFieldType::kFLOAT32);
                seen[0] = true;
            } else if (name == "iou_threshold") {
                made.iouThreshold = scalar<float>(field, PluginFieldType::kFLOAT32);
                seen[1] = true;
            } else if (name == "max_output_boxes") {
                made.maxOutputBoxes = scalar<int>(field, PluginFieldType::kINT32);
                seen[2] = true;
            } else if (name == "num_pre_nms_predictions") {
                made.numPreNmsPredictions = scalar<int>(field, PluginFieldType::kINT32);
                seen[3] = true;
            }
        }
        for (bool one : seen)
            if (!one) refuse("needs score_threshold, iou_threshold, max_output_boxes and num_pre_nms_predictions");
        made.check();
        return made;
    }

  private:
    void check() const {
        for (float threshold : {scoreThreshold, iouThreshold})
            if (!(std::isfinite(threshold) && threshold >= 0 && threshold <= 1)) refuse("thresholds must be in 0..1");
        if (maxOutputBoxes < 1 || maxOutputBoxes > kMaxOutputs) refuse("max_output_boxes must be in 1..4096");
        if (numPreNmsPredictions < 1 || numPreNmsPredictions > kMaxCandidates)
            refuse("num_pre_nms_predictions must be in 1..4096");
    }
};

// Poses come with joints and have one class, detections have classes and no joints.
template <bool kPoses>
class Nms {
  public:
    static constexpr const char* kName = kPoses ? "PoseNMS_TRT" : "DetectionNMS_TRT";
    static constexpr int kInputs = kPoses ? 3 : 2;
    static constexpr int kOutputs = 4;

    explicit Nms(const PluginFieldCollection& fields) : attributes_(NmsAttributes::read(fields)) {}

    static std::vector<PluginField> fieldNames() {
        auto names = NmsAttributes{}.fields();
        for (PluginField& field : names) field.data = nullptr;
        return names;
    }
    std::vector<PluginField> fields() const { return attributes_.fields(); }

    // The number of rows is int32, classes too.
    static constexpr DataType outputType(int place) {
        return place == 0 || (place == 3 && !kPoses) ? DataType::kINT32 : DataType::kFLOAT;
    }

    static void check(const nvinfer1::Dims* inputs) {
        const nvinfer1::Dims &boxes = inputs[0], &scores = inputs[1];
        checkBoxes(boxes, scores);
        if (scores.nbDims != 3) refuse("scores must be (B, A, K)");
        if constexpr (kPoses) {
            const nvinfer1::Dims& joints = inputs[2];
            checkBoxes(boxes, joints);
            if (!agree(scores.d[1], joints.d[1]) || !agree(scores.d[0], joints.d[0]))
                refuse("scores and joints must agree");
            if (!agree(scores.d[2], 1)) refuse("scores of poses must be (B, A, 1)");
            if (joints.nbDims != 4 || !agree(joints.d[3], 3)) refuse("joints must be (B, A, J, 3)");
            if (joints.d[2] > kMaxJoints) refuse("at most 256 joints");
        } else if (scores.d[2] == 0 || scores.d[2] > kMaxClasses) {
            refuse("1 to 4096 classes");
        }
    }

    void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                      nvinfer1::IExprBuilder& builder) const {
        if (inputs[0].nbDims != 3 || inputs[kInputs - 1].nbDims != (kPoses ? 4 : 3))
            refuse("another number of dimensions");
        const auto* batch = inputs[0].d[0];
        const auto* limit = builder.constant(attributes_.maxOutputBoxes);
        setShape(outputs[0], {batch, builder.constant(1)});
        setShape(outputs[1], {batch, limit, builder.constant(4)});
        setShape(outputs[2], {batch, limit});
        if constexpr (kPoses)
            setShape(outputs[3], {batch, limit, inputs[2].d[2], builder.constant(3)});
        else
            setShape(outputs[3], {batch, limit});
    }

    void launch(const nvinfer1::Dims* inputs, const void* const* data, void* const* out, cudaStream_t stream) const {
        const nvinfer1::Dims& scores = inputs[1];
        PoseNmsParams params{};
        params.boxes = static_cast<const float*>(data[0]);
        params.scores = static_cast<const float*>(data[1]);
        params.numPredictions = static_cast<int*>(out[0]);
        params.predBoxes = static_cast<float*>(out[1]);
        params.predScores = static_cast<float*>(out[2]);
        if constexpr (kPoses) {
            params.joints = static_cast<const float*>(data[2]);
            params.predJoints = static_cast<float*>(out[3]);
            params.jointCount = static_cast<int>(inputs[2].d[2]);
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
        if (scores.d[0] == 0) return;  // no images; CUDA refuses an empty grid
        poseNms<kBlockThreads><<<static_cast<unsigned>(scores.d[0]), kBlockThreads, 0, stream>>>(params);
    }

  private:
    static void checkBoxes(const nvinfer1::Dims& boxes, const nvinfer1::Dims& others) {
        const bool shaped = boxes.nbDims == 3 && others.nbDims >= 3 && agree(boxes.d[2], 4) &&
                            agree(boxes.d[0], others.d[0]) && agree(boxes.d[1], others.d[1]);
        if (!shaped) refuse("boxes must be (B, A, 4), scores (B, A, K) and joints (B, A, J, 3)");
        if (boxes.d[1] > kMaxAnchors) refuse("at most 65536 anchors");
    }

    NmsAttributes attributes_;
};

}  // namespace
}  // namespace trt_pose
