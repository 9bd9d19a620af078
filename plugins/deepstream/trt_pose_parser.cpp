// From the outputs of a pose engine to nvinfer's objects: parse-bbox-instance-mask-func-name=NvDsInferParseTrtPose.
//
// The engine has done the NMS: rows are final, sorted by score. nvinfer frees the masks with delete[].
// Written for DeepStream 7.1 to 9.1; not run in DeepStream.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

NvDsInferLayerInfo const* find(std::vector<NvDsInferLayerInfo> const& layers, char const* name,
                               NvDsInferDataType type) {
    for (auto const& layer : layers) {
        if (layer.layerName == nullptr || std::strcmp(layer.layerName, name) != 0) continue;
        if (layer.dataType == type && layer.buffer != nullptr) return &layer;
        std::cerr << "trt_pose: the output " << name << " has the type " << layer.dataType << ", expected " << type
                  << ". Export the model with trt-pose." << std::endl;
        return nullptr;
    }
    std::cerr << "trt_pose: the engine gives no output " << name << ". List it in output-blob-names." << std::endl;
    return nullptr;
}

bool is_finite(float const* box) {
    return std::all_of(box, box + 4, [](float side) { return std::isfinite(side); });
}

}  // namespace

extern "C" bool NvDsInferParseTrtPose(std::vector<NvDsInferLayerInfo> const& layers,
                                      NvDsInferNetworkInfo const& network, NvDsInferParseDetectionParams const& params,
                                      std::vector<NvDsInferInstanceMaskInfo>& objects) {
    auto const* count = find(layers, "num_predictions", INT32);
    auto const* boxes = find(layers, "pred_boxes", FLOAT);
    auto const* scores = find(layers, "pred_scores", FLOAT);
    auto const* joints = find(layers, "pred_joints", FLOAT);
    if (count == nullptr || boxes == nullptr || scores == nullptr || joints == nullptr) return false;
    auto const& shape = joints->inferDims;
    if (shape.numDims != 3 || shape.d[2] != 3 || scores->inferDims.numElements != shape.d[0] ||
        boxes->inferDims.numElements != 4 * shape.d[0]) {
        std::cerr << "trt_pose: the outputs do not fit together. Export the model with trt-pose." << std::endl;
        return false;
    }
    // One for each class that is configured.
    float const least = params.perClassPreclusterThreshold.empty() ? 0.0F : params.perClassPreclusterThreshold[0];
    auto const limit = static_cast<int32_t>(shape.d[0]);
    int32_t const found = std::clamp(*static_cast<int32_t const*>(count->buffer), 0, limit);
    std::size_t const width = std::size_t{shape.d[1]} * 3;
    auto const* box = static_cast<float const*>(boxes->buffer);
    auto const* score = static_cast<float const*>(scores->buffer);
    auto const* joint = static_cast<float const*>(joints->buffer);
    auto const right = static_cast<float>(network.width), bottom = static_cast<float>(network.height);
    for (int32_t row = 0; row < found; ++row, box += 4, ++score, joint += width) {
        if (!(*score >= least) || !is_finite(box))
            continue;  // before there is a mask: nvinfer frees none of what it drops itself
        NvDsInferInstanceMaskInfo object{};
        object.left = std::clamp(box[0], 0.0F, right);
        object.top = std::clamp(box[1], 0.0F, bottom);
        object.width = std::clamp(box[2], 0.0F, right) - object.left;
        object.height = std::clamp(box[3], 0.0F, bottom) - object.top;
        if (!(object.width >= 1.0F && object.height >= 1.0F)) continue;
        object.detectionConfidence = *score;
        object.mask = new float[width];
        std::copy_n(joint, width, object.mask);
        object.mask_width = 3;
        object.mask_height = shape.d[1];
        object.mask_size = static_cast<unsigned>(width * sizeof(float));
        objects.push_back(object);
    }
    return true;
}

#ifdef CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE
CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(NvDsInferParseTrtPose);
#endif
