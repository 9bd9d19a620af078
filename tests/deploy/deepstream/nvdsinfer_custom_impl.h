// What the parser uses of DeepStream's header of this name, for tests where DeepStream is not. Names, types and order
// of the fields are those of DeepStream 7.1 to 9.1: https://docs.nvidia.com/metropolis/deepstream/dev-guide/sdk-api
#pragma once
#include <cstddef>
#include <vector>

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 };

struct NvDsInferDims {
    unsigned int numDims;
    unsigned int d[8];
    unsigned int numElements;
};

struct NvDsInferLayerInfo {
    NvDsInferDataType dataType;
    union {
        NvDsInferDims inferDims;
        NvDsInferDims dims;
    };
    int bindingIndex;
    char const* layerName;
    void* buffer;
    int isInput;
};

struct NvDsInferNetworkInfo {
    unsigned int width, height, channels;
};

struct NvDsInferParseDetectionParams {
    unsigned int numClassesConfigured;
    std::vector<float> perClassPreclusterThreshold;
    std::vector<float> perClassPostclusterThreshold;
};

struct NvDsInferInstanceMaskInfo {
    unsigned int classId;
    float left, top, width, height, detectionConfidence;
    float* mask;
    unsigned int mask_width, mask_height, mask_size;
};
