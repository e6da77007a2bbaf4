/* Products of int8 for one instruction set; see vectors.inc.h. Sums are exact, in 32 bits, the
   same on every processor: sixteen of a row of 16x1 blocks, four of one of 4x4. */

#if INTEGER == AVX2 || INTEGER == AVX512
/* `pmaddwd` adds products of neighbouring int16: two inputs of an output. */
INLINE __m256i T(multiply)(__m128i weights, __m256i x) {
  return _mm256_madd_epi16(_mm256_cvtepi8_epi16(weights), x);
}

/* Two inputs of neighbouring blocks. */
INLINE int32_t T(two_inputs)(const int16_t *x, const uint16_t *index) {
  return (int32_t)((uint32_t)(uint16_t)x[index[0]] | (uint32_t)(uint16_t)x[index[1]] << 16);
}

/* Two blocks with their outputs interleaved, one bytes of zeros. */
INLINE void T(add_two)(__m256i sum[2], __m128i a, __m128i b, int32_t inputs) {
  __m256i v = _mm256_set1_epi32(inputs);
  sum[0] = _mm256_add_epi32(sum[0], T(multiply)(_mm_unpacklo_epi8(a, b), v));
  sum[1] = _mm256_add_epi32(sum[1], T(multiply)(_mm_unpackhi_epi8(a, b), v));
}

INLINE void T(columns_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  size_t first = m->offsets[row], count = m->offsets[row + 1] - first;
  const uint16_t *index = m->indices + first;
  const __m128i *w = (const __m128i *)m->values + first;
  __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#if INTEGER == AVX512
  const __m512i zeros = _mm512_setzero_si512();
  const __m256i pairs = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
  __m512i wide[2] = {zeros, zeros};
  for (; count >= 4; count -= 4, index += 4, w += 4)
    UNROLL for (int u = 0; u < 2; u++) {
      __m256i both = _mm256_loadu_si256((const __m256i *)(w + 2 * u));
      both = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(both, 0xd8), pairs);
      __m512i v = _mm512_set1_epi32(T(two_inputs)(x, index + 2 * u));
      wide[u] = _mm512_add_epi32(wide[u], _mm512_madd_epi16(_mm512_cvtepi8_epi16(both), v));
    }
  wide[0] = _mm512_add_epi32(wide[0], wide[1]);
  sum[0] = _mm512_castsi512_si256(wide[0]);
  sum[1] = _mm512_extracti64x4_epi64(wide[0], 1);
#endif
  for (; count >= 2; count -= 2, index += 2, w += 2)
    T(add_two)(sum, _mm_loadu_si128(w), _mm_loadu_si128(w + 1), T(two_inputs)(x, index));
  if (count) T(add_two)(sum, _mm_loadu_si128(w), _mm_setzero_si128(), (uint16_t)x[*index]);
  _mm256_storeu_si256((__m256i *)y, sum[0]);
  _mm256_storeu_si256((__m256i *)(y + 8), sum[1]);
}

INLINE __m256i T(four_inputs)(const int16_t *x, uint32_t column) {
  int64_t inputs;
  memcpy(&inputs, x + 4 * column, sizeof inputs);
  return _mm256_set1_epi64x(inputs);
}

INLINE ints4 T(squares_int8)(const uint16_t *index, const int8_t *w, size_t count,
                             const int16_t *x) {
  __m256i sum = _mm256_setzero_si256();
#if INTEGER == AVX512
  __m512i wide[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  for (; count >= 4; count -= 4, index += 4, w += 4 * LANES)
    UNROLL for (int u = 0; u < 2; u++) { /* two blocks to a register */
      __m512i v = _mm512_inserti64x4(
          _mm512_castsi256_si512(T(four_inputs)(x, index[2 * u])),
          T(four_inputs)(x, index[2 * u + 1]), 1);
      __m256i both = _mm256_loadu_si256((const __m256i *)(w + 2 * u * LANES));
      wide[u] = _mm512_add_epi32(wide[u], _mm512_madd_epi16(_mm512_cvtepi8_epi16(both), v));
    }
  wide[0] = _mm512_add_epi32(wide[0], wide[1]);
  sum = _mm256_add_epi32(_mm512_castsi512_si256(wide[0]), _mm512_extracti64x4_epi64(wide[0], 1));
#else
  __m256i other = _mm256_setzero_si256();
  for (; count >= 2; count -= 2, index += 2, w += 2 * LANES) {
    __m256i a = T(multiply)(_mm_loadu_si128((const __m128i *)w), T(four_inputs)(x, index[0]));
    __m256i b = T(multiply)(_mm_loadu_si128((const __m128i *)(w + LANES)),
                            T(four_inputs)(x, index[1]));
    sum = _mm256_add_epi32(sum, a);
    other = _mm256_add_epi32(other, b);
  }
  sum = _mm256_add_epi32(sum, other);
#endif
  for (; count; count--, index++, w += LANES) {
    __m256i a = T(multiply)(_mm_loadu_si128((const __m128i *)w), T(four_inputs)(x, *index));
    sum = _mm256_add_epi32(sum, a);
  }
  __m128i low = _mm256_castsi256_si128(sum), high = _mm256_extracti128_si256(sum, 1);
  return (ints4)_mm_hadd_epi32(low, high); /* of two sums of each output */
}
#endif

#if INTEGER == NEON || INTEGER == DOT
INLINE void T(add_int8)(int32x4_t sum[4], const int8_t *w, int16x8_t x) {
  int8x16_t weights = vld1q_s8(w);
  int16x8_t low = vmovl_s8(vget_low_s8(weights)), high = vmovl_high_s8(weights);
  sum[0] = vmlal_s16(sum[0], vget_low_s16(low), vget_low_s16(x));
  sum[1] = vmlal_high_s16(sum[1], low, x);
  sum[2] = vmlal_s16(sum[2], vget_low_s16(high), vget_low_s16(x));
  sum[3] = vmlal_high_s16(sum[3], high, x);
}

INLINE void T(columns_int8)(const wavernn_matrix *m, uint32_t row, const int16_t *x,
                            int32_t y[LANES]) {
  const uint16_t *index = m->indices + m->offsets[row], *end = m->indices + m->offsets[row + 1];
  const int8_t *w = (const int8_t *)m->values + (size_t)LANES * m->offsets[row];
  int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  for (; end - index >= 4; index += 4, w += 4 * LANES)
    UNROLL for (int u = 0; u < 4; u++) T(add_int8)(sum, w + u * LANES, vld1q_dup_s16(x + index[u]));
  for (; index < end; index++, w += LANES) T(add_int8)(sum, w, vld1q_dup_s16(x + *index));
  for (int i = 0; i < 4; i++) vst1q_s32(y + 4 * i, sum[i]);
}
#endif

#if INTEGER == NEON
INLINE ints4 T(squares_int8)(const uint16_t *index, const int8_t *w, size_t count,
                             const int16_t *x) {
  int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  for (; count; count--, index++, w += LANES) {
    int16x4_t four = vld1_s16(x + 4 * *index);
    T(add_int8)(sum, w, vcombine_s16(four, four));
  }
  return (ints4)vpaddq_s32(vpaddq_s32(sum[0], sum[1]), vpaddq_s32(sum[2], sum[3]));
}
#endif

#if INTEGER == DOT
/* `sdot` multiplies a block by four inputs at once. Inputs of 15 bits are 128 · a + b, two bytes:
   a of four inputs, then b of them (`shorten`); those of 8 bits are one. */
INLINE int8x8_t T(four_inputs)(const int8_t *x, size_t column, const bool bytes) {
  if (!bytes) return vld1_s8(x + 8 * column);
  return vreinterpret_s8_s32(vld1_dup_s32((const int32_t *)(const void *)(x + 4 * column)));
}

/* The next `n` blocks. Loads come first: a core that works in order would wait for each. */
INLINE void T(add_squares)(int32x4_t sum[4], const uint16_t *index, const int8_t *w, const int n,
                           const int8_t *x, const bool bytes) {
  int8x16_t weights[8];
  int8x8_t v[8];
  UNROLL for (int u = 0; u < n; u++) weights[u] = vld1q_s8(w + u * LANES);
  UNROLL for (int u = 0; u < n; u++) v[u] = T(four_inputs)(x, index[u], bytes);
  UNROLL for (int u = 0; u < n; u++) {
    int32x4_t *high = &sum[u % 2], *low = &sum[2 + u % 2];
    *high = vdotq_lane_s32(*high, weights[u], v[u], 0);
    if (!bytes) *low = vdotq_lane_s32(*low, weights[u], v[u], 1);
  }
}

/* Rows from `order` on, as long as they have `count` blocks, `left` more than a multiple of 8.
   Returns where it stopped. */
INLINE const uint32_t *T(equal_rows)(const wavernn_matrix *m, const uint32_t *order,
                                     const uint32_t *end, const int8_t *x, float unit,
                                     float *restrict y, size_t count, const int left,
                                     const bool bytes) {
  do {
    size_t row = *order, first = m->offsets[row];
    if (m->offsets[row + 1] - first != count) break;
    const uint16_t *index = m->indices + first;
    const int8_t *w = (const int8_t *)m->values + LANES * first;
    int32x4_t sum[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
    for (size_t eights = count / 8; eights; eights--, index += 8, w += 8 * LANES)
      T(add_squares)(sum, index, w, 8, x, bytes);
    T(add_squares)(sum, index, w, left, x, bytes);
    int32x4_t all = vaddq_s32(sum[0], sum[1]);
    if (!bytes) all = vaddq_s32(vaddq_s32(sum[2], sum[3]), vshlq_n_s32(all, 7));
    float32x4_t scale = vmulq_n_f32(vld1q_f32(m->scales + 4 * row), unit);
    vst1q_f32(y + 4 * row, vmulq_f32(vcvtq_f32_s32(all), scale));
  } while (++order < end);
  return order;
}

/* Rows are sorted by their number of blocks: for each remainder there is code without a loop. */
INLINE void T(square_product)(const wavernn_matrix *m, const int16_t *x, float unit,
                              float *restrict y, const bool bytes) {
  const wavernn_matrix as = *m; /* which `y` does not change */
  const uint32_t *order = as.order, *end = order + as.rows;
  while (order < end) {
    size_t count = as.offsets[*order + 1] - as.offsets[*order];
#define CASE(left)                                                                             \
  case left:                                                                                   \
    order = T(equal_rows)(&as, order, end, (const int8_t *)x, unit, y, count, left, bytes);    \
    break
    switch (count % 8) {
      CASE(0);
      CASE(1);
      CASE(2);
      CASE(3);
      CASE(4);
      CASE(5);
      CASE(6);
      CASE(7);
    }
#undef CASE
  }
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

INLINE ints4 T(squares_int8)(const uint16_t *index, const int8_t *w, size_t count,
                             const int16_t *x) {
  ints4 sum = {0};
  for (; count; count--, index++, w += LANES)
    for (int i = 0; i < LANES; i++) sum[i / 4] += w[i] * x[4 * *index + i % 4];
  return sum;
}
#endif

#if INTEGER != DOT
INLINE void T(square_product)(const wavernn_matrix *m, const int16_t *x, float unit,
                              float *restrict y, const bool bytes) {
  const uint32_t *restrict order = m->order, *restrict offsets = m->offsets;
  const uint16_t *restrict indices = m->indices;
  const int8_t *restrict values = m->values;
  const float *restrict scales = m->scales;
  (void)bytes;
  for (const uint32_t *end = order + m->rows; order < end; order++) {
    size_t row = *order, first = offsets[row], count = offsets[row + 1] - first;
    ints4 sum = T(squares_int8)(indices + first, values + LANES * first, count, x);
    floats4 scale = *(const floats4_at *)(scales + 4 * row) * unit;
    *(floats4_at *)(y + 4 * row) = __builtin_convertvector(sum, floats4) * scale;
  }
}
#endif

/* y = matrix · x of int8, whose activations are integers in steps of `unit`. */
TARGET static void T(product_int8)(const wavernn_matrix *m, const int16_t *x, float unit,
                                   float *restrict y) {
  if (m->square && m->bytes) return T(square_product)(m, x, unit, y, true);
  if (m->square) return T(square_product)(m, x, unit, y, false);
  for (uint32_t row = 0; row < m->rows; row++) {
    ints4 sums[LANES / 4]; /* read as wide as they are written at least: nothing waits */
    T(columns_int8)(m, row, x, (int32_t *)sums);
    UNROLL for (uint32_t p = 0; p < LANES / 4; p++) {
      size_t at = LANES * row + 4 * p;
      floats4 scale = *(const floats4_at *)(m->scales + at) * unit;
      *(floats4_at *)(y + at) = __builtin_convertvector(sums[p], floats4) * scale;
    }
  }
}

/* Activations as integers of at most 15 bits, in the order that the products of `m` read. */
#if INTEGER == NEON || INTEGER == DOT
INLINE int16x8_t T(rounded)(const float *x, float scale, size_t second) {
  T(floats) low = T(get)(x) * scale, high = T(get)(x + second) * scale;
  return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32((float32x4_t)low)), /* NaN becomes 0 */
                      vqmovn_s32(vcvtnq_s32_f32((float32x4_t)high)));
}

TARGET static void T(shorten)(const float *x, size_t n, float scale, const wavernn_matrix *m,
                              void *out, size_t at) {
  for (size_t i = 0; i < n; i += 8) { /* n is a multiple of 4: the last four may come twice */
    size_t second = i + 4 < n ? 4 : 0;
    int16x8_t v = T(rounded)(x + i, scale, second);
    if (INTEGER != DOT || !m->square) {
      int16_t *whole = (int16_t *)out + at + i;
      vst1_s16(whole, vget_low_s16(v));
      vst1_s16(whole + second, vget_high_s16(v));
    } else if (m->bytes) {
      int32x2_t bytes = vreinterpret_s32_s8(vqmovn_s16(v));
      int32_t *words = (int32_t *)out + (at + i) / 4;
      vst1_lane_s32(words, bytes, 0);
      vst1_lane_s32(words + second / 4, bytes, 1);
    } else {
      int32x2_t high = vreinterpret_s32_s8(vshrn_n_s16(v, 7));
      int32x2_t low = vreinterpret_s32_s8(vand_s8(vmovn_s16(v), vdup_n_s8(127)));
      int32_t *words = (int32_t *)out + (at + i) / 2;
      vst1_s32(words, vzip1_s32(high, low));
      vst1_s32(words + second / 2, vzip2_s32(high, low));
    }
  }
}
#else
TARGET static void T(shorten)(const float *x, size_t n, float scale, const wavernn_matrix *m,
                              void *out, size_t at) {
  int16_t *whole = (int16_t *)out + at;
  float limit = 16256;
  (void)m;
  for (size_t i = 0; i < n; i++) {
    float v = x[i] * scale;
    v = v > -limit ? v : -limit; /* also NaN */
    v = v < limit ? v : limit;
    v += 12582912.0f; /* rounds: 1.5 · 2^23 */
    v -= 12582912.0f;
    whole[i] = (int16_t)v;
  }
}
#endif
