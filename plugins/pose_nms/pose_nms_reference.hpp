// PoseNMS_TRT and DetectionNMS_TRT in plain C++, one obvious step after another: what the kernel is held against where
// there is no Python (the lab, the ThreadSanitizer run).
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace trt_pose::reference {

struct Shape {
    int batch, anchors, joints, candidates, limit;
    float scoreThreshold, iouThreshold;
    int classes = 1;
};

struct Outputs {
    std::vector<int> count;
    std::vector<float> boxes, scores, joints;
    std::vector<int> classes;
    bool operator==(const Outputs& other) const {
        const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
            return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
        };
        return count == other.count && classes == other.classes && same(boxes, other.boxes) &&
               same(scores, other.scores) && same(joints, other.joints);
    }
};

inline Outputs empty(const Shape& s) {
    const std::size_t rows = static_cast<std::size_t>(s.batch) * s.limit;
    return {std::vector<int>(s.batch), std::vector<float>(rows * 4), std::vector<float>(rows),
            std::vector<float>(rows * s.joints * 3), std::vector<int>(rows, -1)};
}

inline bool overlap(const float* a, const float* b, float threshold) {
    const auto low = [](float u, float v) { return u < v ? u : v; };
    const auto high = [](float u, float v) { return u < v ? v : u; };
    const float ax1 = low(a[0], a[2]), ay1 = low(a[1], a[3]), ax2 = high(a[0], a[2]), ay2 = high(a[1], a[3]);
    const float bx1 = low(b[0], b[2]), by1 = low(b[1], b[3]), bx2 = high(b[0], b[2]), by2 = high(b[1], b[3]);
    const float width = (ax2 < bx2 ? ax2 : bx2) - (ax1 > bx1 ? ax1 : bx1);
    const float height = (ay2 < by2 ? ay2 : by2) - (ay1 > by1 ? ay1 : by1);
    if (!(width > 0 && height > 0)) return false;
    const float common = width * height;
    const float total = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - common;
    return total > 0 && common / total > threshold;
}

inline Outputs poseNms(const Shape& s, const float* boxes, const float* scores, const float* joints) {
    Outputs out = empty(s);
    for (int image = 0; image < s.batch; ++image) {
        const int pairs = s.anchors * s.classes;
        const float* score = scores + static_cast<std::size_t>(image) * pairs;
        const float* box = boxes + static_cast<std::size_t>(image) * s.anchors * 4;
        std::vector<int> order;
        for (int pair = 0; pair < pairs; ++pair)
            if (score[pair] > s.scoreThreshold) order.push_back(pair);
        std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return score[a] > score[b]; });
        if (static_cast<int>(order.size()) > s.candidates) order.resize(s.candidates);
        std::vector<int> kept;
        for (int pair : order) {
            if (static_cast<int>(kept.size()) == s.limit) break;
            const bool suppressed = std::any_of(kept.begin(), kept.end(), [&](int other) {
                return other % s.classes == pair % s.classes &&
                       overlap(box + other / s.classes * 4, box + pair / s.classes * 4, s.iouThreshold);
            });
            if (!suppressed) kept.push_back(pair);
        }
        out.count[image] = static_cast<int>(kept.size());
        for (std::size_t row = 0; row < kept.size(); ++row) {
            const std::size_t to = static_cast<std::size_t>(image) * s.limit + row;
            const std::size_t width = static_cast<std::size_t>(s.joints) * 3;
            const int anchor = kept[row] / s.classes;
            std::copy_n(box + anchor * 4, 4, out.boxes.begin() + to * 4);
            out.scores[to] = score[kept[row]];
            out.classes[to] = kept[row] % s.classes;
            std::copy_n(joints + (static_cast<std::size_t>(image) * s.anchors + anchor) * width, width,
                        out.joints.begin() + to * width);
        }
    }
    return out;
}

}  // namespace trt_pose::reference
