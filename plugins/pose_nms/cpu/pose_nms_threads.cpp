// The kernel with every CUDA thread as a real thread, for ThreadSanitizer: a missing barrier is a data race here.
// Compares each run with the C++ reference; exit code 0 when all agree.
#define CUDA_ON_CPU_THREADS
#include "cuda_on_cpu.hpp"

#include <cstdio>
#include <random>

#include "../pose_nms_kernel.cuh"
#include "../pose_nms_reference.hpp"

using trt_pose::reference::Shape;

namespace {

bool agrees(const Shape& shape, std::mt19937& random) {
    std::uniform_real_distribution<float> place(0, 100), side(5, 60), unit(0, 1);
    std::vector<float> boxes, scores, joints;
    for (int i = 0; i < shape.batch * shape.anchors; ++i) {
        const float x = place(random), y = place(random);
        boxes.insert(boxes.end(), {x, y, x + side(random), y + side(random)});
        for (int k = 0; k < shape.classes; ++k)
            scores.push_back(static_cast<float>(static_cast<int>(unit(random) * 50)) / 50);  // with ties
        for (int j = 0; j < shape.joints * 3; ++j) joints.push_back(unit(random));
    }
    auto out = trt_pose::reference::empty(shape);
    const trt_pose::PoseNmsParams params{boxes.data(),     scores.data(),        joints.data(),     out.count.data(),
                                         out.boxes.data(), out.scores.data(),    out.joints.data(), out.classes.data(),
                                         shape.anchors,    shape.classes,        shape.joints,      shape.candidates,
                                         shape.limit,      shape.scoreThreshold, shape.iouThreshold};
    cuda_on_cpu::launch({static_cast<unsigned>(shape.batch)}, 128, 0, [&] { trt_pose::poseNms<128>(params); });
    return out == trt_pose::reference::poseNms(shape, boxes.data(), scores.data(), joints.data());
}

}  // namespace

int main() {
    std::mt19937 random(1);
    const Shape shapes[] = {
        {2, 300, 17, 300, 100, 0.25f, 0.5f},   // all in shared memory
        {1, 900, 3, 200, 50, 0.0f, 0.3f},      // radix select
        {1, 700, 1, 700, 700, 0.1f, 0.9f},     // many tiles, many survivors
        {1, 50, 2, 10, 64, 0.99f, 0.5f},       // hardly anything
        {2, 200, 0, 500, 300, 0.3f, 0.3f, 5},  // classes, no joints
    };
    for (const auto& shape : shapes) {
        if (!agrees(shape, random)) {
            std::printf("the kernel differs from the reference at %d anchors\n", shape.anchors);
            return 1;
        }
    }
    std::puts("the kernel equals the reference");
    return 0;
}
