// The kernels of frames.cuh as a shared library for the CPU: tests compare them with OpenCV and NumPy, and launch them
// through a driver without a GPU, which calls NAME_launch with the grid and the bytes of the parameters.
#include "../../pose_nms/cpu/cuda_on_cpu.hpp"

#define TRT_POSE_CUDA_ON_CPU
#include "../include/trt_pose/frames.cuh"

extern "C" const unsigned letterbox_bytes = sizeof(trt_pose::LetterboxParams);
extern "C" const unsigned pack_rows_bytes = sizeof(trt_pose::PackParams);

extern "C" {

// Each returns 0, or 1 for a block size other than the kernel's.
int letterbox_launch(const trt_pose::LetterboxParams* params, unsigned gridX, unsigned gridY, unsigned threads) {
    if (threads != trt_pose::kFrameThreads) return 1;
    cuda_on_cpu::launch({gridX, gridY}, trt_pose::kFrameThreads, 0, [&] { letterbox(*params); });
    return 0;
}

int pack_rows_launch(const trt_pose::PackParams* params, unsigned gridX, unsigned gridY, unsigned threads) {
    if (threads != trt_pose::kFrameThreads || gridX != 1 || gridY != 1) return 1;
    cuda_on_cpu::launch({1}, trt_pose::kFrameThreads, 0, [&] { pack_rows(*params); });
    return 0;
}

void letterbox_cpu(const trt_pose::LetterboxParams* params, int images, unsigned seed) {
    const int across = (params->width + trt_pose::kTileWidth - 1) / trt_pose::kTileWidth;
    const int down = (params->height + trt_pose::kTileHeight - 1) / trt_pose::kTileHeight;
    cuda_on_cpu::launch({static_cast<unsigned>(across * down), static_cast<unsigned>(images)}, trt_pose::kFrameThreads,
                        seed, [&] { letterbox(*params); });
}

void pack_rows_cpu(const trt_pose::PackParams* params, unsigned seed) {
    cuda_on_cpu::launch({1}, trt_pose::kFrameThreads, seed, [&] { pack_rows(*params); });
}
}
