/* Mel frames -> gate inputs: each frame goes through every layer once. */
#include <string.h>

#include "internal.h"

static void append(float *inputs, int frames, size_t width, const float *x) {
  memmove(inputs, inputs + width, (size_t)(frames - 1) * width * sizeof *x);
  memcpy(inputs + (size_t)(frames - 1) * width, x, width * sizeof *x);
}

static void normalise(const wavernn_voice *v, const float *mel, float *y) {
  float half = -v->floor / 2, scale = 2 / half;
  for (int b = 0; b < v->mel.bands; b++) y[b] = (mel[b] + half) * scale;
}

/* Feeds frame `s->fed`; gates[1] are then those of frame fed − L (k − 1) / 2. */
void wavernn_conditioning_feed(wavernn_stream *s, const float *mel) {
  const wavernn_voice *v = s->voice;
  size_t bands = (size_t)v->mel.bands, channels = (size_t)v->channels, k = (size_t)v->kernel;
  float *y = s->layer[v->layers]; /* room for a frame of any width */
  normalise(v, mel, y);
  append(s->layer[0], v->kernel, bands, y);
  for (int l = 0; l < v->layers; l++) {
    const float *inputs = s->layer[l];
    memcpy(y, v->layer_bias[l], channels * sizeof *y);
    v->kernels->add_dense(inputs, k * (l ? channels : bands), v->layer_kernel[l], channels, y);
    const float *middle = inputs + (k / 2) * channels;
    for (size_t c = 0; c < channels; c++)
      y[c] = (y[c] > 0 ? y[c] : 0) + (l ? middle[c] : 0);
    if (l + 1 < v->layers) append(s->layer[l + 1], v->kernel, channels, y);
  }
  float *next = s->gates[0];
  s->gates[0] = s->gates[1];
  s->gates[1] = next;
  v->kernels->product(&v->gates, y, next);
  for (int i = 0; i < 3 * v->units; i++) next[i] += v->gates_bias[i];
}
