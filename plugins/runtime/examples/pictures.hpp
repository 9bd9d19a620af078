// Pictures for the examples: binary PPM by hand, every other format through OpenCV where it was found.
#pragma once

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include <trt_pose/core.hpp>
#ifdef TRT_POSE_OPENCV
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#endif

namespace pictures {

struct Picture {
    std::vector<std::uint8_t> pixels;  // RGB
    int width = 0, height = 0;
    trt_pose::ImageView view() const { return {pixels.data(), width, height}; }
};

inline Picture readPpm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    Picture picture;
    int white = 0;
    if (!(file >> magic >> picture.width >> picture.height >> white) || magic != "P6" || white != 255 ||
        picture.width < 1 || picture.height < 1)
        throw trt_pose::Error("reading " + path +
                              ": not a binary PPM picture. Build the example with OpenCV for other formats.");
    file.get();
    picture.pixels.resize(static_cast<std::size_t>(3) * picture.width * picture.height);
    if (!file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size())))
        throw trt_pose::Error("reading " + path + ": the file is truncated. Fetch it again.");
    return picture;
}

inline Picture read(const std::string& path) {
#ifdef TRT_POSE_OPENCV
    cv::Mat image = cv::imread(path, cv::IMREAD_COLOR);
    if (image.empty()) throw trt_pose::Error("reading " + path + ": not an image OpenCV can read. Check the path.");
    cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
    return {{image.data, image.data + image.total() * 3}, image.cols, image.rows};
#else
    return readPpm(path);
#endif
}

inline void write(const Picture& picture, const std::string& path) {
#ifdef TRT_POSE_OPENCV
    cv::Mat image(picture.height, picture.width, CV_8UC3, const_cast<std::uint8_t*>(picture.pixels.data())), swapped;
    cv::cvtColor(image, swapped, cv::COLOR_RGB2BGR);
    if (!cv::imwrite(path, swapped)) throw trt_pose::Error("writing " + path + ": OpenCV cannot. Choose another name.");
#else
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << picture.width << " " << picture.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(picture.pixels.data()),
               static_cast<std::streamsize>(picture.pixels.size()));
    if (!file) throw trt_pose::Error("writing " + path + ": the disk or folder refuses. Choose another place.");
#endif
}

// A line of squares: enough to see whether the joints are where they belong.
inline void line(Picture& picture, float x1, float y1, float x2, float y2, const std::uint8_t (&color)[3]) {
    const int steps = std::max(1, static_cast<int>(std::max(std::abs(x2 - x1), std::abs(y2 - y1))));
    if (!(steps < 100000)) return;  // not in this picture, or no number
    for (int i = 0; i <= steps; ++i) {
        const float share = static_cast<float>(i) / static_cast<float>(steps);
        const int x = static_cast<int>(x1 + (x2 - x1) * share), y = static_cast<int>(y1 + (y2 - y1) * share);
        for (int dy = -1; dy <= 1; ++dy)
            for (int dx = -1; dx <= 1; ++dx) {
                const int px = x + dx, py = y + dy;
                if (px < 0 || py < 0 || px >= picture.width || py >= picture.height) continue;
                for (int c = 0; c < 3; ++c)
                    picture.pixels[(static_cast<std::size_t>(py) * picture.width + px) * 3 + c] = color[c];
            }
    }
}

inline void draw(Picture& picture, const std::vector<trt_pose::Pose>& poses, const trt_pose::ModelSpec& spec) {
    constexpr std::uint8_t box[3] = {235, 235, 235}, bone[3] = {84, 153, 255};
    constexpr float visible = 0.3f;
    for (const auto& pose : poses) {
        line(picture, pose.x1, pose.y1, pose.x2, pose.y1, box);
        line(picture, pose.x2, pose.y1, pose.x2, pose.y2, box);
        line(picture, pose.x2, pose.y2, pose.x1, pose.y2, box);
        line(picture, pose.x1, pose.y2, pose.x1, pose.y1, box);
        for (const auto& [from, to] : spec.edges) {
            const auto &a = pose.joints.at(static_cast<std::size_t>(from)),
                       &b = pose.joints.at(static_cast<std::size_t>(to));
            if (a.confidence >= visible && b.confidence >= visible) line(picture, a.x, a.y, b.x, b.y, bone);
        }
    }
}

}  // namespace pictures
