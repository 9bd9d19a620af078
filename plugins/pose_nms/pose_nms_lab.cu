// The laboratory: reference -> kernel -> check -> timing, per variant of the block size, on the GPU at hand.
//
//   nvcc -std=c++17 -O3 -arch=native -Xcompiler=-ffp-contract=off -o pose_nms_lab pose_nms_lab.cu && ./pose_nms_lab
//   [RESULT.md]
//
// Exit code 1 when a variant differs from the C++ reference in any bit; the table is written only when all agree.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>

#include "pose_nms_kernel.cuh"
#include "pose_nms_reference.hpp"

using trt_pose::PoseNmsParams;
using trt_pose::reference::Outputs;
using trt_pose::reference::Shape;

namespace {

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    std::exit(1);
}

template <class T>
class Device {
  public:
    explicit Device(std::size_t count) : count_(count) { check(cudaMalloc(&data_, count * sizeof(T)), "cudaMalloc"); }
    explicit Device(const std::vector<T>& values) : Device(values.size()) {
        check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), "copy in");
    }
    Device(const Device&) = delete;
    ~Device() { cudaFree(data_); }
    T* get() const { return data_; }
    void read(std::vector<T>& values) const {
        check(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost), "copy out");
    }

  private:
    T* data_ = nullptr;
    std::size_t count_;
};

struct Scene {
    std::vector<float> boxes, scores, joints;
};

// People as a network sees them: a few true centres, many overlapping candidates around them, and a background of
// candidates below the threshold. `above` candidates of each image pass the threshold.
Scene makeScene(const Shape& shape, int above) {
    std::mt19937 random(7);
    std::uniform_real_distribution<float> place(0, 640), near(-12, 12), size(40, 160), unit(0, 1);
    Scene scene;
    for (int image = 0; image < shape.batch; ++image) {
        std::vector<float> center;
        for (int person = 0; person < 12; ++person)
            center.insert(center.end(), {place(random), place(random), size(random)});
        std::vector<int> order(shape.anchors);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        std::vector<bool> passes(shape.anchors);
        for (int i = 0; i < std::min(above, shape.anchors); ++i) passes[order[i]] = true;
        for (int anchor = 0; anchor < shape.anchors; ++anchor) {
            const float* person = &center[3 * (anchor % 12)];
            const float x = person[0] + near(random), y = person[1] + near(random),
                        half = person[2] / 2 + near(random) / 2;
            scene.boxes.insert(scene.boxes.end(), {x - half, y - half, x + half, y + half});
            const float score = unit(random);
            for (int kind = 1; kind < shape.classes; ++kind) scene.scores.push_back(score * shape.scoreThreshold);
            scene.scores.push_back(passes[anchor] ? shape.scoreThreshold + 1e-4f + score * (0.9f - shape.scoreThreshold)
                                                  : score * shape.scoreThreshold);
            for (int i = 0; i < shape.joints * 3; ++i) scene.joints.push_back(place(random));
        }
    }
    return scene;
}

struct Row {
    std::string variant;
    Shape shape;
    int above, kept;
    float minimum, median;
};

template <int kThreads>
Row measure(const Shape& shape, int above) {
    const Scene scene = makeScene(shape, above);
    const Device<float> boxes(scene.boxes), scores(scene.scores), joints(scene.joints);
    Outputs found = trt_pose::reference::empty(shape);
    const Device<int> count(found.count.size());
    const Device<float> outBoxes(found.boxes.size()), outScores(found.scores.size()), outJoints(found.joints.size());
    const Device<int> outClasses(found.classes.size());
    const PoseNmsParams params{boxes.get(),    scores.get(),         joints.get(),      count.get(),
                               outBoxes.get(), outScores.get(),      outJoints.get(),   outClasses.get(),
                               shape.anchors,  shape.classes,        shape.joints,      shape.candidates,
                               shape.limit,    shape.scoreThreshold, shape.iouThreshold};
    const auto launch = [&](cudaStream_t stream) {
        trt_pose::poseNms<kThreads><<<shape.batch, kThreads, 0, stream>>>(params);
    };
    launch(nullptr);
    check(cudaDeviceSynchronize(), "the kernel");
    count.read(found.count);
    outBoxes.read(found.boxes);
    outScores.read(found.scores);
    outJoints.read(found.joints);
    outClasses.read(found.classes);
    if (!(found == trt_pose::reference::poseNms(shape, scene.boxes.data(), scene.scores.data(), scene.joints.data()))) {
        std::fprintf(stderr, "%d threads differ from the reference\n", kThreads);
        std::exit(1);
    }
    // A graph of twenty launches: what is timed is the kernel, not the CPU that launches it.
    constexpr int kLaunches = 20, kRepeats = 200;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t run;
    cudaEvent_t begin, end;
    check(cudaStreamCreate(&stream), "stream");
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
    for (int i = 0; i < kLaunches; ++i) launch(stream);
    check(cudaStreamEndCapture(stream, &graph), "end of capture");
    check(cudaGraphInstantiate(&run, graph, 0), "graph");
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    std::vector<float> times;
    for (int repeat = 0; repeat < kRepeats + 20; ++repeat) {
        check(cudaEventRecord(begin, stream), "event");
        check(cudaGraphLaunch(run, stream), "graph launch");
        check(cudaEventRecord(end, stream), "event");
        check(cudaEventSynchronize(end), "event");
        float ms = 0;
        check(cudaEventElapsedTime(&ms, begin, end), "event");
        if (repeat >= 20) times.push_back(ms * 1000 / kLaunches);
    }
    std::sort(times.begin(), times.end());
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaGraphExecDestroy(run);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
    return {
        std::to_string(kThreads) + " threads", shape, above, found.count[0], times.front(), times[times.size() / 2]};
}

}  // namespace

int main(int count, char** arguments) {
    cudaDeviceProp gpu{};
    check(cudaGetDeviceProperties(&gpu, 0), "looking for a GPU");
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    std::ostringstream table;
    table << "# The pose NMS kernel\n\nWritten by `plugins/pose_nms/pose_nms_lab.cu` on " << gpu.name
          << ", compute capability " << gpu.major << "." << gpu.minor << ", CUDA runtime " << runtime << ", driver "
          << driver
          << ". Microseconds per launch, in a CUDA graph of twenty; every variant equals the C++ reference bit"
          << " for bit.\n\n| variant | batch | anchors | classes | above threshold | P | N | kept | min us | median us "
             "|\n"
          << "|---|---|---|---|---|---|---|---|---|---|\n";
    const std::pair<Shape, int> cases[] = {
        {{1, 8400, 17, 1000, 100, 0.25f, 0.7f}, 300},    {{32, 8400, 17, 1000, 100, 0.25f, 0.7f}, 300},
        {{1, 8400, 17, 1000, 1000, 0.25f, 0.7f}, 300},   {{1, 8400, 17, 300, 100, 0.05f, 0.7f}, 3000},
        {{1, 8400, 17, 4096, 300, 0.01f, 0.7f}, 8400},   {{1, 33600, 17, 1000, 300, 0.25f, 0.7f}, 1000},
        {{32, 8400, 17, 1000, 1000, 0.05f, 0.7f}, 3000}, {{1, 8400, 0, 4096, 300, 0.25f, 0.7f, 80}, 300},
    };
    for (const auto& [shape, above] : cases)
        for (const Row& row : {measure<256>(shape, above), measure<512>(shape, above), measure<1024>(shape, above)})
            table << "| " << row.variant << " | " << shape.batch << " | " << shape.anchors << " | " << shape.classes
                  << " | " << row.above << " | " << shape.candidates << " | " << shape.limit << " | " << row.kept
                  << " | " << row.minimum << " | " << row.median << " |\n";
    std::cout << table.str();
    if (count > 1) std::ofstream(arguments[1]) << table.str();
    return 0;
}
