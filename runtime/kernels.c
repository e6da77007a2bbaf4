/* The inner loops, once for each instruction set, and the choice among them. */
#include <math.h>
#include <string.h>

#include "internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

/* Vectors are passed between inlined functions only, so their ABI does not matter. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL _Pragma("unroll")
#endif

typedef int32_t ints4 __attribute__((vector_size(16), may_alias));
typedef float floats4 __attribute__((vector_size(16)));
typedef float floats4_at __attribute__((vector_size(16), aligned(4), may_alias));

/* Threefry-2x32 of 20 rounds with key (seed, utterance) and counter (index, 0): the high 24
   bits of its words, in [0, 1). */
static void uniforms(uint32_t seed, uint32_t utterance, uint32_t index, float out[2]) {
  static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t key[3] = {seed, utterance, seed ^ utterance ^ 0x1BD11BDA};
  uint32_t a = index + seed, b = utterance;
  for (uint32_t group = 0; group < 5; group++) {
    for (int i = 0; i < 4; i++) {
      int bits = rotations[group % 2][i];
      a += b;
      b = (b << bits | b >> (32 - bits)) ^ a;
    }
    a += key[(group + 1) % 3];
    b += key[(group + 2) % 3] + group + 1;
  }
  out[0] = (float)(a >> 8) * 0x1p-24f;
  out[1] = (float)(b >> 8) * 0x1p-24f;
}

static float signal(int byte) { return (float)(2 * byte - 255) * (1 / 255.0f); }

static float within(float x) { return x > -8 ? (x < 8 ? x : 8) : -8; }

static void what_is_heard(const wavernn_stream *s, float heard[MAX_HEARD]) {
  if (!s->voice->spectral) {
    heard[0] = signal(s->last[0]);
    heard[1] = signal(s->last[1]);
    return;
  }
  int residuals = s->voice->residuals;
  for (int i = 0; i < residuals; i++) {
    heard[i] = s->residual[i];
    heard[residuals + i] = fabsf(s->residual[i]);
  }
  heard[2 * residuals] = within((float)s->past[s->newest - 1] / s->level);
  heard[2 * residuals + 1] = within((float)s->predicted / s->level);
}

static float heard_of_coarse(const wavernn_stream *s, int coarse) {
  return s->voice->spectral ? within((256.0f * (float)coarse - 32640.5f) / s->scale)
                            : signal(coarse);
}

static uint8_t most_likely(const float *logits) {
  int best = 0;
  for (int v = 1; v < LEVELS; v++)
    if (logits[v] > logits[best]) best = v;
  return (uint8_t)best;
}

/* How many running sums of the weights are at most `bound`, to 255. */
static uint8_t draw(const float *weights, float bound) {
  const float *sums = weights + LEVELS;
  int block = 0, value = 0;
  while (block < LANES - 1 && sums[block] <= bound) block++;
  float sum = block ? sums[block - 1] : 0;
  for (value = LANES * block; value < LANES * (block + 1); value++)
    if ((sum += weights[value]) > bound) break;
  return (uint8_t)(value < LEVELS ? value : LEVELS - 1);
}

/* Kinds of products of int8. */
#define AVX2 1
#define AVX512 2
#define NEON 3
#define DOT 4

#define JOIN(a, b) a##_##b
#define SUFFIXED(a, b) JOIN(a, b)
#define T(name) SUFFIXED(name, SET)
#define INLINE TARGET static inline __attribute__((always_inline))
#define OUTLINE TARGET static __attribute__((noinline)) /* for the sake of size */

#define SET plain
#define WIDE 4
#define TARGET
#if defined(__aarch64__)
#define TURN 4
#define NAME "neon"
#define INTEGER NEON
#else
#define TURN 2
#define NAME "portable"
#define INTEGER 0
#endif
static bool T(runs)(void) { return true; }
#include "vectors.inc.h"
#include "products.inc.h"
#include "integers.inc.h"
#include "step.inc.h"
#undef SET
#undef WIDE
#undef TURN
#undef TARGET
#undef NAME
#undef INTEGER

#if defined(__x86_64__)
#define SET avx2
#define WIDE 8
#define TURN 2
#define TARGET __attribute__((target("avx2,fma")))
#define NAME "avx2"
#define INTEGER AVX2
static bool T(runs)(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#include "vectors.inc.h"
#include "products.inc.h"
#include "integers.inc.h"
#include "step.inc.h"
#undef SET
#undef WIDE
#undef TURN
#undef TARGET
#undef NAME
#undef INTEGER

#define SET avx512
#define WIDE 16
#define TURN 2
#if defined(__clang__)
#define TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")))
#else
#define TARGET \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")))
#endif
#define NAME "avx512"
#define INTEGER AVX512
static bool T(runs)(void) {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
#include "vectors.inc.h"
#include "products.inc.h"
#include "integers.inc.h"
#include "step.inc.h"
#endif

/* Compilers that know `sdot` in a function whose target has it. */
#if defined(__aarch64__) && (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#define SET dot
#define WIDE 4
#define TURN 4
#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define NAME "neon-dot"
#define INTEGER DOT
#define HAS_DOT
static bool T(runs)(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;
#elif defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#else
  return false;
#endif
}
#include "vectors.inc.h"
#include "products.inc.h"
#include "integers.inc.h"
#include "step.inc.h"
#endif

/* The fastest last. */
static const wavernn_kernels *const ALL[] = {
    &kernels_plain,
#if defined(__x86_64__)
    &kernels_avx2, &kernels_avx512,
#endif
#if defined(HAS_DOT)
    &kernels_dot,
#endif
};
#define COUNT (sizeof ALL / sizeof *ALL)

const wavernn_kernels *wavernn_kernels_best(void) {
  for (size_t i = COUNT; i-- > 0;)
    if (ALL[i]->runs()) return ALL[i];
  return ALL[0];
}

const wavernn_kernels *wavernn_kernels_named(const char *name) {
  for (size_t i = 0; i < COUNT; i++)
    if (!strcmp(ALL[i]->name, name) && ALL[i]->runs()) return ALL[i];
  return NULL;
}
