// core.hpp from the command line, for the tests: reads a sidecar, an image and outputs from files, writes the network
// input and the results.
//
//   core_cli ENGINE WIDTH HEIGHT IMAGE.rgb INPUT.out [COUNTS BOXES SCORES REST LIMIT THRESHOLD]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "../include/trt_pose/core.hpp"

namespace {

template <class T>
std::vector<T> readFile(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw trt_pose::Error(std::string("reading ") + path + ": there is no such file. Check the path.");
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    std::vector<T> values(bytes.size() / sizeof(T));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(values.data()));
    return values;
}

int run(char** arguments, int count) {
    const auto sidecar = trt_pose::readSidecar(arguments[1]);
    const auto& spec = sidecar.spec;
    const auto pixels = readFile<std::uint8_t>(arguments[4]);
    const trt_pose::ImageView image{pixels.data(), std::atoi(arguments[2]), std::atoi(arguments[3])};
    std::vector<char> input(spec.input.elements() * spec.input.bytesPerElement());
    const auto placed = trt_pose::letterbox(image, spec.input, input.data());
    std::ofstream(arguments[5], std::ios::binary).write(input.data(), static_cast<std::streamsize>(input.size()));
    if (count < 12) return 0;
    const auto counts = readFile<std::int32_t>(arguments[6]);
    const auto boxes = readFile<float>(arguments[7]), scores = readFile<float>(arguments[8]);
    trt_pose::BatchOutputs outputs{counts.data(), boxes.data(), scores.data(),
                                   nullptr,       nullptr,      std::atoi(arguments[10])};
    const float threshold = std::strtof(arguments[11], nullptr);
    if (spec.task == "pose") {
        const auto joints = readFile<float>(arguments[9]);
        outputs.joints = joints.data();
        std::cout << toJson(readPoses(outputs, 0, placed, spec.jointCount(), threshold), spec).dump() << "\n";
    } else {
        const auto classes = readFile<std::int32_t>(arguments[9]);
        outputs.classes = classes.data();
        std::cout << toJson(readDetections(outputs, 0, placed, threshold), spec).dump() << "\n";
    }
    return 0;
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 6) return std::puts("usage: core_cli ENGINE WIDTH HEIGHT IMAGE.rgb INPUT.out [OUTPUTS]"), 2;
    try {
        return run(arguments, count);
    } catch (const trt_pose::Error& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
