/* Registers of one instruction set. Included by kernels.c with
     T(name)  name with the suffix of the set
     WIDE     floats of a register: 4, 8 or 16
     TURN     blocks of a turn of a loop; every other one is summed apart, for the sake of latency
     INTEGER  which of the products of int8: 0 portable, AVX2, AVX512, NEON or DOT */

typedef float T(floats) __attribute__((vector_size(4 * WIDE)));
typedef float T(floats_at) __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef uint32_t T(words) __attribute__((vector_size(4 * WIDE)));
typedef uint16_t T(halves_at) __attribute__((vector_size(2 * WIDE), aligned(2), may_alias));

#define PARTS (LANES / WIDE) /* registers of sixteen floats */

INLINE T(floats) T(get)(const float *x) { return *(const T(floats_at) *)x; }
INLINE void T(put)(float *x, T(floats) v) { *(T(floats_at) *)x = v; }

/* Of NaN and a number, the number `b`: compilers make one instruction of these alone. */
INLINE T(floats) T(max)(T(floats) a, T(floats) b) {
#if defined(__aarch64__)
  return (T(floats))vmaxnmq_f32((float32x4_t)a, (float32x4_t)b);
#elif defined(__x86_64__) && WIDE == 16
  return (T(floats))_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__x86_64__) && WIDE == 8
  return (T(floats))_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (T(floats))_mm_max_ps((__m128)a, (__m128)b);
#else
  T(words) first = (T(words))(a > b);
  return (T(floats))(((T(words))a & first) | ((T(words))b & ~first));
#endif
}

INLINE T(floats) T(min)(T(floats) a, T(floats) b) {
#if defined(__aarch64__)
  return (T(floats))vminnmq_f32((float32x4_t)a, (float32x4_t)b);
#elif defined(__x86_64__) && WIDE == 16
  return (T(floats))_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__x86_64__) && WIDE == 8
  return (T(floats))_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
  return (T(floats))_mm_min_ps((__m128)a, (__m128)b);
#else
  T(words) first = (T(words))(a < b);
  return (T(floats))(((T(words))a & first) | ((T(words))b & ~first));
#endif
}

INLINE T(floats) T(all)(float x) { return x - (T(floats)){0}; }

/* a / b, of b from 1 to 2^126. Where a division of a register takes 10 cycles and more: by
   Newton's method from an estimate of 1 / b. */
INLINE T(floats) T(divide)(T(floats) a, T(floats) b) {
#if defined(__aarch64__) /* from 8 bits */
  float32x4_t d = (float32x4_t)b, r = vrecpeq_f32(d);
  r = vmulq_f32(r, vrecpsq_f32(d, r));
  r = vmulq_f32(r, vrecpsq_f32(d, r));
  return a * (T(floats))r;
#elif WIDE == 16 /* from 14 bits */
  __m512 d = (__m512)b, r = _mm512_rcp14_ps(d);
  r = _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2)));
  return a * (T(floats))r;
#else
  return a / b;
#endif
}

/* 2^x of what is within -126 .. 126; relative error below 3e-7. Sixteen at a time: cores that
   do not reorder instructions have others to do while one waits. */
INLINE void T(exp2)(T(floats) x[PARTS]) {
  UNROLL for (int i = 0; i < PARTS; i++) {
    T(floats) shifted = x[i] + 12582912.0f; /* 1.5 · 2^23: n stands in its low bits */
    T(floats) f = x[i] - (shifted - 12582912.0f);
    T(floats) p = f * 0.0013276472454890609f + 0.009675540961325169f;
    p = f * p + 0.05550713092088699f;
    p = f * p + 0.24022120237350464f;
    p = f * p + 0.6931469440460205f;
    p = f * p + 1.0f;
    x[i] = (T(floats))((T(words))p + ((T(words))shifted << 23));
  }
}

/* Within -bound .. bound; NaN becomes -bound. */
INLINE T(floats) T(clip)(T(floats) x, float bound) {
  return T(min)(T(max)(x, T(all)(-bound)), T(all)(bound));
}
