// The last step of Keypoint R-CNN: from the heatmaps of a box to the positions of its joints. One block works on a
// joint of a box.
//
// torchvision enlarges each heatmap to the size of its box (bicubic, A = -0.75, corners not aligned, borders repeated)
// and takes the place of the largest value. Here the values of the enlarged map are computed one after another and not
// stored.
//
// The file is plain CUDA C++17 without any include, so that nvcc, NVRTC and, through ../pose_nms/cpu/cuda_on_cpu.hpp,
// g++ compile the very same lines. Products and sums are rounded one by one, so that every compiler gives the same
// place.
#pragma once

namespace trt_pose {

constexpr int kMaxHeatmap = 64;       // side of a heatmap
constexpr float kMaxSide = 65535.0f;  // of a box, px: places are 32-bit numbers

// A block works on as many rows of the enlarged map at a time, with a part of its threads on each.
constexpr int kKeypointLanes = 8;

struct KeypointDecodeParams {
    const float* heatmaps;  // (R, K, S, S), logits
    const float* boxes;     // (R, 4) xyxy
    float* joints;          // (R, K, 3): x, y as the boxes, and the logit there
    int jointCount;         // K
    int size;               // S, 1..64
};

// The weights of four neighbours: R. Keys, Cubic convolution interpolation for digital image processing, 1981.
struct Cubic {
    float weight[4];
    int first;  // the first neighbour, which may be outside

    __device__ Cubic(int place, float scale) {
        const float at = __fsub_rn(__fmul_rn(__fadd_rn(static_cast<float>(place), 0.5f), scale), 0.5f);
        const float below = floorf(at), t = __fsub_rn(at, below);
        first = static_cast<int>(below) - 1;
        weight[0] = far(__fadd_rn(t, 1.0f));
        weight[1] = near(t);
        weight[2] = near(__fsub_rn(1.0f, t));
        weight[3] = far(__fsub_rn(2.0f, t));
    }

    template <class Value>
    __device__ float sum(Value value) const {
        float total = __fmul_rn(weight[0], value(0));
#pragma unroll
        for (int i = 1; i < 4; ++i) total = __fadd_rn(total, __fmul_rn(weight[i], value(i)));
        return total;
    }

  private:
    static constexpr float kA = -0.75f;

    static __device__ float near(float x) {  // up to 1 away
        return __fadd_rn(__fmul_rn(__fmul_rn(__fsub_rn(__fmul_rn(kA + 2, x), kA + 3), x), x), 1.0f);
    }
    static __device__ float far(float x) {  // 1 to 2 away
        const float inner = __fadd_rn(__fmul_rn(__fsub_rn(__fmul_rn(kA, x), 5 * kA), x), 8 * kA);
        return __fsub_rn(__fmul_rn(inner, x), 4 * kA);
    }
};

struct KeypointShared {
    float map[kMaxHeatmap * kMaxHeatmap];
    // Rows of the map, enlarged downwards only; the next ones are made while these are read.
    float line[2][kKeypointLanes][kMaxHeatmap];
    unsigned long long best[32];
};

template <int kThreads>
class KeypointDecode {
  public:
    __device__ KeypointDecode(const KeypointDecodeParams& params, KeypointShared& memory)
        : p(params),
          shared(memory),
          thread(static_cast<int>(threadIdx.x)),
          lane(thread / kColumns),
          own(thread % kColumns),
          size(params.size) {
        const auto joint = static_cast<long long>(blockIdx.y) * p.jointCount + blockIdx.x;
        heatmap = p.heatmaps + joint * size * size;
        out = p.joints + joint * 3;
        const float* box = p.boxes + static_cast<long long>(blockIdx.y) * 4;
        left = box[0];
        top = box[1];
        width = side(__fsub_rn(box[2], left));
        height = side(__fsub_rn(box[3], top));
        columns = static_cast<int>(ceilf(width));
        rows = static_cast<int>(ceilf(height));
    }

    __device__ void run() {
        for (int place = thread; place < size * size; place += kThreads) shared.map[place] = heatmap[place];
        __syncthreads();
        unsigned long long best = 0;
        for (int start = 0; start < columns; start += kColumns) {
            const unsigned long long found = searchColumn(start + own);
            if (found > best) best = found;
        }
        best = largest(best);
        if (thread == 0) write(best);
    }

  private:
    static constexpr int kColumns = kThreads / kKeypointLanes;
    static_assert(kThreads % 32 == 0 && kColumns >= kMaxHeatmap, "a thread for each column of a heatmap");

    const KeypointDecodeParams& p;
    KeypointShared& shared;
    const int thread, lane, own;  // own: its column among those of its lane
    const int size;
    const float* heatmap;
    float* out;
    float left, top, width, height;
    int columns, rows;  // of the enlarged map

    // The side of a box, at least 1; of one that is no number, 1.
    static __device__ float side(float length) { return fminf(fmaxf(length, 1.0f), kMaxSide); }

    __device__ int clamp(int place) const { return place < 0 ? 0 : (place >= size ? size - 1 : place); }

    // The best value of a column of the enlarged map, with its place; 0 where there is none. All threads of the block
    // take part, those past the last column, too.
    __device__ unsigned long long searchColumn(int column) {
        const Cubic across(column, __fdiv_rn(static_cast<float>(size), static_cast<float>(columns)));
        int at[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) at[i] = clamp(across.first + i);
        const float scale = __fdiv_rn(static_cast<float>(size), static_cast<float>(rows));
        unsigned long long best = 0;
        for (int first = 0; first < rows; first += kKeypointLanes) {
            const int row = first + lane;
            float* line = shared.line[(first / kKeypointLanes) & 1][lane];
            if (own < size && row < rows) {
                const Cubic down(row, scale);
                line[own] = down.sum([&](int i) { return shared.map[clamp(down.first + i) * size + own]; });
            }
            __syncthreads();
            if (column >= columns || row >= rows) continue;
            const float value = across.sum([&](int i) { return line[at[i]]; });
            const unsigned long long key = keyOf(value, static_cast<unsigned>(row) * columns + column);
            if (key > best) best = key;
        }
        __syncthreads();  // the lines are read before the next columns begin
        return best;
    }

    // Larger for larger values, of equal ones for the earlier place; 0 for what is no number.
    static __device__ unsigned long long keyOf(float value, unsigned place) {
        if (value != value) return 0;
        const unsigned bits = __float_as_uint(value);
        const unsigned ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
        return (static_cast<unsigned long long>(ordered) << 32) | (0xffffffffu - place);
    }

    __device__ unsigned long long largest(unsigned long long key) {
        for (int step = 16; step > 0; step /= 2) {
            const unsigned long long other = __shfl_xor_sync(0xffffffffu, key, step);
            if (other > key) key = other;
        }
        if (thread % 32 == 0) shared.best[thread / 32] = key;
        __syncthreads();
        for (int warp = 0; warp < kThreads / 32; ++warp)
            if (shared.best[warp] > key) key = shared.best[warp];
        return key;
    }

    __device__ void write(unsigned long long best) {
        const unsigned ordered = static_cast<unsigned>(best >> 32);
        const unsigned place = best == 0 ? 0 : 0xffffffffu - static_cast<unsigned>(best);
        const unsigned bits = (ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered;  // no number: a NaN
        const unsigned row = place / columns, column = place - row * columns;
        out[0] = __fadd_rn(__fmul_rn(static_cast<float>(column) + 0.5f, __fdiv_rn(width, static_cast<float>(columns))),
                           left);
        out[1] = __fadd_rn(__fmul_rn(static_cast<float>(row) + 0.5f, __fdiv_rn(height, static_cast<float>(rows))), top);
        out[2] = __uint_as_float(bits);
    }
};

template <int kThreads>
__device__ void keypointDecode(const KeypointDecodeParams& params) {
    __shared__ KeypointShared shared;
    KeypointDecode<kThreads>(params, shared).run();
}

constexpr int kKeypointThreads = 512;

}  // namespace trt_pose

// The name that NVRTC finds it by. The grid is (K, R).
extern "C" __global__ void __launch_bounds__(trt_pose::kKeypointThreads)
    keypoint_decode(trt_pose::KeypointDecodeParams params) {
    trt_pose::keypointDecode<trt_pose::kKeypointThreads>(params);
}
