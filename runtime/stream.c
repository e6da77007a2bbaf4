/* Streams: frames in, samples out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

/* Hands out pieces of one allocation, or only counts them where there is none. */
typedef struct {
  uint8_t *start;
  size_t used;
} arena;

static void *part(arena *a, size_t count, size_t size) {
  void *piece = a->start ? a->start + a->used : NULL;
  a->used += (count * size + 63) / 64 * 64;
  return piece;
}

static size_t inputs_of(const wavernn_voice *v, int layer) {
  return (size_t)v->kernel * (size_t)(layer ? v->channels : v->mel.bands);
}

static int margin(const wavernn_voice *v) { return v->layers * (v->kernel - 1) / 2; }

static void place_prediction(wavernn_stream *s, arena *a) {
  const wavernn_spectral *p = &s->voice->prediction;
  size_t taps = (size_t)p->taps;
  s->past = part(a, 2 * taps, sizeof *s->past);
  s->tap = part(a, taps, sizeof *s->tap);
  s->power = part(a, 3 * (size_t)p->bins + 8, sizeof *s->power);
  s->lag = part(a, taps + 1, sizeof *s->lag);
  s->solution = part(a, taps, sizeof *s->solution);
  s->backwards = part(a, taps, sizeof *s->backwards);
  for (int i = 0; i < 4; i++) s->band[i] = part(a, (size_t)p->bands + 1, sizeof **s->band);
}

static void place(wavernn_stream *s, arena *a) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units, P = (size_t)v->projection, bands = (size_t)v->mel.bands;
  size_t widest = bands > (size_t)v->channels ? bands : (size_t)v->channels;
  float **layers = part(a, (size_t)v->layers + 1, sizeof *layers);
  for (int l = 0; l <= v->layers; l++) {
    float *inputs = part(a, l < v->layers ? inputs_of(v, l) : widest, sizeof *inputs);
    if (layers) layers[l] = inputs;
  }
  s->layer = layers;
  s->frames = part(a, (size_t)s->ring * bands, sizeof *s->frames);
  for (int i = 0; i < 2; i++) s->gates[i] = part(a, 3 * units, sizeof **s->gates);
  s->h = part(a, units, sizeof *s->h);
  s->products = part(a, 3 * units, sizeof *s->products);
  s->inputs = part(a, 3 * units, sizeof *s->inputs);
  s->hidden = part(a, P, sizeof *s->hidden);
  s->logits = part(a, LEVELS, sizeof *s->logits);
  s->weights = part(a, LEVELS + LANES, sizeof *s->weights);
  s->short_h = part(a, units, sizeof *s->short_h);
  s->short_hidden = part(a, P, sizeof *s->short_hidden);
  if (v->spectral) place_prediction(s, a);
}

size_t wavernn_stream_bytes(const wavernn_voice *voice) {
  wavernn_stream s = {.voice = voice, .ring = margin(voice) + 3 + QUEUE};
  arena counting = {NULL, 0};
  part(&counting, 1, sizeof s);
  place(&s, &counting);
  return counting.used;
}

wavernn_error wavernn_stream_new(const wavernn_voice *voice, wavernn_stream **stream) {
  if (!voice || !stream) return WAVERNN_ARGUMENT;
  size_t bytes = wavernn_stream_bytes(voice);
  arena a = {aligned_alloc(64, bytes), 0};
  *stream = NULL;
  if (!a.start) return WAVERNN_NO_MEMORY;
  memset(a.start, 0, bytes);
  wavernn_stream *s = part(&a, 1, sizeof *s);
  s->voice = voice;
  s->ring = margin(voice) + 3 + QUEUE;
  s->temperature[0] = s->temperature[1] = 1;
  place(s, &a);
  wavernn_reset(s, 0, 0);
  *stream = s;
  return WAVERNN_OK;
}

void wavernn_stream_free(wavernn_stream *stream) { free(stream); }

/* The log mel of a frame, or of silence outside the utterance. */
static const float *frame(const wavernn_stream *s, int64_t f, float *silence) {
  size_t bands = (size_t)s->voice->mel.bands;
  if (f >= 0 && f < s->pushed) return s->frames + (size_t)(f % s->ring) * bands;
  for (size_t b = 0; b < bands; b++) silence[b] = s->voice->floor;
  return silence;
}

static void feed(wavernn_stream *s) {
  float *room = s->layer[s->voice->layers];
  wavernn_conditioning_feed(s, frame(s, s->fed, room));
  s->fed++;
}

void wavernn_reset(wavernn_stream *s, uint32_t seed, uint32_t utterance) {
  const wavernn_voice *v = s->voice;
  size_t units = (size_t)v->units;
  s->seed = seed;
  s->utterance = utterance;
  s->pushed = s->sample = 0;
  s->ended = false;
  s->filter_frame = -2;
  s->last[0] = LEVELS / 2;
  s->last[1] = 0;
  s->predicted = 0;
  memset(s->residual, 0, sizeof s->residual);
  memset(s->h, 0, units * sizeof *s->h);
  memset(s->short_h, 0, units * sizeof *s->short_h);
  if (v->spectral) {
    memset(s->past, 0, (size_t)v->prediction.taps * sizeof *s->past);
    s->newest = v->prediction.taps;
  }
  for (int l = 0; l < v->layers; l++) memset(s->layer[l], 0, inputs_of(v, l) * sizeof(float));
  for (s->fed = -1 - margin(v); s->fed < 0;) feed(s); /* all that the first gates hear */
}

wavernn_error wavernn_temperatures(wavernn_stream *s, float coarse, float fine) {
  if (!(coarse >= 0 && coarse <= 100 && fine >= 0 && fine <= 100)) return WAVERNN_ARGUMENT;
  s->temperature[0] = coarse;
  s->temperature[1] = fine;
  return WAVERNN_OK;
}

size_t wavernn_push(wavernn_stream *s, const float *mel, size_t frames) {
  size_t bands = (size_t)s->voice->mel.bands, taken = 0;
  for (; taken < frames && !s->ended && s->pushed - s->fed < QUEUE; taken++, s->pushed++) {
    const float *values = mel + taken * bands;
    for (size_t b = 0; b < bands; b++)
      if (!isfinite(values[b])) return taken;
    memcpy(s->frames + (size_t)(s->pushed % s->ring) * bands, values, bands * sizeof *mel);
  }
  return taken;
}

void wavernn_end(wavernn_stream *s) { s->ended = true; }

static int64_t floor_divide(int64_t a, int64_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/* The prediction of the frame nearest to the next sample; beyond the end, of the last. */
static void choose_filter(wavernn_stream *s, int64_t position) {
  const wavernn_mel *mel = &s->voice->mel;
  int64_t nearest = floor_divide(2 * position + mel->hop, 2 * (int64_t)mel->hop);
  if (nearest == s->filter_frame) return;
  float *room = s->layer[s->voice->layers];
  const float *values = frame(s, nearest, room);
  bool silent = true;
  for (int b = 0; b < mel->bands; b++) silent &= values[b] <= s->voice->floor + 1e-6f;
  if (silent) values = frame(s, nearest - 1, room);
  wavernn_prediction_solve(s, values);
  s->filter_frame = nearest;
}

static void predict(wavernn_stream *s) {
  int taps = s->voice->prediction.taps;
  int32_t sum = s->voice->kernels->dot(s->tap, s->past + s->newest - taps, (size_t)taps);
  int32_t rounded = s->shift ? (sum + (1 << (s->shift - 1))) >> s->shift : sum;
  s->predicted = rounded < INT16_MIN ? INT16_MIN : rounded > INT16_MAX ? INT16_MAX : rounded;
}

/* What is known at the next sample; false where frames are missing or the utterance is over. */
static bool prepare(wavernn_stream *s) {
  const wavernn_voice *v = s->voice;
  int hop = v->mel.hop, ahead = margin(v);
  if (s->ended && s->sample >= s->pushed * hop) return false;
  int64_t position = s->sample - (v->mel.center ? 0 : hop / 2);
  int64_t left = floor_divide(position, hop);
  while (s->fed - 1 - ahead < left + 1) {
    if (s->fed >= s->pushed && !s->ended) return false;
    feed(s);
  }
  s->fraction = (float)(position - left * hop) / (float)hop;
  if (v->spectral) {
    choose_filter(s, position);
    predict(s);
  }
  return true;
}

/* Keeps the bytes of the last sample and, of a spectral model, it and its residual. */
static void keep(wavernn_stream *s, const uint8_t bytes[2], int16_t pcm) {
  int taps = s->voice->prediction.taps;
  s->last[0] = bytes[0];
  s->last[1] = bytes[1];
  s->sample++;
  if (!s->voice->spectral) return;
  if (s->newest == 2 * taps) {
    memmove(s->past, s->past + taps, (size_t)taps * sizeof *s->past);
    s->newest = taps;
  }
  s->past[s->newest++] = pcm;
  float z = (float)(int16_t)(uint16_t)(pcm - s->predicted) / s->scale;
  memmove(s->residual + 1, s->residual, (size_t)(s->voice->residuals - 1) * sizeof *s->residual);
  s->residual[0] = z > -8 ? (z < 8 ? z : 8) : -8;
}

size_t wavernn_pull(wavernn_stream *s, int16_t *pcm, size_t samples) {
  size_t made = 0;
  for (; made < samples && prepare(s); made++) {
    uint8_t bytes[2];
    s->voice->kernels->sample(s, bytes, NULL);
    int value = 256 * bytes[0] + bytes[1] - 32768 + (s->voice->spectral ? s->predicted : 0);
    pcm[made] = (int16_t)(value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value);
    keep(s, bytes, pcm[made]);
  }
  return made;
}

size_t wavernn_score(wavernn_stream *s, const int16_t *pcm, size_t samples, float (*nats)[2]) {
  size_t scored = 0;
  for (; scored < samples && prepare(s); scored++) {
    int predicted = s->voice->spectral ? s->predicted : 0;
    uint16_t code = (uint16_t)(pcm[scored] - predicted + 32768);
    uint8_t bytes[2] = {(uint8_t)(code >> 8), (uint8_t)code};
    s->voice->kernels->sample(s, bytes, nats[scored]);
    keep(s, bytes, pcm[scored]);
  }
  return scored;
}
