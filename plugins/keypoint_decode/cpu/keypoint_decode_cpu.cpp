// The kernel as a shared library for the CPU: tests compare it with NumPy, bit for bit.
#include "../../pose_nms/cpu/cuda_on_cpu.hpp"

#include "../keypoint_decode_kernel.cuh"

extern "C" void keypoint_decode_cpu(const trt_pose::KeypointDecodeParams* params, int boxes, unsigned seed) {
    const cuda_on_cpu::Grid grid{static_cast<unsigned>(params->jointCount), static_cast<unsigned>(boxes)};
    cuda_on_cpu::launch(grid, trt_pose::kKeypointThreads, seed, [&] { keypoint_decode(*params); });
}
