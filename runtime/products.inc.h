/* Block-sparse products of floats for one instruction set; see vectors.inc.h. Each matrix is
   read as it stands in the file, once. */

INLINE T(floats) T(load)(const void *values, size_t at, const wavernn_type type) {
  if (type == F32) return T(get)((const float *)values + at);
#if WIDE == 16 /* gcc makes four instructions of what stands below */
  __m256i halves = _mm256_loadu_si256((const __m256i *)((const uint16_t *)values + at));
  return (T(floats))_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#elif defined(__aarch64__) /* gcc would load one half after the other */
  return (T(floats))vshll_n_u16(vld1_u16((const uint16_t *)values + at), 16);
#else
  const T(halves_at) *bits = (const T(halves_at) *)((const uint16_t *)values + at);
  return (T(floats))(__builtin_convertvector(*bits, T(words)) << 16);
#endif
}

/* Four neighbouring activations, as often as a register holds them. */
INLINE T(floats) T(tile)(const float *x) {
  floats4 v = *(const floats4_at *)x;
#if WIDE == 4
  return v;
#elif WIDE == 8
  return (T(floats))_mm256_broadcast_ps((const __m128 *)&v);
#else
  return (T(floats))_mm512_broadcast_f32x4((__m128)v);
#endif
}

/* A row of blocks: where its weights and their columns stand. */
typedef struct {
  const uint16_t *index;
  const char *weights;
  size_t count;
} T(blocks);

/* Of a block. */
INLINE size_t T(bytes)(const wavernn_type type) { return LANES * (type == F32 ? 4 : 2); }

INLINE T(blocks) T(blocks_of)(const wavernn_matrix *m, size_t row, const wavernn_type type) {
  size_t first = m->offsets[row];
  return (T(blocks)){m->indices + first, (const char *)m->values + T(bytes)(type) * first,
                     m->offsets[row + 1] - first};
}

/* The next block. */
INLINE void T(add_block)(T(floats) *sum, T(blocks) *blocks, const float *x,
                         const wavernn_type type, const bool square) {
  size_t column = *blocks->index++;
  T(floats) v = square ? T(tile)(x + 4 * column) : T(all)(x[column]);
  UNROLL for (int p = 0; p < PARTS; p++)
    sum[p] += T(load)(blocks->weights, (size_t)p * WIDE, type) * v;
  blocks->weights += T(bytes)(type);
}

/* The sixteen sums of a row of blocks. */
INLINE void T(row)(const wavernn_matrix *m, size_t row, const float *x, const wavernn_type type,
                   const bool square, float y[LANES]) {
  T(floats) sum[2][PARTS] = {{{0}}};
  T(blocks) blocks = T(blocks_of)(m, row, type);
  for (; blocks.count >= TURN; blocks.count -= TURN)
    UNROLL for (int u = 0; u < TURN; u++) T(add_block)(sum[u % 2], &blocks, x, type, square);
  for (; blocks.count; blocks.count--) T(add_block)(sum[0], &blocks, x, type, square);
  UNROLL for (int p = 0; p < PARTS; p++) T(put)(y + p * WIDE, sum[0][p] + sum[1][p]);
}

#if WIDE == 16
#define AHEAD 768 /* bytes: a tenth faster where weights lie in the second-level cache */

/* 16x1 of bfloat16, two blocks to a register: the low halves of its words are the even
   outputs, the high ones the odd ones. */
INLINE void T(add_pair)(T(floats) *even, T(floats) *odd, __m512i w, float a, float b) {
  __asm__("" : "+v"(w)); /* one load, not one for each half */
  __m512 x = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(a), _mm512_set1_ps(b));
  *even += (T(floats))_mm512_slli_epi32(w, 16) * (T(floats))x;
  *odd += (T(floats))_mm512_and_si512(w, _mm512_set1_epi32(-65536)) * (T(floats))x;
}

INLINE void T(pairs)(const wavernn_matrix *m, size_t row, const float *x, float y[LANES]) {
  const uint16_t *index = m->indices + m->offsets[row], *end = m->indices + m->offsets[row + 1];
  const uint16_t *w = (const uint16_t *)m->values + (size_t)LANES * m->offsets[row];
  T(floats) even[2] = {{0}}, odd[2] = {{0}};
  for (; end - index >= 4; index += 4, w += 4 * LANES)
    UNROLL for (int u = 0; u < 2; u++) {
      _mm_prefetch((const char *)(w + 2 * u * LANES) + AHEAD, _MM_HINT_T0);
      T(add_pair)(&even[u], &odd[u], _mm512_loadu_si512(w + 2 * u * LANES), x[index[2 * u]],
                  x[index[2 * u + 1]]);
    }
  for (; end - index >= 2; index += 2, w += 2 * LANES)
    T(add_pair)(&even[0], &odd[0], _mm512_loadu_si512(w), x[index[0]], x[index[1]]);
  if (index < end)
    T(add_pair)(&even[0], &odd[0], _mm512_maskz_loadu_epi32(0xff, w), x[index[0]], 0);
  __m512 a = (__m512)(even[0] + even[1]), b = (__m512)(odd[0] + odd[1]);
  __m256 c = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  __m256 d = _mm256_add_ps(_mm512_castps512_ps256(b), _mm512_extractf32x8_ps(b, 1));
  __m256 low = _mm256_unpacklo_ps(c, d), high = _mm256_unpackhi_ps(c, d);
  _mm256_storeu_ps(y, _mm256_permute2f128_ps(low, high, 0x20));
  _mm256_storeu_ps(y + 8, _mm256_permute2f128_ps(low, high, 0x31));
}
#endif

/* The sums of four neighbours each. */
INLINE floats4 T(fours)(const float x[LANES]) {
  const floats4_at *v = (const floats4_at *)x;
#if defined(__x86_64__) && WIDE > 4
  return (floats4)_mm_hadd_ps(_mm_hadd_ps((__m128)v[0], (__m128)v[1]),
                              _mm_hadd_ps((__m128)v[2], (__m128)v[3]));
#elif defined(__aarch64__)
  return (floats4)vpaddq_f32(vpaddq_f32((float32x4_t)v[0], (float32x4_t)v[1]),
                             vpaddq_f32((float32x4_t)v[2], (float32x4_t)v[3]));
#else
  floats4 y;
  for (int o = 0; o < 4; o++) y[o] = (v[o][0] + v[o][1]) + (v[o][2] + v[o][3]);
  return y;
#endif
}

INLINE void T(product_as)(const wavernn_matrix *m, const float *x, float *restrict y,
                          const wavernn_type type, const bool square) {
  const wavernn_matrix as = *m; /* which `y` does not change */
  for (size_t i = 0; i < as.rows; i++) {
#if WIDE == 16
    if (type == BF16 && !square) {
      T(pairs)(&as, i, x, y + LANES * i);
      continue;
    }
#endif
    if (!square) {
      T(row)(&as, i, x, type, false, y + LANES * i);
      continue;
    }
    float sums[LANES];
    size_t row = as.order[i];
    T(row)(&as, row, x, type, true, sums);
    *(floats4_at *)(y + 4 * row) = T(fours)(sums);
  }
}

/* y = matrix · x, of float32 or bfloat16. */
TARGET static void T(product)(const wavernn_matrix *m, const float *x, float *y) {
  if (m->type == F32 && m->square) T(product_as)(m, x, y, F32, true);
  else if (m->type == F32) T(product_as)(m, x, y, F32, false);
  else if (m->square) T(product_as)(m, x, y, BF16, true);
  else T(product_as)(m, x, y, BF16, false);
}
