/* One sample for one instruction set; see products.inc.h. Loops are plain: compilers turn
   them into vectors. */

/* 2^x within −126 .. 126; relative error below 1e-7. */
INLINE float T(exp2)(float x) {
  x = x > -126.0f ? x : -126.0f; /* also NaN */
  x = x < 126.0f ? x : 126.0f;
  float shifted = x + 12582912.0f; /* 1.5 · 2^23: n stands in its low bits */
  float f = x - (shifted - 12582912.0f);
  float p = f * 0.0001534581242594868f + 0.0013399930903688073f;
  p = f * p + 0.009618489071726799f;
  p = f * p + 0.05550328642129898f;
  p = f * p + 0.24022646248340607f;
  p = f * p + 0.6931471824645996f;
  union { float number; uint32_t bits; } result = {f * p + 1.0f}, n = {shifted};
  result.bits += n.bits << 23;
  return result.number;
}

/* e^(scale · x / log2(e)), its argument within bounds. */
INLINE float T(exp_within)(float x, float scale, float bound) {
  x = x > -bound ? x : -bound;
  x = x < bound ? x : bound;
  return T(exp2)(x * scale);
}

/* x += Σ v_i V_i, of n inputs. */
INLINE void T(add_inputs)(float *restrict x, size_t count, const float *restrict v, const int n,
                          const float *restrict V, size_t stride) {
  for (size_t j = 0; j < count; j++) {
    float sum = x[j];
    UNROLL for (int i = 0; i < n; i++) sum += v[i] * V[(size_t)i * stride + j];
    x[j] = sum;
  }
}

/* Gate inputs of the frames and of what is heard, of all units. */
TARGET static void T(inputs)(wavernn_stream *s, const float *heard) {
  const wavernn_voice *v = s->voice;
  size_t count = 3 * (size_t)v->units;
  const float *restrict before = s->gates[0], *restrict after = s->gates[1];
  float *restrict x = s->inputs, a = s->fraction, b = 1 - a;
  for (size_t j = 0; j < count; j++) x[j] = b * before[j] + a * after[j];
  if (v->spectral) T(add_inputs)(x, count, heard, HEARD, v->previous, count);
  else T(add_inputs)(x, count, heard, 2, v->previous, count);
}

/* h' = u h + (1 − u) e of n units with two divisions: for a = exp(−u's argument) and
   b = exp(−2 e's argument), u = 1 / (1 + a) and e = (1 − b) / (1 + b). */
INLINE void T(blend)(size_t n, const float *restrict g_u, const float *restrict g_r,
                     const float *restrict g_e, const float *restrict x_u,
                     const float *restrict x_r, const float *restrict x_e, float *restrict h) {
  const float log2e = 1.4426950408889634f;
  for (size_t j = 0; j < n; j++) {
    float a = T(exp_within)(g_u[j] + x_u[j], -log2e, 40.0f);
    float reset = 1.0f + T(exp_within)(g_r[j] + x_r[j], -log2e, 40.0f);
    float b = T(exp_within)(x_e[j] + g_e[j] / reset, -2 * log2e, 20.0f);
    h[j] = (h[j] * (1.0f + b) + a * (1.0f - b)) / ((1.0f + a) * (1.0f + b));
  }
}

TARGET static void T(half)(wavernn_stream *s, int side) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units, n = units / 2, first = side ? n : 0;
  float *g = s->products + first, *x = s->inputs + first, *h = s->h + first;
  T(blend)(n, g, g + units, g + 2 * units, x, x + units, x + 2 * units, h);
  if (v->weights == I8)
    T(shorten)(h, n, v->limit, v->recurrent[0].square, s->short_h + first);
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

INLINE float T(greatest)(const float *x, size_t n) {
  float found[LANES];
  size_t i = n % LANES;
  for (size_t j = 0; j < LANES; j++) found[j] = x[j < i ? j : 0];
  for (; i < n; i += LANES)
    for (size_t j = 0; j < LANES; j++) found[j] = x[i + j] > found[j] ? x[i + j] : found[j];
  for (size_t j = 1; j < LANES; j++) found[0] = found[j] > found[0] ? found[j] : found[0];
  return found[0];
}

/* Logits of a byte from its half of the state, without the prior. */
TARGET static void T(logits)(wavernn_stream *s, int side) {
  const wavernn_voice *v = s->voice;
  const wavernn_head *head = &v->heads[side];
  size_t first = side ? (size_t)v->units / 2 : 0, P = (size_t)v->projection;
  bool whole = v->weights == I8;
  if (whole) T(product_int8)(&head->hidden, s->short_h + first, 1 / v->limit, s->hidden);
  else T(product)(&head->hidden, s->h + first, s->hidden);
  for (size_t j = 0; j < P; j++) {
    float y = s->hidden[j] + head->hidden_bias[j];
    s->hidden[j] = y > 0 ? y : 0;
  }
  if (whole) {
    float top = T(greatest)(s->hidden, P);
    top = top > 1e-30f ? top : 1e-30f;
    T(shorten)(s->hidden, P, head->limit / top, head->output.square, s->short_hidden);
    T(product_int8)(&head->output, s->short_hidden, top / head->limit, s->logits);
  } else {
    T(product)(&head->output, s->hidden, s->logits);
  }
  for (size_t j = 0; j < LEVELS; j++) s->logits[j] += head->output_bias[j];
}

/* Adds the logarithm of a Laplace density of scale 1/λ. */
TARGET static void T(add_prior)(float *restrict logits, float lambda, int side, int coarse) {
  for (int v = 0; v < LEVELS; v++) {
    float ramp = side ? (coarse >= 128 ? -(float)v : (float)v)
                      : (float)(v >= 128 ? 256 * (128 - v) : 256 * (v - 127) - 1);
    logits[v] += lambda * ramp;
  }
}

/* weights = exp((logits − greatest) / temperature); those after the 256 are the running sums
   of sixteens. Returns the sum of all. */
TARGET static float T(softmax)(const float *restrict logits, float greatest, float temperature,
                               float *restrict weights) {
  float scale = 1.4426950408889634f / (temperature > 1e-6f ? temperature : 1e-6f), total = 0;
  for (int v = 0; v < LEVELS; v++) {
    float x = (logits[v] - greatest) * scale;
    weights[v] = T(exp2)(x > -120.0f ? x : -120.0f);
  }
  for (int block = 0; block < LANES; block++) {
    const float *w = weights + LANES * block;
    float sum[4];
    for (int j = 0; j < 4; j++) sum[j] = (w[j] + w[j + 4]) + (w[j + 8] + w[j + 12]);
    total += (sum[0] + sum[1]) + (sum[2] + sum[3]);
    weights[LEVELS + block] = total;
  }
  return total;
}

/* Draws a byte, or gives its nats where it is known. */
TARGET static uint8_t T(byte)(wavernn_stream *s, int side, int coarse, float uniform,
                              uint8_t known, float *nats) {
  T(logits)(s, side);
  if (s->voice->spectral)
    T(add_prior)(s->logits, s->voice->prediction.prior / s->scale, side, coarse);
  float greatest = T(greatest)(s->logits, LEVELS), temperature = s->temperature[side];
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
  float heard[HEARD], uniform[2];
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
  size_t i = 0;
  for (; i + 4 <= inputs; i += 4) T(add_inputs)(y, outputs, x + i, 4, w + i * outputs, outputs);
  for (; i < inputs; i++) T(add_inputs)(y, outputs, x + i, 1, w + i * outputs, outputs);
}

TARGET static int32_t T(dot)(const int16_t *restrict a, const int16_t *restrict b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += (int32_t)a[i] * b[i];
  return sum;
}

/* Σ_k power_k cos(2π k lag / n_fft), k = 0 .. n_fft/2. */
TARGET static double T(cosine_sum)(const double *power, const double *cosine, uint32_t lag,
                                   uint32_t n_fft) {
  double sum[4] = {0};
  uint32_t bins = n_fft / 2 + 1, at = 0;
  for (uint32_t k = 0; k < bins; k++) {
    sum[k % 4] += power[k] * cosine[at];
    at += lag;
    at -= at >= n_fft ? n_fft : 0;
  }
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static const wavernn_kernels T(kernels) = {
    NAME, T(runs), T(sample), T(product), T(add_dense), T(dot), T(cosine_sum)};
