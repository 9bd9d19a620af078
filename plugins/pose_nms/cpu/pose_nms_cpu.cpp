// The kernel as a shared library for the CPU: tests compare it with NumPy, bit for bit.
#include "cuda_on_cpu.hpp"

#include "../pose_nms_kernel.cuh"

namespace {

template <int kThreads>
void run(const trt_pose::PoseNmsParams& params, int batch, unsigned seed) {
    cuda_on_cpu::launch({static_cast<unsigned>(batch)}, kThreads, seed, [&] { trt_pose::poseNms<kThreads>(params); });
}

}  // namespace

// Returns 0, or 1 for a block size that is not compiled in.
extern "C" int pose_nms_cpu(const trt_pose::PoseNmsParams* params, int batch, int threads, unsigned seed) {
    switch (threads) {
        case 64:
            run<64>(*params, batch, seed);
            return 0;
        case 96:
            run<96>(*params, batch, seed);
            return 0;
        case 256:
            run<256>(*params, batch, seed);
            return 0;
        case 1024:
            run<1024>(*params, batch, seed);
            return 0;
        default:
            return 1;
    }
}

// For a driver without a GPU, which passes the grid and the bytes of the parameters.
extern "C" const unsigned pose_nms_bytes = sizeof(trt_pose::PoseNmsParams);
extern "C" int pose_nms_launch(const trt_pose::PoseNmsParams* params, unsigned gridX, unsigned gridY,
                               unsigned threads) {
    return gridY == 1 ? pose_nms_cpu(params, static_cast<int>(gridX), static_cast<int>(threads), 0) : 1;
}
