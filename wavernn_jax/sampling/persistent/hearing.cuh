// What a step hears of the samples before it, and of what its bytes are: models/hearing.py.
//
// Without a prediction (TAPS 0) the bytes of the sample are drawn, else those of its residual.
// Every member of a team knows all that was drawn, so each predicts for itself, in integers, and
// all find the same. One warp has a stream: it multiplies what is known of the next sample's
// prediction while it waits for the logits, and only the last product follows the draw.
//
// TAPS D, RESIDUALS R and BOUND are macros; see cuda.py.

constexpr int HEARD = TAPS ? 2 * RESIDUALS + 2 : 2;

// Filters of the frames -1, 0, ..; those of one sample. Unused without a prediction.
struct Filters {
  const int* taps;      // [frames + 2][streams][TAPS]
  const int* shift;     // [frames + 2][streams]
  const float* scale;   // likewise
  const float* level;
  const float* slope;   // of the priors
  const int* nearest;   // [hop], 0..2: that of sample n of frame f is f + nearest[n]
  const float* past;    // [streams][RESIDUALS], over the scale, before the first sample
};

struct Filter { const int* taps; int shift; float scale, level, slope; };

// What is carried from sample to sample.
struct Tape {
  float heard[HEARD * STREAMS];  // [input][stream]: by all units, of the samples before
  float current[STREAMS];        // by the fine units, of the coarse byte
  int coarse[STREAMS];           // the byte
  int predicted[TAPS ? STREAMS : 1];
  short known[TAPS ? TAPS * STREAMS : 1];  // [stream][tap], a ring of the last samples
};

__device__ __forceinline__ float scale_byte(int byte) {
  return (2 * byte - 255) * (1 / 255.0f);
}

__device__ __forceinline__ float bounded(float x) {
  return fminf(fmaxf(x, -(float)BOUND), (float)BOUND);
}

__device__ __forceinline__ int within_16_bits(int x) { return min(max(x, -32768), 32767); }

__device__ __forceinline__ Filter filter(const Filters& in, int row, int streams, int stream) {
  const int at = row * streams + stream;
  return {in.taps + at * TAPS, in.shift[at], in.scale[at], in.level[at], in.slope[at]};
}

// One warp: a thread's share of the sum of the sample whose first known one is at `oldest` of the
// ring, without the product of the last.
__device__ __forceinline__ int partial_sum(const short* known, const int* taps, int oldest) {
  int sum = 0;
  for (int i = threadIdx.x % 32; i < TAPS - 1; i += 32) {
    const int at = oldest + i;
    sum += taps[i] * known[at < TAPS ? at : at - TAPS];
  }
  return sum;
}

// One warp: the prediction of the next sample, from the partial sums and the last sample.
__device__ __forceinline__ int predict(int partial, const Filter& next, int last) {
  const int sum = __reduce_add_sync(ALL, partial) + next.taps[TAPS - 1] * last;
  return within_16_bits((sum + (next.shift ? 1 << (next.shift - 1) : 0)) >> next.shift);
}

// One thread: what the next sample hears of the waveform.
__device__ __forceinline__ void hear_waveform(Tape& tape, int l, const Filter& next, int last,
                                              int predicted) {
  tape.heard[2 * RESIDUALS * STREAMS + l] = bounded(last / next.level);
  tape.heard[(2 * RESIDUALS + 1) * STREAMS + l] = bounded(predicted / next.level);
  tape.predicted[l] = predicted;
}

// One thread: what the next sample hears of the residuals, after one more.
__device__ __forceinline__ void hear_residual(Tape& tape, int l, float residual) {
  for (int k = RESIDUALS - 1; k >= 0; k--) {
    const float x = k ? tape.heard[(k - 1) * STREAMS + l] : residual;
    tape.heard[k * STREAMS + l] = x;
    tape.heard[(RESIDUALS + k) * STREAMS + l] = fabsf(x);
  }
}

// All threads: the tape before the first sample. Barriers before and after are the caller's.
__device__ __forceinline__ void load_tape(Tape& tape, const Filters& in, const int* pcm,
                                          int stream0) {
  const int self = threadIdx.x;
  if (TAPS == 0 && self < STREAMS) {
    const int value = pcm[stream0 + self] + 32768;
    tape.heard[self] = scale_byte(value >> 8);
    tape.heard[STREAMS + self] = scale_byte(value & 255);
  }
  if (TAPS == 0) return;
  for (int i = self; i < TAPS * STREAMS; i += THREADS)
    tape.known[i] = (short)pcm[stream0 * TAPS + i];
  if (self < STREAMS)
    for (int k = RESIDUALS - 1; k >= 0; k--)
      hear_residual(tape, self, in.past[(stream0 + self) * RESIDUALS + k]);
}

// One warp: what the first sample hears of the waveform.
__device__ __forceinline__ void predict_first(Tape& tape, int l, const Filter& first) {
  const short* known = tape.known + l * TAPS;
  const int last = known[TAPS - 1];
  const int predicted = predict(partial_sum(known, first.taps, 0), first, last);
  if (threadIdx.x % 32 == 0) hear_waveform(tape, l, first, last, predicted);
}

// Logits of eight bytes from `first` on, with what a Laplace density adds to them.
__device__ __forceinline__ void add_prior(float (&logits)[8], int first, int side, int coarse,
                                          float slope) {
  if (side && coarse >= 128) slope = -slope;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const int v = first + j;
    logits[j] += slope * (side ? v : v >= 128 ? 256 * (128 - v) : 256 * (v - 127) - 1);
  }
}

// The bytes' value, 0..65535, where a sample is given in place of a draw.
__device__ __forceinline__ int coded(const Tape& tape, int l, int sample) {
  return (TAPS ? sample - tape.predicted[l] : sample) + 32768 & 65535;
}

// One thread: what the fine units hear of the coarse byte.
__device__ __forceinline__ void hear_coarse(Tape& tape, int l, int byte, float scale) {
  tape.coarse[l] = byte;
  tape.current[l] = TAPS ? bounded((256 * byte - 32640.5f) / scale) : scale_byte(byte);
}

// One warp: the sample of stream l whose bytes were drawn, and the tape after it.
__device__ __forceinline__ int hear_sample(Tape& tape, int l, int fine, const int* given,
                                           const Filter& own, const Filter& next, int partial,
                                           int newest) {
  const int coarse = tape.coarse[l], drawn = 256 * coarse + fine - 32768;
  const bool first = threadIdx.x % 32 == 0;
  if (TAPS == 0) {
    if (first) {
      tape.heard[l] = scale_byte(coarse);
      tape.heard[STREAMS + l] = scale_byte(fine);
    }
    return drawn;
  }
  const int now = tape.predicted[l], sample = given ? *given : within_16_bits(now + drawn);
  const int predicted = predict(partial, next, sample);
  __syncwarp();
  if (first) {
    tape.known[l * TAPS + newest] = (short)sample;
    hear_residual(tape, l, bounded((short)(sample - now) / own.scale));
    hear_waveform(tape, l, next, sample, predicted);
  }
  return sample;
}
