// What stands before and after the engine: the letterbox of an image, and the rows of a batch packed for the way back.
//
// Plain C++17 without any include: g++ compiles the arithmetic for core.hpp, nvcc and NVRTC the kernels as well. The
// resize is OpenCV's INTER_LINEAR on bytes, weights of 11 bits and all, so that CPU and GPU give the same image.
// No GPU has run the kernels yet; on the CPU they equal OpenCV and NumPy (tests/plugins/test_frames.py).
#pragma once

// The kernels themselves are for one translation unit: NVRTC's, the CPU harness's, or whoever asks for them.
#if (defined(__CUDACC_RTC__) || defined(TRT_POSE_CUDA_ON_CPU)) && !defined(TRT_POSE_KERNELS)
#define TRT_POSE_KERNELS
#endif
#ifdef __CUDACC__
#define TRT_POSE_BOTH __host__ __device__
#else
#define TRT_POSE_BOTH
#endif

namespace trt_pose {

// Two neighbours of a source axis and their weights, which add up to about 2048.
struct Tap {
    int first, second, firstWeight, secondWeight;
};

// Half to even, for values from 0 to 2048.
TRT_POSE_BOTH inline int roundWeight(float value) {
    const int whole = static_cast<int>(value);
    const float rest = value - static_cast<float>(whole);
    return whole + (rest > 0.5f || (rest == 0.5f && whole % 2 == 1) ? 1 : 0);
}

// Where pixel `at` of `target` comes from along an axis of `source` pixels. OpenCV stops at the edge of a row before it
// weighs, and after it has weighed at the edge of a column.
TRT_POSE_BOTH inline Tap tapOf(int at, int source, int target, bool isColumn) {
    const double step = 1.0 / (static_cast<double>(target) / source);
    const float place = static_cast<float>((at + 0.5) * step - 0.5);
    int first = static_cast<int>(place);
    if (static_cast<float>(first) > place) --first;  // floor
    float share = place - static_cast<float>(first);
    const bool outside = first < 0 || first >= source - 1;
    if (isColumn && outside) {
        first = first < 0 ? 0 : source - 1;
        share = 0.0f;
    }
    int second = first + 1;
    const int last = source - 1;
    first = first < 0 ? 0 : first > last ? last : first;
    second = second < 0 ? 0 : second > last ? last : second;
    return Tap{first, second, roundWeight((1.0f - share) * 2048.0f), roundWeight(share * 2048.0f)};
}

// One byte of the resized image out of four.
TRT_POSE_BOTH inline unsigned char blend(int upperLeft, int upperRight, int lowerLeft, int lowerRight,
                                         const Tap& column, const Tap& row) {
    const int upper = upperLeft * column.firstWeight + upperRight * column.secondWeight;
    const int lower = lowerLeft * column.firstWeight + lowerRight * column.secondWeight;
    return static_cast<unsigned char>(
        (((row.firstWeight * (upper >> 4)) >> 16) + ((row.secondWeight * (lower >> 4)) >> 16) + 2) >> 2);
}

// One image on its way into the network input.
struct LetterboxParams {
    const unsigned char* source;  // (sourceHeight, sourceWidth, 3) RGB, rows `sourcePitch` bytes apart
    void* target;                 // (3, height, width), bytes or floats 0..white
    int sourceWidth, sourceHeight, sourcePitch;
    int newWidth, newHeight;  // of the resized image
    int left, top;            // its place
    int width, height;        // of the network input
    int pad;                  // grey level around it
    int floats;               // 1: the target holds floats
    float unit;               // what a grey level is in floats: 1, or 1/255
};

// The pixel (x, y) of the network input, all three channels.
TRT_POSE_BOTH inline void letterboxPixel(const LetterboxParams& p, int x, int y) {
    const int plane = p.width * p.height, at = y * p.width + x;
    unsigned char values[3];
    const int column = x - p.left, row = y - p.top;
    const bool inside = column >= 0 && column < p.newWidth && row >= 0 && row < p.newHeight;
    for (int channel = 0; channel < 3; ++channel) values[channel] = static_cast<unsigned char>(p.pad);
    if (inside) {
        const Tap horizontal = tapOf(column, p.sourceWidth, p.newWidth, true);
        const Tap vertical = tapOf(row, p.sourceHeight, p.newHeight, false);
        const unsigned char* upper = p.source + static_cast<long long>(vertical.first) * p.sourcePitch;
        const unsigned char* lower = p.source + static_cast<long long>(vertical.second) * p.sourcePitch;
        for (int channel = 0; channel < 3; ++channel) {
            const int first = horizontal.first * 3 + channel, second = horizontal.second * 3 + channel;
            values[channel] = blend(upper[first], upper[second], lower[first], lower[second], horizontal, vertical);
        }
    }
    for (int channel = 0; channel < 3; ++channel) {
        if (p.floats)
            static_cast<float*>(p.target)[channel * plane + at] = static_cast<float>(values[channel]) * p.unit;
        else
            static_cast<unsigned char*>(p.target)[channel * plane + at] = values[channel];
    }
}

// How an image was placed: a source point lies at (x * scaleX + left, y * scaleY + top) of the network input.
struct Place {
    float scaleX, scaleY, left, top;
};

struct PackParams {
    const int* counts;    // (B, 1) rows of each image
    const float* boxes;   // (B, N, 4) px of the network input
    const float* scores;  // (B, N) descending
    const float* joints;  // (B, N, J, 3), null for detections
    const int* classes;   // (B, N), null for poses
    const Place* places;  // (B)
    int* kept;            // (B) rows that follow, image by image
    float* rows;          // (sum of kept, width): box, score, joints or class, px of the source images
    int batch, limit, jointCount;
    float threshold;  // kept: score > threshold
};

#ifdef TRT_POSE_KERNELS

constexpr int kFrameThreads = 256;
constexpr int kMaxPackBatch = 1024;

__device__ inline float undo(float value, float offset, float scale) {
    return __fdiv_rn(__fsub_rn(value, offset), scale);
}

// One block: counts, then rows. Scores descend, so that what is kept of an image is how far its rows reach.
__device__ inline void packRows(const PackParams& p, int* starts) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int image = thread; image < p.batch; image += kFrameThreads) {
        const float* scores = p.scores + static_cast<long long>(image) * p.limit;
        int kept = 0, most = p.counts[image] < p.limit ? p.counts[image] : p.limit;
        while (kept < most) {  // binary search for the first row that is not above the threshold
            const int middle = (kept + most) / 2;
            if (scores[middle] > p.threshold)
                kept = middle + 1;
            else
                most = middle;
        }
        p.kept[image] = kept;
        starts[image + 1] = kept;
    }
    __syncthreads();
    if (thread == 0) {
        starts[0] = 0;
        for (int image = 0; image < p.batch; ++image) starts[image + 1] += starts[image];
    }
    __syncthreads();
    const int width = p.joints ? 5 + 3 * p.jointCount : 6;
    for (int image = 0; image < p.batch; ++image) {
        const Place place = p.places[image];
        const int kept = starts[image + 1] - starts[image];
        const long long first = static_cast<long long>(image) * p.limit;
        float* out = p.rows + static_cast<long long>(starts[image]) * width;
        for (int i = thread; i < kept * width; i += kFrameThreads) {
            const long long row = first + i / width;
            const int column = i % width;
            float value;
            if (column < 4) {
                value = p.boxes[row * 4 + column];
                value = column % 2 == 0 ? undo(value, place.left, place.scaleX) : undo(value, place.top, place.scaleY);
            } else if (column == 4) {
                value = p.scores[row];
            } else if (!p.joints) {
                value = static_cast<float>(p.classes[row]);
            } else {
                const int part = (column - 5) % 3;
                value = p.joints[row * 3 * p.jointCount + (column - 5)];
                if (part == 0) value = undo(value, place.left, place.scaleX);
                if (part == 1) value = undo(value, place.top, place.scaleY);
            }
            out[i] = value;
        }
    }
}

#endif

}  // namespace trt_pose

#ifdef TRT_POSE_KERNELS

// Launch: ceil(width * height / 256) blocks of 256 threads, once per image.
extern "C" __global__ void __launch_bounds__(trt_pose::kFrameThreads) letterbox(trt_pose::LetterboxParams params) {
    const int at = static_cast<int>(blockIdx.x) * trt_pose::kFrameThreads + static_cast<int>(threadIdx.x);
    if (at < params.width * params.height) trt_pose::letterboxPixel(params, at % params.width, at / params.width);
}

// Launch: one block of 256 threads per batch of at most 1024 images.
extern "C" __global__ void __launch_bounds__(trt_pose::kFrameThreads) pack_rows(trt_pose::PackParams params) {
    __shared__ int starts[trt_pose::kMaxPackBatch + 1];
    trt_pose::packRows(params, starts);
}

#endif
