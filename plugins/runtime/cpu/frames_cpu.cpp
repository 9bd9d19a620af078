// The kernels of frames.cuh as a shared library for the CPU: tests compare them with OpenCV and NumPy.
#include "../../pose_nms/cpu/cuda_on_cpu.hpp"

#define TRT_POSE_CUDA_ON_CPU
#include "../include/trt_pose/frames.cuh"

extern "C" void letterbox_cpu(const trt_pose::LetterboxParams* params, unsigned seed) {
    const int pixels = params->width * params->height;
    const int blocks = (pixels + trt_pose::kFrameThreads - 1) / trt_pose::kFrameThreads;
    cuda_on_cpu::launch(blocks, trt_pose::kFrameThreads, seed, [&] { letterbox(*params); });
}

extern "C" void pack_rows_cpu(const trt_pose::PackParams* params, unsigned seed) {
    cuda_on_cpu::launch(1, trt_pose::kFrameThreads, seed, [&] { pack_rows(*params); });
}
