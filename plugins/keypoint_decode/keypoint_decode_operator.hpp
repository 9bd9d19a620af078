// KeypointDecode_TRT for plugin.hpp.
#pragma once

#include <vector>

#include "../tensorrt/plugin.hpp"
#include "keypoint_decode_kernel.cuh"

namespace trt_pose {
namespace {

class KeypointDecodeOperator {
  public:
    static constexpr const char* kName = "KeypointDecode_TRT";
    static constexpr int kInputs = 2;
    static constexpr int kOutputs = 1;

    explicit KeypointDecodeOperator(const PluginFieldCollection&) {}  // it has no attributes

    static std::vector<PluginField> fieldNames() { return {}; }
    std::vector<PluginField> fields() const { return {}; }
    static constexpr DataType outputType(int) { return DataType::kFLOAT; }

    static void check(const nvinfer1::Dims* inputs) {
        const nvinfer1::Dims &heatmaps = inputs[0], &boxes = inputs[1];
        const bool shaped = heatmaps.nbDims == 4 && boxes.nbDims == 2 && agree(boxes.d[1], 4) &&
                            agree(heatmaps.d[0], boxes.d[0]) && agree(heatmaps.d[2], heatmaps.d[3]);
        if (!shaped) refuse("heatmaps must be (R, K, S, S) and boxes (R, 4)");
        if (heatmaps.d[2] == 0 || heatmaps.d[2] > kMaxHeatmap) refuse("heatmaps must have 1 to 64 rows");
        if (heatmaps.d[0] > kMaxRows) refuse("at most 65535 boxes");
    }

    void outputShapes(const nvinfer1::DimsExprs* inputs, nvinfer1::DimsExprs* outputs,
                      nvinfer1::IExprBuilder& builder) const {
        if (inputs[0].nbDims != 4) refuse("another number of dimensions");
        setShape(outputs[0], {inputs[0].d[0], inputs[0].d[1], builder.constant(3)});
    }

    void launch(const nvinfer1::Dims* inputs, const void* const* data, void* const* out, cudaStream_t stream) const {
        KeypointDecodeParams params{};
        params.heatmaps = static_cast<const float*>(data[0]);
        params.boxes = static_cast<const float*>(data[1]);
        params.joints = static_cast<float*>(out[0]);
        params.jointCount = static_cast<int>(inputs[0].d[1]);
        params.size = static_cast<int>(inputs[0].d[2]);
        const dim3 grid(static_cast<unsigned>(inputs[0].d[1]), static_cast<unsigned>(inputs[0].d[0]));
        if (grid.x == 0 || grid.y == 0) return;  // CUDA refuses an empty grid
        keypoint_decode<<<grid, kKeypointThreads, 0, stream>>>(params);
    }

  private:
    static constexpr int kMaxRows = 65535;  // of a grid
};

}  // namespace
}  // namespace trt_pose
