// PoseNMS_TRT and DetectionNMS_TRT, the kernel: greedy non-maximum suppression of one image per block, class by class,
// joints following their boxes. Poses have one class, detections have no joints.
//
// Its logic is proven on the CPU, bit for bit, and measured on a GPU (benchmarks/results/pose_nms_lab.md).
//
// What it computes is specified in plugins/README.md. The file is plain CUDA C++17 without any include, so that nvcc,
// NVRTC and, through cpu/cuda_on_cpu.hpp, g++ compile the very same lines.
//
// Steps of a block: collect the scores above the threshold -> narrow them to the best `candidates` -> sort ->
// suppress tile by tile -> write. One block works on an image, so latency decides: loads are issued together, warps
// sort and decide in registers, and barriers are few. A candidate is a pair of anchor and class, `anchor * classes +
// class`. Candidates are 64-bit keys (score bits, then the pair inverted), all different, so that every step has one
// possible result whatever the order in which threads run.
#pragma once

namespace trt_pose {

using Key = unsigned long long;

constexpr int kMaxCandidates =
    4096;  // keys of that many fit the 48 KiB of shared memory every GPU gives without asking
constexpr int kMaxAnchors = 65536;
constexpr int kMaxClasses = 4096;
constexpr int kPairBits = 28;    // of a key: 65,536 anchors of 4,096 classes
constexpr int kTile = 64;        // candidates resolved at a time: one 64-bit word per column of the overlap matrix
constexpr int kSegment = 64;     // keys that a warp sorts in registers, two per lane
constexpr int kAhead = 16;       // scores that a thread loads before it looks at the first
constexpr int kKeptBoxes = 512;  // survivors whose boxes are in shared memory; of later ones they are loaded again
constexpr int kDigitBits = 12;   // of a radix-select pass: five passes over the 60 bits of a key
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

struct alignas(16) Box {
    float x1, y1, x2, y2;
};

struct Shared {
    union {
        Key keys[kMaxCandidates];   // sorted; those of the survivors move to the front
        unsigned histogram[kBins];  // while narrowing, before the keys are there
    };
    Box keptBoxes[kKeptBoxes];
    unsigned short keptClasses[kKeptBoxes];
    Box tile[kTile];
    int tileClass[kTile];
    unsigned earlier[kTile][2];  // column c: earlier candidates of the tile that overlap c
    unsigned alive[2];           // candidates of the tile that no survivor of earlier tiles overlaps
    int kept;                    // survivors so far
    unsigned found;              // scores above the threshold, later keys collected
    unsigned groups[32];         // a radix-select pass: keys in each 32nd of the bins,
    unsigned digit, before;      // the chosen bin, and keys in better bins
};

// Products and sums are rounded one by one: a fused multiply-add would move candidates across the IoU threshold
// between compilers, and away from the CPU reference.
__device__ inline float area(const Box& box) { return __fmul_rn(__fsub_rn(box.x2, box.x1), __fsub_rn(box.y2, box.y1)); }

// Corners in ascending order; a box with a NaN becomes one that overlaps nothing.
__device__ inline Box ordered(float x1, float y1, float x2, float y2) {
    const float infinity = __uint_as_float(0x7f800000u);
    if (x1 != x1 || y1 != y1 || x2 != x2 || y2 != y2) return Box{infinity, infinity, -infinity, -infinity};
    return Box{fminf(x1, x2), fminf(y1, y2), fmaxf(x1, x2), fmaxf(y1, y2)};
}

// IoU > threshold for ordered boxes; empty boxes overlap nothing. The quotient is specified, and rounded; where a
// product is far enough from it, no division is needed. There is one branch, which is rarely taken: branches cost a
// warp more than the arithmetic.
class Overlap {
  public:
    __device__ explicit Overlap(float threshold)
        : threshold_(threshold),
          surely_(threshold * (1 + kMargin) + kTiny),
          never_(threshold * (1 - kMargin) - kTiny) {}

    __device__ bool operator()(const Box& a, const Box& b) const {
        const float width = __fsub_rn(fminf(a.x2, b.x2), fmaxf(a.x1, b.x1));
        const float height = __fsub_rn(fminf(a.y2, b.y2), fmaxf(a.y1, b.y1));
        const float common = __fmul_rn(width, height);
        const float total = __fsub_rn(__fadd_rn(area(a), area(b)), common);
        const bool meet = (width > 0.0f) & (height > 0.0f) & (total > 0.0f);
        const float bar = surely_ * total;
        bool over = common > bar;
        const bool under = common < never_ * total;
        // A product below kTiny may be rounded coarsely.
        if (meet & !((bar > kTiny) & (over | under))) over = __fdiv_rn(common, total) > threshold_;
        return meet & over;
    }

  private:
    static constexpr float kMargin = 1.0f / (1 << 20);  // more than all roundings together
    static constexpr float kTiny = 1e-30f;
    const float threshold_, surely_, never_;
};

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
        : p(params),
          shared(memory),
          thread(static_cast<int>(threadIdx.x)),
          pairs(params.anchors * params.classes),
          overlaps(params.iouThreshold) {
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

    // A candidate of the tile, in the registers of the thread that looks after it.
    struct Candidate {
        Key key;  // 0 past the last one
        Box box;
        int kind;
    };

    const PoseNmsParams& p;
    Shared& shared;
    const int thread;
    const int pairs;  // 1..2^28
    const Overlap overlaps;
    const float *scores, *boxes, *joints;
    int *outCount, *outClasses;
    float *outBoxes, *outScores, *outJoints;

    __device__ int anchorOf(int pair) const { return p.classes == 1 ? pair : pair / p.classes; }
    __device__ int classOf(int pair) const { return p.classes == 1 ? 0 : pair % p.classes; }

    // Calls visit(ahead, pair) with kAhead scores of the thread, of which the first is of `pair` and the next kThreads
    // pairs on; 0, which is above no threshold, past the last.
    template <class Visit>
    __device__ void eachScore(Visit visit) const {
        for (int base = 0; base < pairs; base += kThreads * kAhead) {
            float ahead[kAhead];
#pragma unroll
            for (int i = 0; i < kAhead; ++i) {
                const int pair = base + i * kThreads + thread;
                ahead[i] = pair < pairs ? scores[pair] : 0.0f;
            }
            visit(ahead, base + thread);
        }
    }

    __device__ Key keyAt(int pair) const { return makeKey(scores[pair], pair); }

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
        eachScore([&](const float (&ahead)[kAhead], int pair) {
            unsigned chosen = 0;
#pragma unroll
            for (int i = 0; i < kAhead; ++i)
                if (ahead[i] > p.scoreThreshold) chosen |= 1u << i;
            if (least != 0) {
                for (unsigned left = chosen; left != 0; left &= left - 1) {
                    const int i = __ffs(static_cast<int>(left)) - 1;
                    if (keyAt(pair + i * kThreads) < least) chosen &= ~(1u << i);
                }
            }
            // The warp takes its places at once; lanes share them out by a prefix sum.
            const unsigned own = static_cast<unsigned>(__popc(chosen));
            if (__ballot_sync(kFullWarp, own != 0) == 0) return;
            const unsigned upTo = prefixSum(own);
            const unsigned total = __shfl_sync(kFullWarp, upTo, 31);
            unsigned place = 0;
            if (thread % 32 == 0) place = atomicAdd(&shared.found, total);
            place = __shfl_sync(kFullWarp, place, 0) + upTo - own;
            for (; chosen != 0 && place < kMaxCandidates; chosen &= chosen - 1, ++place)
                shared.keys[place] = keyAt(pair + (__ffs(static_cast<int>(chosen)) - 1) * kThreads);
        });
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
            eachScore([&](const float (&ahead)[kAhead], int pair) {
#pragma unroll
                for (int i = 0; i < kAhead; ++i) {
                    if (!(ahead[i] > p.scoreThreshold)) continue;  // NaN is above nothing
                    const Key key = makeKey(ahead[i], pair + i * kThreads);
                    if ((key >> (shift + kDigitBits)) == prefix)
                        atomicAdd(&shared.histogram[static_cast<unsigned>(key >> shift) & (kBins - 1)], 1u);
                }
            });
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
        const unsigned upTo = prefixSum(value);
        const unsigned reached = __ballot_sync(kFullWarp, before + upTo >= wanted);
        const int lane = reached == 0 ? 32 : __ffsll(static_cast<long long>(reached)) - 1;
        before += __shfl_sync(kFullWarp, lane == 32 ? upTo : upTo - value, lane == 32 ? 31 : lane);
        return lane;
    }

    // The sum of the values of this lane and those before it in the warp.
    __device__ unsigned prefixSum(unsigned value) const {
        for (int step = 1; step < 32; step *= 2) {
            const unsigned other = __shfl_up_sync(kFullWarp, value, step);
            if (thread % 32 >= step) value += other;
        }
        return value;
    }

    // Bitonic sort of the keys, descending (K. E. Batcher, Sorting networks and their applications, 1968). Steps over
    // distances within a segment need no barrier.
    __device__ void sort(int count) {
        int size = kSegment;
        while (size < count) size *= 2;
        for (int i = count + thread; i < size; i += kThreads) shared.keys[i] = 0;
        __syncthreads();
        sortSegments(size, 2, kSegment);
        for (int run = 2 * kSegment; run <= size; run *= 2) {
            for (int distance = run / 2; distance >= kSegment; distance /= 2) {
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
            sortSegments(size, run, run);
        }
    }

    // The steps of runs `first` to `last` over distances within a segment, a warp per segment.
    __device__ void sortSegments(int size, int first, int last) {
        for (int segment = thread / 32; segment < size / kSegment; segment += kThreads / 32) {
            const int index = segment * kSegment + thread % 32;
            Key a = shared.keys[index], b = shared.keys[index + 32];
            for (int run = first; run <= last; run *= 2) {
                const bool downA = (index & run) == 0, downB = ((index + 32) & run) == 0;
                if (run >= kSegment && (a < b) == downA) {
                    const Key other = a;
                    a = b;
                    b = other;
                }
#pragma unroll
                for (int distance = 16; distance > 0; distance /= 2) {
                    if (distance >= run) continue;
                    const bool low = (index & distance) == 0;
                    a = exchange(a, distance, low == downA);
                    b = exchange(b, distance, low == downB);
                }
            }
            shared.keys[index] = a;
            shared.keys[index + 32] = b;
        }
        __syncthreads();  // other warps read the keys next
    }

    // The larger or the smaller of this lane's key and that of the lane `distance` away.
    static __device__ Key exchange(Key key, int distance, bool larger) {
        const Key other = __shfl_xor_sync(kFullWarp, key, distance);
        return (key > other) == larger ? key : other;
    }

    __device__ Box load(int anchor) const {
        const float* box = boxes + static_cast<long long>(anchor) * 4;
        return ordered(box[0], box[1], box[2], box[3]);
    }

    __device__ Candidate candidateAt(int place, int count) const {
        Candidate found{};
        if (thread >= kTile || place >= count) return found;
        found.key = shared.keys[place];
        const int pair = pairOf(found.key);
        found.box = load(anchorOf(pair));
        found.kind = classOf(pair);
        return found;
    }

    // Greedy suppression of the sorted candidates, a tile at a time: the survivors so far strike candidates out of it,
    // and its overlap matrix decides about the rest. The boxes of the next tile are on their way meanwhile.
    __device__ int suppress(int count) {
        if (thread == 0) shared.kept = 0;
        int kept = 0;
        Candidate next = candidateAt(thread, count);
        for (int start = 0; start < count && kept < p.limit; start += kTile) {
            const Candidate mine = next;
            publish(mine);
            next = candidateAt(start + kTile + thread, count);
            strike(kept);
            __syncthreads();
            compareTile();
            __syncthreads();
            if (thread < kTile) keep(mine, resolve(), kept);
            __syncthreads();  // the tile is read before the next one overwrites it
            kept = shared.kept;
        }
        return kept;
    }

    __device__ void publish(const Candidate& mine) {
        if (thread < kTile) {
            shared.tile[thread] = mine.box;
            shared.tileClass[thread] = mine.kind;
            const unsigned votes = __ballot_sync(kFullWarp, mine.key != 0);
            if (thread % 32 == 0) shared.alive[thread / 32] = votes;
        }
        __syncthreads();
    }

    // Each candidate of the tile is looked after by several threads, which take turns at the comparisons.
    static constexpr int kParts = kThreads / kTile;

    // Takes the candidates that an earlier survivor overlaps out of `alive`.
    __device__ void strike(int kept) {
        const int part = thread / kTile, own = thread % kTile;
        if (part >= kParts) return;  // whole warps
        const Box mine = shared.tile[own];
        const int kind = shared.tileClass[own];
        const int near = kept < kKeptBoxes ? kept : kKeptBoxes;
        bool hit = false;
#pragma unroll 1
        for (int row = part; row < near; row += kParts)
            hit |= (shared.keptClasses[row] == kind) & overlaps(shared.keptBoxes[row], mine);
#pragma unroll 1
        for (int row = kKeptBoxes + part; row < kept; row += kParts) {
            const int pair = pairOf(shared.keys[row]);
            hit |= classOf(pair) == kind && overlaps(load(anchorOf(pair)), mine);
        }
        const unsigned votes = __ballot_sync(kFullWarp, hit);
        if (thread % 32 == 0 && votes != 0) atomicAnd(&shared.alive[own / 32], ~votes);
    }

    // The overlap matrix of the tile, above its diagonal, for the candidates that are alive: a warp looks at 32 rows of
    // a column at a time.
    __device__ void compareTile() {
        const int part = thread / kTile, own = thread % kTile, lane = thread % 32;
        if (part >= kParts) return;  // whole warps
        const Box mine = shared.tile[own];
        const int kind = shared.tileClass[own];
        const Key alive = word(shared.alive);
#pragma unroll 1
        for (int column = part; column < kTile; column += kParts) {
            if ((alive >> column & 1) == 0) continue;  // as a whole warp
            const bool overlap =
                (own < column) & (shared.tileClass[column] == kind) & overlaps(mine, shared.tile[column]);
            const unsigned before = __ballot_sync(kFullWarp, overlap);
            if (lane == 0) shared.earlier[column][own / 32] = before;
        }
    }

    static __device__ Key word(const unsigned (&halves)[2]) { return static_cast<Key>(halves[1]) << 32 | halves[0]; }

    // The votes of a warp about the candidates `lane` and `lane + 32` of a tile.
    static __device__ Key vote(bool first, bool second) {
        const unsigned low = __ballot_sync(kFullWarp, first), high = __ballot_sync(kFullWarp, second);
        return static_cast<Key>(high) << 32 | low;
    }

    // The survivors of the tile as bits, computed by each of its warps; what the matrix says about the dead is old. In
    // each round those survive that no undecided candidate before them overlaps, and what they overlap falls; the first
    // undecided one always survives.
    __device__ Key resolve() const {
        const int lane = thread % 32;
        const Key first = word(shared.earlier[lane]), second = word(shared.earlier[lane + 32]);
        Key pending = word(shared.alive), survivors = 0;
        while (pending != 0) {
            const Key now = pending & vote((first & pending) == 0, (second & pending) == 0);
            survivors |= now;
            pending &= ~(now | vote((first & now) != 0, (second & now) != 0));
        }
        return survivors;
    }

    // Appends the survivors of the tile to those before, as long as there is room. Their keys overwrite keys of this
    // tile and of earlier tiles. Those keys are not read again.
    __device__ void keep(const Candidate& mine, Key survivors, int kept) {
        if ((survivors >> thread & 1) != 0) {
            const int row = kept + __popcll(survivors & ((Key{1} << thread) - 1));
            if (row < p.limit) shared.keys[row] = mine.key;
            if (row < kKeptBoxes) {
                shared.keptBoxes[row] = mine.box;
                shared.keptClasses[row] = static_cast<unsigned short>(mine.kind);
            }
        }
        const int sum = kept + __popcll(survivors);
        if (thread == 0) shared.kept = sum < p.limit ? sum : p.limit;
    }

    // A warp per survivor, kRows of them in flight; the rest of the outputs is zero already.
    __device__ void write(int kept) {
        if (thread == 0) *outCount = kept;
        constexpr int kRows = 4, kWarps = kThreads / 32;
        const int width = p.jointCount * 3;
        for (int first = thread / 32; first < kept; first += kRows * kWarps) {
            int anchors[kRows];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const int row = first + i * kWarps;
                anchors[i] = row < kept ? anchorOf(pairOf(shared.keys[row])) : -1;
            }
            copyRows<kRows>(joints, outJoints, anchors, first, width);
            copyRows<kRows>(boxes, outBoxes, anchors, first, 4);
        }
        for (int row = thread; row < kept; row += kThreads) {
            const Key key = shared.keys[row];
            outScores[row] = scoreOf(key);
            if (outClasses) outClasses[row] = classOf(pairOf(key));
        }
    }

    // Copies `width` numbers of each anchor to the rows `first`, `first` + warps, ...; -1 is no anchor.
    template <int kRows>
    __device__ void copyRows(const float* from, float* to, const int (&anchors)[kRows], int first, int width) {
#pragma unroll 1
        for (int place = thread % 32; place < width; place += 32) {
            float values[kRows];
#pragma unroll
            for (int i = 0; i < kRows; ++i)
                values[i] = anchors[i] >= 0 ? from[static_cast<long long>(anchors[i]) * width + place] : 0.0f;
#pragma unroll
            for (int i = 0; i < kRows; ++i)
                if (anchors[i] >= 0) to[(first + i * (kThreads / 32)) * width + place] = values[i];
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
