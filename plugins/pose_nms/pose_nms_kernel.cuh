// PoseNMS_TRT and DetectionNMS_TRT, the kernel: greedy non-maximum suppression of one image per block, class by class,
// joints following their boxes. Poses have one class, detections have no joints.
//
// Its logic is proven on the CPU, bit for bit; no GPU has run it yet (plugins/README.md).
//
// What it computes is specified in plugins/README.md. The file is plain CUDA C++17 without any include, so that nvcc,
// NVRTC and, through cpu/cuda_on_cpu.hpp, g++ compile the very same lines.
//
// Steps of a block: collect the scores above the threshold -> narrow them to the best `candidates` -> sort ->
// suppress tile by tile -> write. A candidate is a pair of anchor and class, `anchor * classes + class`. Candidates are
// 64-bit keys (score bits, then the pair inverted), all different, so that every step has one possible result whatever
// the order in which threads run.
#pragma once

namespace trt_pose {

using Key = unsigned long long;

constexpr int kMaxCandidates =
    4096;  // keys of that many fit the 48 KiB of shared memory every GPU gives without asking
constexpr int kMaxAnchors = 65536;
constexpr int kMaxClasses = 4096;
constexpr int kPairBits = 28;   // of a key: 65,536 anchors of 4,096 classes
constexpr int kTile = 64;       // candidates resolved at a time: one 64-bit word per row of the overlap matrix
constexpr int kDigitBits = 12;  // of a radix-select pass: five passes over the 60 bits of a key
constexpr int kBins = 1 << kDigitBits;
constexpr unsigned kFullWarp = 0xffffffffu;

struct PoseNmsParams {
    const float* boxes;   // (B, A, 4) xyxy
    const float* scores;  // (B, A, K)
    const float* joints;  // (B, A, J, 3)
    int* numPredictions;  // (B, 1)
    float* predBoxes;     // (B, N, 4)
    float* predScores;    // (B, N)
    float* predJoints;    // (B, N, J, 3)
    int* predClasses;     // (B, N), null where nobody asks for them
    int anchors;          // A, 1..65536
    int classes;          // K, 1..4096
    int jointCount;       // J, 0..256
    int candidates;       // num_pre_nms_predictions, 1..4096
    int limit;            // N = max_output_boxes, 1..4096
    float scoreThreshold;
    float iouThreshold;
};

struct Box {
    float x1, y1, x2, y2;
};

struct Shared {
    union {
        Key keys[kMaxCandidates];
        unsigned histogram[kBins];  // while narrowing, before the keys are there
    };
    unsigned short kept[kMaxCandidates];  // places in `keys` of the survivors, in order
    Box tile[kTile];
    int tileClass[kTile];
    unsigned rows[kTile][2];  // row r: later candidates of the tile that r suppresses
    unsigned alive[2];        // candidates of the tile no earlier survivor suppresses
    unsigned found;           // scores above the threshold, later keys collected
    unsigned groups[32];      // a radix-select pass: keys in each 32nd of the bins,
    unsigned digit, before;   // the chosen bin, and keys in better bins
};

// Products and sums are rounded one by one: a fused multiply-add would move candidates across the IoU threshold
// between compilers, and away from the CPU reference.
__device__ inline float area(const Box& box) { return __fmul_rn(__fsub_rn(box.x2, box.x1), __fsub_rn(box.y2, box.y1)); }

// Corners in ascending order; NaN stays where a false comparison leaves it.
__device__ inline Box ordered(float x1, float y1, float x2, float y2) {
    return Box{x1 < x2 ? x1 : x2, y1 < y2 ? y1 : y2, x1 < x2 ? x2 : x1, y1 < y2 ? y2 : y1};
}

// IoU > threshold for boxes with ordered corners; empty boxes overlap nothing, NaN neither.
__device__ inline bool overlaps(const Box& a, const Box& b, float threshold) {
    const float left = a.x1 > b.x1 ? a.x1 : b.x1;
    const float top = a.y1 > b.y1 ? a.y1 : b.y1;
    const float right = a.x2 < b.x2 ? a.x2 : b.x2;
    const float bottom = a.y2 < b.y2 ? a.y2 : b.y2;
    const float width = __fsub_rn(right, left);
    const float height = __fsub_rn(bottom, top);
    if (!(width > 0.0f && height > 0.0f)) return false;
    const float common = __fmul_rn(width, height);
    const float total = __fsub_rn(__fadd_rn(area(a), area(b)), common);
    if (!(total > 0.0f)) return false;
    return __fdiv_rn(common, total) > threshold;
}

// Scores above a threshold >= 0 are positive floats, whose bits ascend with their value; of equal scores the lower
// pair has the larger key.
constexpr Key kPairMask = (Key{1} << kPairBits) - 1;
__device__ inline Key makeKey(float score, int pair) {
    return (static_cast<Key>(__float_as_uint(score)) << kPairBits) | (kPairMask - static_cast<Key>(pair));
}
__device__ inline int pairOf(Key key) { return static_cast<int>(kPairMask - (key & kPairMask)); }
__device__ inline float scoreOf(Key key) { return __uint_as_float(static_cast<unsigned>(key >> kPairBits)); }

template <int kThreads>
class PoseNms {
  public:
    __device__ PoseNms(const PoseNmsParams& params, Shared& memory, int image)
        : p(params), shared(memory), thread(static_cast<int>(threadIdx.x)), pairs(params.anchors * params.classes) {
        scores = p.scores + static_cast<long long>(image) * pairs;
        boxes = p.boxes + static_cast<long long>(image) * p.anchors * 4;
        joints = p.joints + static_cast<long long>(image) * p.anchors * p.jointCount * 3;
        outCount = p.numPredictions + image;
        outBoxes = p.predBoxes + static_cast<long long>(image) * p.limit * 4;
        outScores = p.predScores + static_cast<long long>(image) * p.limit;
        outJoints = p.predJoints + static_cast<long long>(image) * p.limit * p.jointCount * 3;
        outClasses = p.predClasses ? p.predClasses + static_cast<long long>(image) * p.limit : nullptr;
    }

    __device__ void run() {
        clear();  // first: the stores drain while the block looks at scores
        int count = collect(0);
        if (count > p.candidates) count = collect(smallestChosen());
        sort(count);
        write(suppress(count));
    }

  private:
    static_assert(kThreads % 32 == 0 && kThreads >= 64, "a block is two warps or more");
    static constexpr int kSlots = (kMaxCandidates + kThreads - 1) / kThreads;  // candidates a thread looks after

    const PoseNmsParams& p;
    Shared& shared;
    const int thread;
    const int pairs;  // 1..2^28
    const float *scores, *boxes, *joints;
    int *outCount, *outClasses;
    float *outBoxes, *outScores, *outJoints;

    __device__ Key keyAt(int pair) const {
        if (pair >= pairs) return 0;
        const float score = scores[pair];
        return score > p.scoreThreshold ? makeKey(score, pair) : 0;  // NaN is above nothing
    }

    __device__ void clear() {
        for (int i = thread; i < p.limit * 4; i += kThreads) outBoxes[i] = 0.0f;
        for (int i = thread; i < p.limit; i += kThreads) outScores[i] = 0.0f;
        for (int i = thread; i < p.limit * p.jointCount * 3; i += kThreads) outJoints[i] = 0.0f;
        for (int i = thread; outClasses && i < p.limit; i += kThreads) outClasses[i] = -1;
    }

    // Gathers the keys from `least` on, in any order; returns how many there are, of which the first
    // kMaxCandidates are in shared memory.
    __device__ int collect(Key least) {
        if (thread == 0) shared.found = 0;
        __syncthreads();
        for (int base = 0; base < pairs; base += kThreads) {
            const Key key = keyAt(base + thread);
            const bool chosen = key != 0 && key >= least;
            const unsigned votes = __ballot_sync(kFullWarp, chosen);
            if (votes == 0) continue;
            const int lane = thread % 32;
            unsigned place = 0;
            if (lane == 0) place = atomicAdd(&shared.found, static_cast<unsigned>(__popc(votes)));
            place = __shfl_sync(kFullWarp, place, 0) + __popc(votes & ((1u << lane) - 1));
            if (chosen && place < kMaxCandidates) shared.keys[place] = key;
        }
        __syncthreads();
        const int found = static_cast<int>(shared.found);
        __syncthreads();  // before anybody counts again
        return found;
    }

    // Radix select: the smallest of the best `candidates` keys. Called when there are more keys than that.
    __device__ Key smallestChosen() {
        Key prefix = 0;
        int wanted = p.candidates;
        for (int shift = 32 + kPairBits - kDigitBits; shift >= 0; shift -= kDigitBits) {
            for (int bin = thread; bin < kBins; bin += kThreads) shared.histogram[bin] = 0;
            __syncthreads();
            for (int base = 0; base < pairs; base += kThreads) {
                const Key key = keyAt(base + thread);
                if (key != 0 && (key >> (shift + kDigitBits)) == prefix)
                    atomicAdd(&shared.histogram[static_cast<unsigned>(key >> shift) & (kBins - 1)], 1u);
            }
            __syncthreads();
            chooseDigit(static_cast<unsigned>(wanted));
            __syncthreads();
            prefix = (prefix << kDigitBits) | shared.digit;
            wanted -= static_cast<int>(shared.before);
            const bool whole = static_cast<int>(shared.histogram[shared.digit]) == wanted;
            __syncthreads();                    // before the histogram is cleared
            if (whole) return prefix << shift;  // every key of the bin is among the chosen
        }
        return prefix;
    }

    // Finds the bin that holds the `wanted`-th best key: all warps sum groups of bins, then one warp walks the groups'
    // sums and the bins of one group, 32 at a time, from the best down.
    __device__ void chooseDigit(unsigned wanted) {
        constexpr int kGroup = kBins / 32;
        const int lane = thread % 32;
        for (int group = thread / 32; group < 32; group += kThreads / 32) {
            unsigned sum = 0;
            for (int bin = lane; bin < kGroup; bin += 32) sum += shared.histogram[group * kGroup + bin];
            for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(kFullWarp, sum, step);
            if (lane == 0) shared.groups[group] = sum;
        }
        __syncthreads();
        if (thread >= 32) return;
        unsigned before = 0;
        const int group = 31 - firstToReach(wanted, shared.groups[31 - lane], before);
        for (int last = (group + 1) * kGroup - 1;; last -= 32) {
            const int step = firstToReach(wanted, shared.histogram[last - lane], before);
            if (step == 32) continue;
            if (lane == 0) {
                shared.digit = static_cast<unsigned>(last - step);
                shared.before = before;
            }
            return;
        }
    }

    // The first lane at which `before` and the lanes' values up to it add up to `wanted`, or 32; adds the values ahead
    // of that lane to `before`.
    __device__ int firstToReach(unsigned wanted, unsigned value, unsigned& before) {
        unsigned upTo = value;
        for (int step = 1; step < 32; step *= 2) {
            const unsigned other = __shfl_up_sync(kFullWarp, upTo, step);
            if (thread % 32 >= step) upTo += other;
        }
        const unsigned reached = __ballot_sync(kFullWarp, before + upTo >= wanted);
        const int lane = reached == 0 ? 32 : __ffsll(static_cast<long long>(reached)) - 1;
        before += __shfl_sync(kFullWarp, lane == 32 ? upTo : upTo - value, lane == 32 ? 31 : lane);
        return lane;
    }

    // Bitonic sort of the keys, descending (K. E. Batcher, Sorting networks and their applications, 1968).
    __device__ void sort(int count) {
        int size = 2;
        while (size < count) size *= 2;
        for (int i = count + thread; i < size; i += kThreads) shared.keys[i] = 0;
        __syncthreads();
        for (int run = 2; run <= size; run *= 2) {
            for (int distance = run / 2; distance > 0; distance /= 2) {
                for (int pair = thread; pair < size / 2; pair += kThreads) {
                    const int low = 2 * pair - (pair & (distance - 1));
                    const int high = low + distance;
                    const Key a = shared.keys[low], b = shared.keys[high];
                    const bool descending = (low & run) == 0;
                    if ((a < b) == descending) {
                        shared.keys[low] = b;
                        shared.keys[high] = a;
                    }
                }
                __syncthreads();
            }
        }
    }

    __device__ Box load(int anchor) const {
        const float* box = boxes + static_cast<long long>(anchor) * 4;
        return ordered(box[0], box[1], box[2], box[3]);
    }

    // Greedy suppression of the sorted candidates. Each thread keeps every kThreads-th candidate in registers and drops
    // it as soon as a survivor overlaps it; a tile of candidates is resolved at once by its overlap matrix.
    __device__ int suppress(int count) {
        Box mine[kSlots] = {};
        int kinds[kSlots] = {};
        bool alive[kSlots];
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const int place = slot * kThreads + thread;
            alive[slot] = place < count;
            if (!alive[slot]) continue;
            const int pair = pairOf(shared.keys[place]);
            mine[slot] = load(pair / p.classes);
            kinds[slot] = pair % p.classes;
        }
        int kept = 0;
        for (int start = 0; start < count && kept < p.limit; start += kTile) {
            publish(start, mine, kinds, alive);
            compareTile();
            const Key survivors = resolve(start, kept);
#pragma unroll
            for (int slot = 0; slot < kSlots; ++slot) {
                if (slot * kThreads + thread < start + kTile) alive[slot] = false;
                for (Key left = survivors; alive[slot] && left != 0; left &= left - 1) {
                    const int row = __ffsll(static_cast<long long>(left)) - 1;
                    alive[slot] =
                        shared.tileClass[row] != kinds[slot] || !overlaps(shared.tile[row], mine[slot], p.iouThreshold);
                }
            }
            __syncthreads();  // tile, rows and liveness are read before the next tile overwrites them
        }
        return kept;
    }

    // Copies the tile's boxes and liveness from their threads' registers into shared memory. Tiles begin at multiples
    // of 64 and warps look after 32 candidates in a row, so that one vote fills one word.
    __device__ void publish(int start, const Box (&mine)[kSlots], const int (&kinds)[kSlots],
                            const bool (&alive)[kSlots]) {
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
            const int row = slot * kThreads + thread - start;
            const bool inside = row >= 0 && row < kTile;
            const bool lives = inside && alive[slot];
            const unsigned votes = __ballot_sync(kFullWarp, lives);
            if (inside) {
                shared.tile[row] = mine[slot];
                shared.tileClass[row] = kinds[slot];
                if (thread % 32 == 0) shared.alive[row / 32] = votes;
            }
        }
        __syncthreads();
    }

    // The overlap matrix of the tile, above its diagonal: a warp looks at 32 columns of a row at a time.
    __device__ void compareTile() {
        for (int pair = thread; pair < kTile * kTile; pair += kThreads) {
            const int row = pair / kTile, column = pair % kTile;
            const bool hit = row < column && shared.tileClass[row] == shared.tileClass[column] &&
                             overlaps(shared.tile[row], shared.tile[column], p.iouThreshold);
            const unsigned votes = __ballot_sync(kFullWarp, hit);
            if (thread % 32 == 0) shared.rows[row][column / 32] = votes;
        }
        __syncthreads();
    }

    // The survivors of the tile as bits; every thread computes the same. Appends them to `shared.kept`.
    __device__ Key resolve(int start, int& kept) {
        Key pending = (static_cast<Key>(shared.alive[1]) << 32) | shared.alive[0];
        Key survivors = 0;
        while (pending != 0 && kept < p.limit) {
            const int row = __ffsll(static_cast<long long>(pending)) - 1;
            survivors |= Key{1} << row;
            pending &= ~((static_cast<Key>(shared.rows[row][1]) << 32) | shared.rows[row][0] | (Key{1} << row));
            if (thread == 0) shared.kept[kept] = static_cast<unsigned short>(start + row);
            ++kept;
        }
        return survivors;
    }

    // A warp per survivor; the rest of the outputs is zero already.
    __device__ void write(int kept) {
        if (thread == 0) *outCount = kept;
        const int width = p.jointCount * 3;
        for (int row = thread / 32; row < kept; row += kThreads / 32) {
            const Key key = shared.keys[shared.kept[row]];
            const int pair = pairOf(key), anchor = pair / p.classes, lane = thread % 32;
            const float* from = joints + static_cast<long long>(anchor) * width;
            float* to = outJoints + static_cast<long long>(row) * width;
            for (int i = lane; i < width; i += 32) to[i] = from[i];
            if (lane < 4) outBoxes[row * 4 + lane] = boxes[static_cast<long long>(anchor) * 4 + lane];
            if (lane == 4) outScores[row] = scoreOf(key);
            if (lane == 5 && outClasses) outClasses[row] = pair % p.classes;
        }
    }
};

// Launch: grid B blocks, block kThreads threads, no dynamic shared memory.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) poseNms(PoseNmsParams params) {
    __shared__ Shared shared;
    PoseNms<kThreads>(params, shared, static_cast<int>(blockIdx.x)).run();
}

constexpr int kBlockThreads = 1024;

}  // namespace trt_pose

// The name NVRTC looks up.
extern "C" __global__ void __launch_bounds__(trt_pose::kBlockThreads) pose_nms(trt_pose::PoseNmsParams params) {
    __shared__ trt_pose::Shared shared;
    trt_pose::PoseNms<trt_pose::kBlockThreads>(params, shared, static_cast<int>(blockIdx.x)).run();
}
