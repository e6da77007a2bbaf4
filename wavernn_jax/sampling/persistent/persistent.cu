// The persistent sampling kernel for NVIDIA GPUs (§2.1); cuda.py says why CUDA C++.
//
// A team of TEAM blocks, one on a multiprocessor, makes the samples of STREAMS
// utterances. Each member keeps some block rows (16 outputs) of every matrix in
// shared memory for the whole launch. A sample is
//
//   1  coarse gates, by every member for itself    from G of the sample before
//   2  relu(O1 y_c) by rows                        -> exchange
//   3  O2 by rows                                  -> exchange
//   4  draw c_t, fine gates, by every member for itself
//   5  relu(O3 y_f) by rows                        -> exchange
//   6  G = R h_t by rows, while 5 is under way     -> exchange with 7
//   7  O4 by rows                                  -> exchange
//   8  draw f_t, by every member for itself
//
// so that a sample costs four exchanges through the L2 cache. There is no barrier
// between multiprocessors: a number travels in one 64-bit word with the index of
// its sample, and the receiver reads the word until the index is right. Slots
// alternate between two parities. A member writes a parity again only after G of
// every member for the sample between, and a member sends that G only after
// having read everything of the sample before: no unread slot is overwritten.
//
// Compiled for one model: HALF K and PROJECTION P (padded to 16), TEAM, STREAMS,
// THREADS, WEIGHTS (0 float32, 1 bfloat16, 2 int8), DENSE, ROWS, VALUES, INDICES,
// PARTIALS (capacities of a member's memory, see cuda.py), SPINS; hearing.cuh has more.

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int H = 2 * HALF, G = 3 * H, P = PROJECTION, V = 256, BLOCK = 16;
constexpr int WARPS = THREADS / 32;
constexpr int UNITS = (HALF + THREADS - 1) / THREADS;  // of a half, per thread
constexpr u32 ALL = 0xffffffffu;

#include "hearing.cuh"

enum Matrix { RECURRENT, HIDDEN_COARSE, OUTPUT_COARSE, HIDDEN_FINE, OUTPUT_FINE, MATRICES };

struct Row { int begin; u16 count, index; };  // blocks of a local block row

// A member's share of the weights, as cuda.py packs it.
struct Share {
  int first[8];  // local rows first[m]..first[m + 1] belong to matrix m
  Row rows[ROWS];
  alignas(16) unsigned char values[VALUES];
  u16 indices[INDICES];
};

struct Memory {
  alignas(16) Share share;
  alignas(16) float h[H * STREAMS];   // [unit][stream]
  float a[P * STREAMS];               // relu of O1 or O3, [row][stream]
  float partial[2][PARTIALS * BLOCK * STREAMS + 1];
  float y[TEAM == 1 ? V * STREAMS : 1];
  Tape tape;
};

// Slots of one parity: numbers of stream l stand together.
struct Slots { u64 g[STREAMS * G], a[2][STREAMS * P], y[2][STREAMS * V]; };

struct Inputs {
  const u32* share;           // [TEAM][sizeof(Share) / 4]
  const float* scales;        // of int8: [outputs of all matrices], else unused
  const float* previous;      // [HEARD][G]
  const float* current;       // [3][HALF]
  const float* hidden_bias;   // [2][P]
  const float* output_bias;   // [2][V]
  const float* gates;         // [frames + 2][streams][G]
  const int* left;            // [hop]
  const float* pairs;         // [hop][2]
  const float* uniform;       // [samples][2][streams]; negative: the state stays, silence
  const float* h;             // [streams][H]
  const int* pcm;             // [streams][TAPS or 1], of −32768..32767
  const float* temperatures;  // [2]
  const int* forced;          // [streams][samples], or unused
  const float* added;         // [samples][streams][P], to O1 y_c, or unused
  const int* sizes;           // frames, hop, forced, streams, added
  Filters filters;
};

#ifndef EMULATED
extern __shared__ __align__(16) unsigned char shared_memory[];

__device__ __forceinline__ u64 load_word(const u64* slot) {
  u64 word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(slot) : "memory");
  return word;
}

__device__ __forceinline__ void store_word(u64* slot, u64 word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" :: "l"(slot), "l"(word) : "memory");
}
#endif

__device__ __forceinline__ void send(u64* slot, float value, u32 sample) {
  store_word(slot, (u64)sample << 32 | __float_as_uint(value));
}

// Numbers that arrive at slots[0], slots[stride], ..: all are asked for before any is waited for.
// A number that never comes sets *failed, after which nothing is waited for any more.
template <int COUNT>
__device__ __forceinline__ void receive(float (&values)[COUNT], const u64* slots, int stride,
                                        int limit, u32 sample, bool& lost, u32* failed) {
  u64 words[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    words[i] = i * stride < limit ? load_word(slots + i * stride) : (u64)sample << 32;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    for (int spins = 0; (u32)(words[i] >> 32) != sample && !lost; spins++) {
      words[i] = load_word(slots + i * stride);
      if (spins == SPINS) {
        lost = true;
        *failed = 1;
      }
    }
    values[i] = __uint_as_float((u32)words[i]);
  }
}

// Weights of rows 4q..4q+3 of a block.
__device__ __forceinline__ void unpack(const unsigned char* values, int block, int q, float (&w)[4]) {
#if WEIGHTS == 0
  const float4 v = reinterpret_cast<const float4*>(values)[block * 4 + q];
  w[0] = v.x; w[1] = v.y; w[2] = v.z; w[3] = v.w;
#elif WEIGHTS == 1
  const uint2 v = reinterpret_cast<const uint2*>(values)[block * 4 + q];
  w[0] = __uint_as_float(v.x << 16); w[1] = __uint_as_float(v.x & 0xffff0000u);
  w[2] = __uint_as_float(v.y << 16); w[3] = __uint_as_float(v.y & 0xffff0000u);
#else
  // A float of bits 0x4B0000bb is 2^23 + bb: quicker than a conversion.
  const u32 v = reinterpret_cast<const u32*>(values)[block * 4 + q] ^ 0x80808080u;
  w[0] = __uint_as_float(__byte_perm(v, 0x4B000000u, 0x7440)) - 8388736.0f;
  w[1] = __uint_as_float(__byte_perm(v, 0x4B000000u, 0x7441)) - 8388736.0f;
  w[2] = __uint_as_float(__byte_perm(v, 0x4B000000u, 0x7442)) - 8388736.0f;
  w[3] = __uint_as_float(__byte_perm(v, 0x4B000000u, 0x7443)) - 8388736.0f;
#endif
}

// One warp: blocks begin..end of a row times x. Thread 4k + q multiplies rows 4q..4q+3 of every
// eighth block; afterwards it holds the sum of row `4q + (thread >> 4 & 1) * 2 + (thread >> 3 & 1)`.
__device__ __forceinline__ void row_product(const Share& share, const Row& row, int begin, int end,
                                            const float* x, float (&sums)[STREAMS]) {
  const int thread = threadIdx.x % 32, q = thread % 4;
  float acc[4][STREAMS] = {};
#pragma unroll 4
  for (int i = begin + thread / 4; i < end; i += 8) {
    float w[4];
    unpack(share.values, i, q, w);
    const float* column = x + (DENSE ? i - row.begin : share.indices[DENSE ? 0 : i]) * STREAMS;
#pragma unroll
    for (int l = 0; l < STREAMS; l++)
#pragma unroll
      for (int r = 0; r < 4; r++) acc[r][l] += w[r] * column[l];
  }
  const bool upper = thread & 16, odd = thread & 8;
#pragma unroll
  for (int l = 0; l < STREAMS; l++) {
    float a = upper ? acc[2][l] : acc[0][l], b = upper ? acc[3][l] : acc[1][l];
    a += __shfl_xor_sync(ALL, upper ? acc[0][l] : acc[2][l], 16);
    b += __shfl_xor_sync(ALL, upper ? acc[1][l] : acc[3][l], 16);
    float sum = odd ? b : a;
    sum += __shfl_xor_sync(ALL, odd ? a : b, 8);
    sums[l] = sum + __shfl_xor_sync(ALL, sum, 4);
  }
}

// Outputs of the matrices before one, in the order of `Matrix`.
__device__ __forceinline__ int outputs_before(Matrix matrix) {
  return matrix == RECURRENT ? 0 : G + (matrix - 1) / 2 * (P + V) + (matrix - 1) % 2 * P;
}

// This member's rows of a matrix times x; emit(row, stream, value) for each. Fewer rows than warps
// are cut along the columns and summed through shared memory. The scales of int8 are read from
// the L1 cache: with them in shared memory, a sparse model of 1024 units would need more than one
// multiprocessor has. They are asked for before the product that they are multiplied with.
template <class Emit>
__device__ __forceinline__ void product(Memory& m, const float* scales, Matrix matrix,
                                        const float* x, Emit emit) {
  const Share& share = m.share;
  const int first = share.first[matrix], rows = share.first[matrix + 1] - first;
  if (rows == 0) return;
  const int parts = rows < WARPS ? WARPS / rows : 1;
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32;
  const int within = thread % 4 * 4 + (thread >> 4 & 1) * 2 + (thread >> 3 & 1);
  float* partial = m.partial[matrix == RECURRENT];
  const auto scale = [&](int output) {
    return WEIGHTS == 2 ? scales[outputs_before(matrix) + output] : 1.0f;
  };
  for (int task = warp; task < rows * parts; task += WARPS) {
    const Row& row = share.rows[first + task / parts];
    const int eighths = (row.count + 7) / 8, part = task % parts;
    const int begin = row.begin + eighths * part / parts * 8;
    const int end = row.begin + min(row.count, eighths * (part + 1) / parts * 8);
    const int output = row.index * BLOCK + within;
    const float factor = parts == 1 ? scale(output) : 1.0f;
    float sums[STREAMS];
    row_product(share, row, begin, end, x, sums);
    if (thread & 4) continue;  // the other copy of the same sums
#pragma unroll
    for (int l = 0; l < STREAMS; l++) {
      if (parts == 1) emit(output, l, sums[l] * factor);
      else partial[(task * BLOCK + within) * STREAMS + l] = sums[l];
    }
  }
  if (parts == 1) return;
  __syncthreads();
  for (int i = threadIdx.x; i < rows * BLOCK * STREAMS; i += THREADS) {
    const int l = i / (rows * BLOCK), r = i % (rows * BLOCK);
    const int output = share.rows[first + r / BLOCK].index * BLOCK + r % BLOCK;
    const float factor = scale(output);
    float sum = 0;
    for (int part = 0; part < parts; part++)
      sum += partial[((r / BLOCK * parts + part) * BLOCK + r % BLOCK) * STREAMS + l];
    emit(output, l, sum * factor);
  }
}

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }
__device__ __forceinline__ float tangent(float x) { return 1 - __fdividef(2, 1 + __expf(2 * x)); }

// One warp: the byte drawn from 256 logits, eight in a row in each thread. See draw.categorical.
__device__ __forceinline__ int draw(const float (&logits)[8], float uniform, float temperature) {
  float peak = logits[0], cumulative[8];
#pragma unroll
  for (int j = 1; j < 8; j++) peak = fmaxf(peak, logits[j]);
#pragma unroll
  for (int step = 16; step; step /= 2) peak = fmaxf(peak, __shfl_xor_sync(ALL, peak, step));
  const float inverse = temperature > 0 ? 1 / fmaxf(temperature, 1e-6f) : 1e6f;
#pragma unroll
  for (int j = 0; j < 8; j++)
    cumulative[j] = expf((logits[j] - peak) * inverse) + (j ? cumulative[j - 1] : 0);
  const int thread = threadIdx.x % 32;
  float upto = cumulative[7];
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float other = __shfl_up_sync(ALL, upto, step);
    if (thread >= step) upto += other;
  }
  float before = __shfl_up_sync(ALL, upto, 1);
  if (thread == 0) before = 0;
  const float threshold = uniform * __shfl_sync(ALL, upto, 31);
  int below = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) below += before + cumulative[j] <= threshold;
  return min((int)__reduce_add_sync(ALL, below), V - 1);
}

__device__ __forceinline__ int position(int value) { return value % 8 * 32 + value / 8; }

extern "C" __global__ void __launch_bounds__(THREADS, 1) sample(
    const Inputs in, int* pcm, float* h_last, float* logits_out, u32* failed, u64* exchange) {
  Memory& m = *reinterpret_cast<Memory*>(shared_memory);
  const int member = blockIdx.x % TEAM, stream0 = blockIdx.x / TEAM * STREAMS;
  const int self = threadIdx.x, warp = self / 32, thread = self % 32;
  const int frames = in.sizes[0], hop = in.sizes[1], forced = in.sizes[2], streams = in.sizes[3];
  const int samples = frames * hop, added = in.sizes[4];
  Slots* const team = reinterpret_cast<Slots*>(exchange) + blockIdx.x / TEAM * 2;
  bool lost = false;

  const uint4* source = reinterpret_cast<const uint4*>(in.share) + member * (sizeof(Share) / 16);
  for (int i = self; i < (int)(sizeof(Share) / 16); i += THREADS)
    reinterpret_cast<uint4*>(&m.share)[i] = source[i];
  for (int i = self; i < H * STREAMS; i += THREADS)
    m.h[i] = in.h[(stream0 + i % STREAMS) * H + i / STREAMS];
  load_tape(m.tape, in.filters, in.pcm, stream0);
  float previous[2][UNITS][HEARD][3], current[UNITS][3];  // weights on own units of what is heard
#pragma unroll
  for (int u = 0; u < UNITS; u++)
#pragma unroll
    for (int gate = 0; gate < 3; gate++) {
      const int unit = min(self + u * THREADS, HALF - 1);
      current[u][gate] = in.current[gate * HALF + unit];
      for (int side = 0; side < 2; side++)
        for (int k = 0; k < HEARD; k++)
          previous[side][u][k][gate] = in.previous[k * G + gate * H + side * HALF + unit];
    }
  __syncthreads();
  if (TAPS)
    for (int l = warp; l < STREAMS; l += WARPS)
      predict_first(m.tape, l, filter(in.filters, in.filters.nearest[0], streams, stream0 + l));
  __syncthreads();

  const auto recurrent = [&](int sample) {
    Slots& slots = team[sample % 2];
    product(m, in.scales, RECURRENT, m.h, [&](int row, int l, float value) {
      send(slots.g + l * G + row, value, sample + 1);
    });
  };
  recurrent(0);
  __syncthreads();  // before the gates change m.h, which slower warps still multiply

  for (int t = 0, frame = 0, n = 0, newest = 0; t < samples; t++) {  // newest: t mod TAPS
    Slots& slots = team[t % 2];
    const u32 mark = t + 1;
    const float* around = in.gates + (frame + in.left[n]) * (streams * G);
    const float near = in.pairs[2 * n], far = in.pairs[2 * n + 1];
    const int ended = n + 1 == hop, oldest = newest + 1 < TAPS ? newest + 1 : 0;
    bool live[STREAMS];
#pragma unroll
    for (int l = 0; l < STREAMS; l++) live[l] = in.uniform[t * 2 * streams + stream0 + l] >= 0;
#pragma unroll
    for (int side = 0; side < 2; side++) {
      // Gates of own units of this half.
#pragma unroll
      for (int u = 0; u < UNITS; u++) {
        const int unit = self + u * THREADS;
        if (unit < HALF) {
#pragma unroll
          for (int l = 0; l < STREAMS; l++) {
            const float* at = around + (stream0 + l) * G + side * HALF + unit;
            float before[3], after[3], g[3], x[3];
#pragma unroll
            for (int gate = 0; gate < 3; gate++) {
              before[gate] = at[gate * H];
              after[gate] = at[(streams * 3 + gate) * H];
            }
            receive(g, slots.g + l * G + side * HALF + unit, H, G, mark, lost, failed);
#pragma unroll
            for (int gate = 0; gate < 3; gate++) {
              x[gate] = near * before[gate] + far * after[gate];
#pragma unroll
              for (int k = 0; k < HEARD; k++)
                x[gate] += m.tape.heard[k * STREAMS + l] * previous[side][u][k][gate];
              if (side) x[gate] += m.tape.current[l] * current[u][gate];
            }
            const float update = sigmoid(g[0] + x[0]), reset = sigmoid(g[1] + x[1]);
            const float candidate = tangent(reset * g[2] + x[2]);
            float& h = m.h[(side * HALF + unit) * STREAMS + l];
            if (live[l]) h = update * h + (1 - update) * candidate;
          }
        }
      }
      __syncthreads();

      // The hidden layer; after the fine half also G of the next sample.
      product(m, in.scales, side ? HIDDEN_FINE : HIDDEN_COARSE, m.h + side * HALF * STREAMS,
              [&](int row, int l, float value) {
                if (added && !side) value += in.added[(t * streams + stream0 + l) * P + row];
                value = fmaxf(value + in.hidden_bias[side * P + row], 0);
                if (TEAM == 1) m.a[row * STREAMS + l] = value;
                else send(slots.a[side] + l * P + row, value, mark);
              });
      if (side) recurrent(t + 1);
      if (TEAM > 1) {
        constexpr int COUNT = (P * STREAMS + THREADS - 1) / THREADS;
        float a[COUNT];
        receive(a, slots.a[side] + self, THREADS, P * STREAMS - self, mark, lost, failed);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
          const int slot = self + i * THREADS;
          if (slot < P * STREAMS) m.a[slot % P * STREAMS + slot / P] = a[i];
        }
      }
      __syncthreads();

      // The output layer, and the draw.
      const Matrix output_layer = side ? OUTPUT_FINE : OUTPUT_COARSE;
      product(m, in.scales, output_layer, m.a, [&](int row, int l, float value) {
        value += in.output_bias[side * V + row];
        if (TEAM == 1) m.y[l * V + position(row)] = value;
        else send(slots.y[side] + l * V + position(row), value, mark);
      });
      if (TEAM == 1) __syncthreads();
      for (int l = warp; l < STREAMS; l += WARPS) {
        const int stream = stream0 + l;
        Filter own{}, next{};
        int partial = 0;
        if (TAPS) own = filter(in.filters, frame + in.filters.nearest[n], streams, stream);
        if (TAPS && side) {
          next = filter(in.filters, frame + ended + in.filters.nearest[ended ? 0 : n + 1], streams,
                        stream);
          partial = partial_sum(m.tape.known + l * TAPS, next.taps, oldest);
        }
        float y[8];
        if (TEAM == 1)
          for (int j = 0; j < 8; j++) y[j] = m.y[l * V + j * 32 + thread];
        else
          receive(y, slots.y[side] + l * V + thread, 32, V, mark, lost, failed);
        if (TAPS) add_prior(y, thread * 8, side, m.tape.coarse[l], own.slope);
        const float uniform = in.uniform[(t * 2 + side) * streams + stream];
        const int* given = forced ? in.forced + stream * samples + t : nullptr;
        int byte = draw(y, uniform, in.temperatures[side]);
        if (forced) {
          const int value = coded(m.tape, l, *given);
          byte = side ? value & 255 : value >> 8;
          if (member == 0)
            for (int j = 0; j < 8; j++)
              logits_out[((t * streams + stream) * 2 + side) * V + thread * 8 + j] = y[j];
        }
        if (uniform < 0) byte = side ? 0 : V / 2;
        if (side) {
          const int sample = hear_sample(m.tape, l, byte, given, own, next, partial, newest);
          if (thread == 0 && member == 0) pcm[stream * samples + t] = sample;
        } else if (thread == 0) {
          hear_coarse(m.tape, l, byte, own.scale);
        }
      }
      __syncthreads();
    }
    n = ended ? 0 : n + 1;
    frame += ended;
    newest = oldest;
  }
  if (member == 0)
    for (int i = self; i < H * STREAMS; i += THREADS)
      h_last[(stream0 + i % STREAMS) * H + i / STREAMS] = m.h[i];
}
