/* One sample for one instruction set; see products.inc.h. Loops are plain: compilers turn
   them into vectors. */

/* Four registers of sums: cores that do not reorder instructions have others to do while one
   waits. */
#define GROUP (4 * WIDE)

/* sum += Σ v_i V_i, of n inputs. */
INLINE void T(add_columns)(T(floats) sum[4], const float *v, size_t n, const float *V,
                           size_t stride) {
  for (; n >= 4; n -= 4, v += 4, V += 4 * stride)
    UNROLL for (size_t i = 0; i < 4; i++)
      UNROLL for (size_t p = 0; p < 4; p++) sum[p] += v[i] * T(get)(V + i * stride + p * WIDE);
  for (; n; n--, v++, V += stride)
    UNROLL for (size_t p = 0; p < 4; p++) sum[p] += v[0] * T(get)(V + p * WIDE);
}

/* x += Σ v_i V_i. */
OUTLINE void T(add_inputs)(float *restrict x, size_t count, const float *restrict v, size_t n,
                           const float *restrict V, size_t stride) {
  size_t j = 0;
  for (; j + GROUP <= count; j += GROUP) {
    T(floats) sum[4];
    UNROLL for (size_t p = 0; p < 4; p++) sum[p] = T(get)(x + j + p * WIDE);
    T(add_columns)(sum, v, n, V + j, stride);
    UNROLL for (size_t p = 0; p < 4; p++) T(put)(x + j + p * WIDE, sum[p]);
  }
  for (size_t i = 0; i < n; i++)
    for (size_t k = j; k < count; k++) x[k] += v[i] * V[i * stride + k];
}

/* Gate inputs of two frames and of what is heard, of all units. */
TARGET static void T(inputs)(wavernn_stream *s, const float *heard) {
  const float *before = s->gates[0], *after = s->gates[1], *V = s->voice->previous;
  size_t count = 3 * (size_t)s->voice->units, n = (size_t)s->voice->heard, j = 0;
  float a = s->fraction, b = 1 - a, *x = s->inputs;
  for (; j + GROUP <= count; j += GROUP) {
    T(floats) sum[4];
    UNROLL for (size_t p = 0; p < 4; p++) {
      size_t at = j + p * WIDE;
      sum[p] = b * T(get)(before + at) + a * T(get)(after + at);
    }
    T(add_columns)(sum, heard, 2, V + j, count); /* with `none` there are no more */
    T(add_columns)(sum, heard + 2, n - 2, V + 2 * count + j, count);
    UNROLL for (size_t p = 0; p < 4; p++) T(put)(x + j + p * WIDE, sum[p]);
  }
  for (size_t k = j; k < count; k++) x[k] = b * before[k] + a * after[k];
  T(add_inputs)(x + j, count - j, heard, n, V + j, count);
}

/* h' = u h + (1 − u) e of sixteen units with two divisions: for a = exp(−u's argument) and
   b = exp(−2 e's argument), u = 1 / (1 + a) and e = (1 − b) / (1 + b).
   g and x hold the three gates `stride` apart. */
INLINE void T(blend)(const float *g, const float *x, size_t stride, float *h) {
  const float log2e = 1.4426950408889634f;
  T(floats) a[PARTS], b[PARTS], reset[PARTS];
  UNROLL for (size_t p = 0; p < PARTS; p++) {
    size_t r = stride + p * WIDE;
    reset[p] = T(clip)((T(get)(g + r) + T(get)(x + r)) * -log2e, 57.0f);
    a[p] = T(clip)((T(get)(g + p * WIDE) + T(get)(x + p * WIDE)) * -log2e, 57.0f);
  }
  T(exp2)(reset);
  T(exp2)(a);
  UNROLL for (size_t p = 0; p < PARTS; p++) {
    size_t e = 2 * stride + p * WIDE;
    T(floats) sum = T(get)(x + e) + T(divide)(T(get)(g + e), 1.0f + reset[p]);
    b[p] = T(clip)(sum * (-2 * log2e), 57.0f);
  }
  T(exp2)(b);
  UNROLL for (size_t p = 0; p < PARTS; p++) {
    T(floats) sum = T(get)(h + p * WIDE) * (1.0f + b[p]) + a[p] * (1.0f - b[p]);
    T(put)(h + p * WIDE, T(divide)(sum, (1.0f + a[p]) * (1.0f + b[p])));
  }
}

/* `blend` of fewer units. */
INLINE void T(blend_some)(const float *g, const float *x, size_t stride, float *h, size_t n) {
  float room[7][LANES] = {{0}};
  for (size_t gate = 0; gate < 3; gate++) {
    memcpy(room[gate], g + gate * stride, n * sizeof *g);
    memcpy(room[3 + gate], x + gate * stride, n * sizeof *x);
  }
  memcpy(room[6], h, n * sizeof *h);
  T(blend)(room[0], room[3], LANES, room[6]);
  memcpy(h, room[6], n * sizeof *h);
}

TARGET static void T(half)(wavernn_stream *s, int side) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units, n = units / 2, first = side ? n : 0;
  float *g = s->products + first, *x = s->inputs + first, *h = s->h + first;
  size_t j = 0;
  for (; j + LANES <= n; j += LANES) T(blend)(g + j, x + j, units, h + j);
  if (j < n) T(blend_some)(g + j, x + j, units, h + j, n - j);
  if (v->weights == I8)
    T(shorten)(h, n, v->limit, &v->recurrent[0], s->short_h, first);
}

/* R h. */
TARGET static void T(recurrent)(wavernn_stream *s) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units;
  for (int gate = 0; gate < 3; gate++) {
    float *g = s->products + (size_t)gate * units;
    if (v->weights == I8) T(product_int8)(&v->recurrent[gate], s->short_h, 1 / v->limit, g);
    else T(product)(&v->recurrent[gate], s->h, g);
  }
  if (v->reset_bias)
    for (size_t j = 0; j < units; j++) s->products[2 * units + j] += v->reset_bias[j];
}

INLINE float T(greatest)(const T(floats) v[4]) {
  float top[WIDE];
  T(put)(top, T(max)(T(max)(v[0], v[1]), T(max)(v[2], v[3])));
  for (int i = 1; i < WIDE; i++) top[0] = top[i] > top[0] ? top[i] : top[0];
  return top[0];
}

/* x = max(x + bias, 0). Returns the greatest. */
INLINE float T(add_bias)(float *restrict x, const float *restrict bias, size_t n) {
  T(floats) found[4] = {{0}};
  size_t j = 0;
  for (; j + GROUP <= n; j += GROUP)
    UNROLL for (size_t p = 0; p < 4; p++) {
      size_t at = j + p * WIDE;
      T(floats) sum = T(max)(T(get)(x + at) + T(get)(bias + at), T(all)(0));
      T(put)(x + at, sum);
      found[p] = T(max)(sum, found[p]);
    }
  float top = T(greatest)(found);
  for (size_t left = n % GROUP; left; left--, j++) {
    x[j] = x[j] + bias[j] > 0 ? x[j] + bias[j] : 0;
    top = x[j] > top ? x[j] : top;
  }
  return top;
}

/* x += bias + λ (first + slope v) of half of the values v. Returns the greatest. */
OUTLINE float T(add_to_logits)(float *restrict x, const float *restrict bias, float lambda,
                               float first, float slope) {
  T(floats) ramp[4], found[4];
  UNROLL for (int i = 0; i < GROUP; i++) {
    ramp[i / WIDE][i % WIDE] = first + slope * (float)i;
    found[i / WIDE][i % WIDE] = -INFINITY;
  }
  for (size_t v = 0; v < LEVELS / 2; v += GROUP)
    UNROLL for (size_t p = 0; p < 4; p++) {
      size_t at = v + p * WIDE;
      T(floats) sum = (T(get)(x + at) + T(get)(bias + at)) + lambda * ramp[p];
      T(put)(x + at, sum);
      found[p] = T(max)(sum, found[p]);
      ramp[p] += slope * GROUP;
    }
  return T(greatest)(found);
}

/* The output layers of a byte, from its half of the state, without the last bias. */
TARGET static void T(output)(wavernn_stream *s, int side) {
  const wavernn_voice *v = s->voice;
  const wavernn_head *head = &v->heads[side];
  size_t first = side ? (size_t)v->units / 2 : 0, P = (size_t)v->projection;
  bool whole = v->weights == I8, packed = INTEGER == DOT && head->hidden.square && head->hidden.bytes;
  const int16_t *half = s->short_h + (packed ? first / 2 : first);
  if (whole) T(product_int8)(&head->hidden, half, 1 / v->limit, s->hidden);
  else T(product)(&head->hidden, s->h + first, s->hidden);
  float top = T(add_bias)(s->hidden, head->hidden_bias, P);
  if (whole) {
    top = top > 1e-30f ? top : 1e-30f;
    T(shorten)(s->hidden, P, head->limit / top, &head->output, s->short_hidden, 0);
    T(product_int8)(&head->output, s->short_hidden, top / head->limit, s->logits);
  } else {
    T(product)(&head->output, s->hidden, s->logits);
  }
}

/* Logits of a byte with their prior, the logarithm of a Laplace density of scale 1/λ. Returns
   the greatest. */
TARGET static float T(logits)(wavernn_stream *s, int side, int coarse) {
  const wavernn_voice *v = s->voice;
  const float *bias = v->heads[side].output_bias;
  const int half = LEVELS / 2;
  float lambda = v->spectral ? v->prediction.prior / s->scale : 0, a, b;
  T(output)(s, side);
  if (side) {
    float slope = coarse >= half ? -1 : 1;
    a = T(add_to_logits)(s->logits, bias, lambda, 0, slope);
    b = T(add_to_logits)(s->logits + half, bias + half, lambda, slope * (float)half, slope);
  } else {
    a = T(add_to_logits)(s->logits, bias, lambda, -256 * (float)(half - 1) - 1, 256);
    b = T(add_to_logits)(s->logits + half, bias + half, lambda, 0, -256);
  }
  return a > b ? a : b;
}

/* weights = exp((logits − greatest) / temperature); those after the 256 are the running sums
   of sixteens. Returns the sum of all. */
TARGET static float T(softmax)(const float *restrict logits, float greatest, float temperature,
                               float *restrict weights) {
  float scale = 1.4426950408889634f / (temperature > 1e-6f ? temperature : 1e-6f), total = 0;
  for (int block = 0; block < LANES; block++) {
    float *w = weights + LANES * block;
    T(floats) x[PARTS];
    UNROLL for (int p = 0; p < PARTS; p++) {
      x[p] = (T(get)(logits + LANES * block + p * WIDE) - greatest) * scale;
      x[p] = T(max)(x[p], T(all)(-120.0f));
    }
    T(exp2)(x);
    UNROLL for (int p = 0; p < PARTS; p++) T(put)(w + p * WIDE, x[p]);
    floats4 sum = (*(floats4 *)w + *(floats4 *)(w + 4)) + (*(floats4 *)(w + 8) + *(floats4 *)(w + 12));
    total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    weights[LEVELS + block] = total;
  }
  return total;
}

/* Draws a byte, or gives its nats where it is known. */
TARGET static uint8_t T(byte)(wavernn_stream *s, int side, int coarse, float uniform,
                              uint8_t known, float *nats) {
  float greatest = T(logits)(s, side, coarse), temperature = s->temperature[side];
  if (nats) {
    float total = T(softmax)(s->logits, greatest, 1, s->weights);
    *nats = logf(total) - (s->logits[known] - greatest);
    return known;
  }
  if (temperature == 0) return most_likely(s->logits);
  float total = T(softmax)(s->logits, greatest, temperature, s->weights);
  return draw(s->weights, uniform * total);
}

TARGET static void T(sample)(wavernn_stream *s, uint8_t bytes[2], float *nats) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units, n = units / 2;
  float heard[MAX_HEARD], uniform[2];
  uniforms(s->seed, s->utterance, (uint32_t)s->sample, uniform);
  what_is_heard(s, heard);
  T(inputs)(s, heard);
  T(recurrent)(s);
  T(half)(s, 0);
  bytes[0] = T(byte)(s, 0, 0, uniform[0], bytes[0], nats);
  float current = heard_of_coarse(s, bytes[0]);
  for (size_t gate = 0; gate < 3; gate++)
    T(add_inputs)(s->inputs + gate * units + n, n, &current, 1, v->coarse + gate * n, n);
  T(half)(s, 1);
  bytes[1] = T(byte)(s, 1, bytes[0], uniform[1], bytes[1], nats ? nats + 1 : NULL);
}

/* At frame rate. */

TARGET static void T(add_dense)(const float *restrict x, size_t inputs, const float *restrict w,
                                size_t outputs, float *restrict y) {
  T(add_inputs)(y, outputs, x, inputs, w, outputs);
}

TARGET static int32_t T(dot)(const int16_t *restrict a, const int16_t *restrict b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += (int32_t)a[i] * b[i];
  return sum;
}

static const wavernn_kernels T(kernels) = {
    NAME, T(runs), T(sample), T(product), T(add_dense), T(dot)};

#undef PARTS
#undef GROUP
