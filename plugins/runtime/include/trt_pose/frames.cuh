// What stands before and after the engine: the letterbox of an image, and the rows of a batch packed for the way back.
//
// Plain C++17 without any include: g++ compiles the arithmetic for core.hpp, nvcc and NVRTC the kernels as well. The
// resize is OpenCV's INTER_LINEAR on bytes, weights of 11 bits and all, so that CPU and GPU give the same image.
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

// Source pixels per pixel of the resized image, along an axis. A division of doubles: once per image, on the host.
TRT_POSE_BOTH inline double stepOf(int source, int resized) { return 1.0 / (static_cast<double>(resized) / source); }

// Where pixel `at` of the resized image comes from along an axis of `source` pixels. OpenCV stops at the edge of a row
// before it weighs, and after it has weighed at the edge of a column.
TRT_POSE_BOTH inline Tap tapOf(int at, int source, double step, bool isColumn) {
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

// How an image was placed: a source point lies at (x * scaleX + left, y * scaleY + top) of the network input.
struct Place {
    float scaleX, scaleY, left, top;
};

// One image on its way into the network input.
struct Frame {
    Place place;
    const unsigned char* source;  // (sourceHeight, sourceWidth, 3) RGB, rows `sourcePitch` bytes apart
    double stepX, stepY;          // see stepOf()
    int sourceWidth, sourceHeight, sourcePitch;
    int newWidth, newHeight;  // of the resized image
    int left, top;            // its place
    int unused;               // fills the last eight bytes
};

struct LetterboxParams {
    const Frame* frames;  // (B)
    void* target;         // (B, 3, height, width), bytes or floats 0..white
    int width, height;    // of the network input
    int pad;              // grey level around the image
    int floats;           // 1: the target holds floats
    float unit;           // what a grey level is in floats: 1, or 1/255
};

TRT_POSE_BOTH inline Tap columnTap(const Frame& frame, int x) {
    return tapOf(x - frame.left, frame.sourceWidth, frame.stepX, true);
}

TRT_POSE_BOTH inline Tap rowTap(const Frame& frame, int y) {
    return tapOf(y - frame.top, frame.sourceHeight, frame.stepY, false);
}

// The pixel (x, y) of the network input of one image, all three channels.
TRT_POSE_BOTH inline void letterboxPixel(const LetterboxParams& p, int image, int x, int y, const Tap& horizontal,
                                         const Tap& vertical) {
    const Frame& frame = p.frames[image];
    const long long plane = static_cast<long long>(p.width) * p.height;
    const long long at = 3 * image * plane + static_cast<long long>(y) * p.width + x;
    unsigned char values[3];
    const int column = x - frame.left, row = y - frame.top;
    const bool inside = column >= 0 && column < frame.newWidth && row >= 0 && row < frame.newHeight;
    for (int channel = 0; channel < 3; ++channel) values[channel] = static_cast<unsigned char>(p.pad);
    if (inside) {
        const unsigned char* upper = frame.source + static_cast<long long>(vertical.first) * frame.sourcePitch;
        const unsigned char* lower = frame.source + static_cast<long long>(vertical.second) * frame.sourcePitch;
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

struct PackParams {
    const int* counts;    // (B, 1) rows of each image
    const float* boxes;   // (B, N, 4) px of the network input
    const float* scores;  // (B, N) descending
    const float* joints;  // (B, N, J, 3), null for detections
    const int* classes;   // (B, N), null for poses
    const Frame* frames;  // (B), for their places
    int* kept;            // (B) rows that follow, image by image
    float* rows;          // (sum of kept, width): box, score, joints or class, px of the source images
    int batch, limit, jointCount;
    float threshold;  // kept: score > threshold
};

#ifdef TRT_POSE_KERNELS

constexpr int kFrameThreads = 256;
constexpr int kMaxPackBatch = 1024;
constexpr int kTileWidth = 64, kTileHeight = 16;

__device__ inline float undo(float value, float offset, float scale) {
    return __fdiv_rn(__fsub_rn(value, offset), scale);
}

// One block: a tile of one image. The taps need doubles, which GeForce and Jetson GPUs compute at 1/64 of their speed;
// a tile has 80 of them for its 1,024 pixels.
__device__ inline void letterboxTile(const LetterboxParams& p, Tap* columns, Tap* rows) {
    const int thread = static_cast<int>(threadIdx.x), image = static_cast<int>(blockIdx.y);
    const int across = (p.width + kTileWidth - 1) / kTileWidth;
    const int left = static_cast<int>(blockIdx.x) % across * kTileWidth;
    const int top = static_cast<int>(blockIdx.x) / across * kTileHeight;
    const Frame& frame = p.frames[image];
    if (thread < kTileWidth)
        columns[thread] = columnTap(frame, left + thread);
    else if (thread < kTileWidth + kTileHeight)
        rows[thread - kTileWidth] = rowTap(frame, top + thread - kTileWidth);
    __syncthreads();
    for (int i = thread; i < kTileWidth * kTileHeight; i += kFrameThreads) {
        const int x = i % kTileWidth, y = i / kTileWidth;
        if (left + x < p.width && top + y < p.height) letterboxPixel(p, image, left + x, top + y, columns[x], rows[y]);
    }
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
        const Place place = p.frames[image].place;
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

// Launch: a grid of (tiles, images) blocks of 256 threads; tiles of 64 x 16 pixels, the last ones past the edge.
extern "C" __global__ void __launch_bounds__(trt_pose::kFrameThreads) letterbox(trt_pose::LetterboxParams params) {
    __shared__ trt_pose::Tap columns[trt_pose::kTileWidth];
    __shared__ trt_pose::Tap rows[trt_pose::kTileHeight];
    trt_pose::letterboxTile(params, columns, rows);
}

// Launch: one block of 256 threads per batch of at most 1024 images.
extern "C" __global__ void __launch_bounds__(trt_pose::kFrameThreads) pack_rows(trt_pose::PackParams params) {
    __shared__ int starts[trt_pose::kMaxPackBatch + 1];
    trt_pose::packRows(params, starts);
}

#endif
