/* Block-sparse products for one instruction set. Included by kernels.c with
     T(name)  name with the suffix of the set
     WIDE     floats of a register: 4, 8 or 16
     ROWS     blocks that are summed apart, for the sake of latency
     INTEGER  which of the products of int8 below: 0 portable, AVX2, AVX512, NEON or DOT
   Each matrix is read as it stands in the file, once. */

typedef float T(floats) __attribute__((vector_size(4 * WIDE)));
typedef float T(floats_at) __attribute__((vector_size(4 * WIDE), aligned(4), may_alias));
typedef uint32_t T(words) __attribute__((vector_size(4 * WIDE)));
typedef uint16_t T(halves_at) __attribute__((vector_size(2 * WIDE), aligned(2), may_alias));

#define PARTS (LANES / WIDE) /* registers of a block */

INLINE T(floats) T(load)(const void *values, size_t at, const wavernn_type type) {
  if (type == F32) return *(const T(floats_at) *)((const float *)values + at);
  const T(halves_at) *bits = (const T(halves_at) *)((const uint16_t *)values + at);
  return (T(floats))(__builtin_convertvector(*bits, T(words)) << 16);
}

/* Four neighbouring activations, as often as a register holds them. */
INLINE T(floats) T(tile)(const float *x) {
  floats4 v = *(const floats4_at *)x;
#if WIDE == 4
  return v;
#elif WIDE == 8
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3);
#else
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
#endif
}

INLINE void T(add_block)(T(floats) *sum, const wavernn_matrix *m, uint32_t k, const float *x,
                         const wavernn_type type) {
  uint32_t column = m->indices[k];
  UNROLL for (int p = 0; p < PARTS; p++) {
    T(floats) w = T(load)(m->values, (size_t)k * LANES + (size_t)p * WIDE, type);
    if (m->square) sum[p] += w * T(tile)(x + 4 * column);
    else sum[p] += w * x[column];
  }
}

/* The sixteen sums of a row of blocks. */
INLINE void T(row)(const wavernn_matrix *m, uint32_t row, const float *x,
                   const wavernn_type type, float y[LANES]) {
  T(floats) sum[ROWS][PARTS] = {{{0}}};
  uint32_t k = m->offsets[row], end = m->offsets[row + 1];
  for (; k + ROWS <= end; k += ROWS)
    UNROLL for (int u = 0; u < ROWS; u++) T(add_block)(sum[u], m, k + (uint32_t)u, x, type);
  for (; k < end; k++) T(add_block)(sum[0], m, k, x, type);
  UNROLL for (int p = 0; p < PARTS; p++) {
    for (int u = 1; u < ROWS; u++) sum[0][p] += sum[u][p];
    *(T(floats_at) *)(y + p * WIDE) = sum[0][p];
  }
}

#if WIDE == 16
/* 16x1 of bfloat16, two blocks to a register: the low halves of its words are the even
   outputs, the high ones the odd ones. */
INLINE void T(pairs)(const wavernn_matrix *m, uint32_t row, const float *x, float y[LANES]) {
  const uint16_t *values = m->values, *index = m->indices;
  T(floats) even[2] = {{0}}, odd[2] = {{0}};
  uint32_t k = m->offsets[row], end = m->offsets[row + 1];
  for (; k + 2 * 2 <= end; k += 2 * 2)
    UNROLL for (int u = 0; u < 2; u++) {
      const uint16_t *in = index + k + 2 * u;
      __m512i w = _mm512_loadu_si512(values + (size_t)LANES * (k + 2 * (uint32_t)u));
      __m512 v = _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(x[in[0]]), _mm512_set1_ps(x[in[1]]));
      even[u] += (T(floats))_mm512_slli_epi32(w, 16) * (T(floats))v;
      odd[u] += (T(floats))_mm512_and_si512(w, _mm512_set1_epi32(-65536)) * (T(floats))v;
    }
  float sums[2][LANES];
  *(T(floats_at) *)sums[0] = even[0] + even[1];
  *(T(floats_at) *)sums[1] = odd[0] + odd[1];
  for (int o = 0; o < LANES; o++) y[o] = sums[o & 1][o / 2] + sums[o & 1][o / 2 + 8];
  for (; k < end; k++)
    for (int o = 0; o < LANES; o++) {
      union { uint32_t bits; float number; } w = {(uint32_t)values[(size_t)LANES * k + (size_t)o] << 16};
      y[o] += w.number * x[index[k]];
    }
}
#endif

INLINE void T(product_as)(const wavernn_matrix *m, const float *x, float *y,
                          const wavernn_type type, const bool square) {
  wavernn_matrix as = *m; /* of known kind, for the compiler */
  as.square = square;
  for (uint32_t row = 0; row < as.rows; row++) {
#if WIDE == 16
    if (type == BF16 && !square) {
      T(pairs)(&as, row, x, y + LANES * row);
      continue;
    }
#endif
    if (!square) {
      T(row)(&as, row, x, type, y + LANES * row);
      continue;
    }
    float sums[LANES];
    T(row)(&as, row, x, type, sums);
    for (int o = 0; o < 4; o++)
      y[4 * row + (uint32_t)o] = (sums[4 * o] + sums[4 * o + 1]) + (sums[4 * o + 2] + sums[4 * o + 3]);
  }
}

/* y = matrix · x, of float32 or bfloat16. */
TARGET static void T(product)(const wavernn_matrix *m, const float *x, float *y) {
  if (m->type == F32 && m->square) T(product_as)(m, x, y, F32, true);
  else if (m->type == F32) T(product_as)(m, x, y, F32, false);
  else if (m->square) T(product_as)(m, x, y, BF16, true);
  else T(product_as)(m, x, y, BF16, false);
}

/* int8: exact sums in 32 bits, the same on every processor. `row` gives the sixteen sums of a
   row of blocks; of 4x4 blocks those of an output are four neighbours. */

#if INTEGER == AVX2 || INTEGER == AVX512
/* `pmaddwd` adds products of neighbouring int16: two inputs of an output. */
INLINE __m256i T(multiply)(__m128i weights, __m256i x) {
  return _mm256_madd_epi16(_mm256_cvtepi8_epi16(weights), x);
}

INLINE void T(columns_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const int8_t *values = m->values;
  const uint16_t *index = m->indices;
  __m256i low = _mm256_setzero_si256(), high = low;
  uint32_t k = m->offsets[row], end = m->offsets[row + 1];
  for (; k < end; k += 2) { /* two blocks, whose outputs are interleaved */
    bool both = k + 1 < end;
    __m128i a = _mm_loadu_si128((const __m128i *)(values + (size_t)LANES * k));
    __m128i b = both ? _mm_loadu_si128((const __m128i *)(values + (size_t)LANES * (k + 1)))
                     : _mm_setzero_si128();
    uint32_t pair = (uint16_t)x[index[k]] | (both ? (uint32_t)(uint16_t)x[index[k + 1]] << 16 : 0);
    __m256i v = _mm256_set1_epi32((int32_t)pair);
    low = _mm256_add_epi32(low, T(multiply)(_mm_unpacklo_epi8(a, b), v));
    high = _mm256_add_epi32(high, T(multiply)(_mm_unpackhi_epi8(a, b), v));
  }
  _mm256_storeu_si256((__m256i *)y, low);
  _mm256_storeu_si256((__m256i *)(y + 8), high);
}

/* Leaves two sums of each output, then 0. */
INLINE void T(squares_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const int8_t *values = m->values;
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  uint32_t k = m->offsets[row], end = m->offsets[row + 1];
#if INTEGER == AVX512
  __m512i wide = _mm512_setzero_si512();
  for (; k + 2 <= end; k += 2) { /* two blocks to a register */
    int64_t a, b;
    memcpy(&a, x + 4 * m->indices[k], sizeof a);
    memcpy(&b, x + 4 * m->indices[k + 1], sizeof b);
    __m512i v = _mm512_mask_set1_epi64(_mm512_set1_epi64(a), 0xf0, b);
    __m256i w = _mm256_loadu_si256((const __m256i *)(values + (size_t)LANES * k));
    wide = _mm512_add_epi32(wide, _mm512_madd_epi16(_mm512_cvtepi8_epi16(w), v));
  }
  sum[1] = _mm256_add_epi32(_mm512_castsi512_si256(wide), _mm512_extracti64x4_epi64(wide, 1));
#endif
  for (; k < end; k++) {
    int64_t inputs;
    memcpy(&inputs, x + 4 * m->indices[k], sizeof inputs);
    __m128i w = _mm_loadu_si128((const __m128i *)(values + (size_t)LANES * k));
    sum[k & 1] = _mm256_add_epi32(sum[k & 1], T(multiply)(w, _mm256_set1_epi64x(inputs)));
  }
  int32_t pairs[8];
  _mm256_storeu_si256((__m256i *)pairs, _mm256_add_epi32(sum[0], sum[1]));
  for (int i = 0; i < LANES; i++) y[i] = i % 4 < 2 ? pairs[2 * (i / 4) + i % 4] : 0;
}
#endif

#if INTEGER == NEON || INTEGER == DOT
INLINE void T(add_int8)(int32x4_t sum[4], const int8_t *w, int16x4_t even, int16x4_t odd) {
  int8x16_t weights = vld1q_s8(w);
  int16x8_t low = vmovl_s8(vget_low_s8(weights)), high = vmovl_s8(vget_high_s8(weights));
  sum[0] = vmlal_s16(sum[0], vget_low_s16(low), even);
  sum[1] = vmlal_s16(sum[1], vget_high_s16(low), odd);
  sum[2] = vmlal_s16(sum[2], vget_low_s16(high), even);
  sum[3] = vmlal_s16(sum[3], vget_high_s16(high), odd);
}

INLINE void T(row_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                        int32_t y[LANES], const bool square) {
  int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  for (uint32_t k = m->offsets[row]; k < m->offsets[row + 1]; k++) {
    uint32_t column = m->indices[k];
    int16x4_t v = square ? vld1_s16(x + 4 * column) : vdup_n_s16(x[column]);
    T(add_int8)(sum, (const int8_t *)m->values + (size_t)LANES * k, v, v);
  }
  for (int i = 0; i < 4; i++) vst1q_s32(y + 4 * i, sum[i]);
}

INLINE void T(columns_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  T(row_int8)(m, row, x, y, false);
}
#endif

#if INTEGER == NEON
INLINE void T(squares_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  T(row_int8)(m, row, x, y, true);
}
#endif

#if INTEGER == DOT
/* `sdot` multiplies a block by four inputs at once. Their 15 bits are 128 · a + b, two bytes:
   a of four inputs, then b of them (`shorten`). */
INLINE void T(squares_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const int8_t *values = m->values;
  int32x4_t high[2] = {vdupq_n_s32(0), vdupq_n_s32(0)}, low[2] = {high[0], high[0]};
  uint32_t k = m->offsets[row], end = m->offsets[row + 1];
  for (; k + 2 <= end; k += 2)
    UNROLL for (int u = 0; u < 2; u++) {
      uint32_t block = k + (uint32_t)u;
      int8x16_t w = vld1q_s8(values + (size_t)LANES * block);
      int8x8_t v = vld1_s8((const int8_t *)(x + 4 * m->indices[block]));
      high[u] = vdotq_lane_s32(high[u], w, v, 0);
      low[u] = vdotq_lane_s32(low[u], w, v, 1);
    }
  for (; k < end; k++) {
    int8x16_t w = vld1q_s8(values + (size_t)LANES * k);
    int8x8_t v = vld1_s8((const int8_t *)(x + 4 * m->indices[k]));
    high[0] = vdotq_lane_s32(high[0], w, v, 0);
    low[0] = vdotq_lane_s32(low[0], w, v, 1);
  }
  int32x4_t top = vshlq_n_s32(vaddq_s32(high[0], high[1]), 7);
  int32_t sums[4];
  vst1q_s32(sums, vaddq_s32(top, vaddq_s32(low[0], low[1])));
  for (int i = 0; i < LANES; i++) y[i] = i % 4 ? 0 : sums[i / 4];
}
#endif

#if INTEGER == 0
INLINE void T(columns_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const int8_t *values = m->values;
  memset(y, 0, LANES * sizeof *y);
  for (uint32_t k = m->offsets[row]; k < m->offsets[row + 1]; k++)
    for (int o = 0; o < LANES; o++)
      y[o] += values[(size_t)LANES * k + (size_t)o] * x[m->indices[k]];
}

INLINE void T(squares_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const int8_t *values = m->values;
  memset(y, 0, LANES * sizeof *y);
  for (uint32_t k = m->offsets[row]; k < m->offsets[row + 1]; k++)
    for (int i = 0; i < LANES; i++)
      y[i] += values[(size_t)LANES * k + (size_t)i] * x[4 * m->indices[k] + i % 4];
}
#endif

/* y = matrix · x of int8, whose activations are integers in steps of `unit`. */
TARGET static void T(product_int8)(const wavernn_matrix *m, const int16_t *x, float unit,
                                   float *y) {
  int32_t sums[LANES];
  for (uint32_t row = 0; row < m->rows; row++) {
    if (!m->square) {
      const float *scales = m->scales + LANES * row;
      T(columns_int8)(m, row, x, sums);
      for (int o = 0; o < LANES; o++)
        y[LANES * row + (uint32_t)o] = (float)sums[o] * (scales[o] * unit);
      continue;
    }
    const float *scales = m->scales + 4 * row;
    T(squares_int8)(m, row, x, sums);
    for (int o = 0; o < 4; o++) {
      int32_t total = (sums[4 * o] + sums[4 * o + 1]) + (sums[4 * o + 2] + sums[4 * o + 3]);
      y[4 * row + (uint32_t)o] = (float)total * (scales[o] * unit);
    }
  }
}

/* Activations as integers of at most 15 bits, in the order that the products of int8 read. */
TARGET static void T(shorten)(const float *x, size_t n, float scale, const bool square,
                              int16_t *out) {
  float limit = 16256;
  for (size_t i = 0; i < n; i++) {
    float v = x[i] * scale;
    v = v > -limit ? v : -limit; /* also NaN */
    v = v < limit ? v : limit;
    v += 12582912.0f; /* rounds: 1.5 · 2^23 */
    v -= 12582912.0f;
    out[i] = (int16_t)v;
  }
#if INTEGER == DOT
  for (size_t i = 0; square && i < n; i += 4) {
    int8_t bytes[8];
    for (int j = 0; j < 4; j++) {
      int high = (out[i + (size_t)j] + 64) >> 7;
      bytes[j] = (int8_t)high;
      bytes[4 + j] = (int8_t)(out[i + (size_t)j] - 128 * high);
    }
    memcpy(out + i, bytes, sizeof bytes);
  }
#else
  (void)square;
#endif
}

#undef PARTS
