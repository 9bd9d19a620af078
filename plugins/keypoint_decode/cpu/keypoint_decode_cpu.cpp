// The kernel as a shared library for the CPU: tests compare it with NumPy, bit for bit.
#include "../../pose_nms/cpu/cuda_on_cpu.hpp"

#include "../keypoint_decode_kernel.cuh"

extern "C" void keypoint_decode_cpu(const trt_pose::KeypointDecodeParams* params, int boxes, unsigned seed) {
    const cuda_on_cpu::Grid grid{static_cast<unsigned>(params->jointCount), static_cast<unsigned>(boxes)};
    cuda_on_cpu::launch(grid, trt_pose::kKeypointThreads, seed, [&] { keypoint_decode(*params); });
}

// For a driver without a GPU, which passes the grid and the bytes of the parameters.
extern "C" const unsigned keypoint_decode_bytes = sizeof(trt_pose::KeypointDecodeParams);
extern "C" int keypoint_decode_launch(const trt_pose::KeypointDecodeParams* params, unsigned gridX, unsigned gridY,
                                      unsigned threads) {
    if (static_cast<int>(gridX) != params->jointCount || threads != trt_pose::kKeypointThreads) return 1;
    keypoint_decode_cpu(params, static_cast<int>(gridY), 0);
    return 0;
}
