/* What the spectrogram says of the next sample: linear prediction, solved at frame rate. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define FRACTION_BITS 12
#define LARGEST 32767.0
#define LARGEST_SUM 65528.0
#define LAG_WINDOW_HZ 5.0
#define WHITE_NOISE 1e-5
#define FULL_SCALE 32768.0

static const double PI = 3.14159265358979323846;

static double to_mel(double hz, bool htk) {
  if (htk) return 2595.0 * log10(1.0 + hz / 700.0);
  return hz < 1000 ? hz * 3 / 200.0 : 15.0 + log(hz / 1000.0) * 27.0 / log(6.4);
}

static double to_hz(double mel, bool htk) {
  if (htk) return 700.0 * (pow(10.0, mel / 2595.0) - 1.0);
  return mel < 15 ? mel * 200.0 / 3 : 1000.0 * exp(log(6.4) / 27.0 * (mel - 15.0));
}

/* Edge i of the triangles: band b rises from edge b to edge b + 1 and falls to edge b + 2. */
static double edge(const wavernn_mel *mel, int i) {
  double least = to_mel(mel->fmin, mel->htk), greatest = to_mel(mel->fmax, mel->htk);
  return to_hz(least + (greatest - least) * i / (mel->bands + 1), mel->htk);
}

/* Area and centre of each band's filter, whose weights are float32 (librosa.filters.mel). */
static bool measure_bands(const wavernn_mel *mel, wavernn_spectral *p, wavernn_problem *problem) {
  for (int b = 0; b < mel->bands; b++) {
    double low = edge(mel, b), middle = edge(mel, b + 1), high = edge(mel, b + 2);
    double area = 0, moment = 0;
    for (int k = 0; k < p->bins; k++) {
      double hz = k * (double)mel->sample_rate / mel->n_fft;
      double rise = (hz - low) / (middle - low), fall = (high - hz) / (high - middle);
      float weight = (float)fmax(0, fmin(rise, fall));
      if (mel->slaney_norm) weight = (float)(weight * (2.0 / (high - low)));
      area += weight;
      moment += weight * (double)k;
    }
    area = fmax(area, 1e-12);
    p->centre[b] = moment / area;
    p->log_area[b] = log(area);
    if (b && !(p->centre[b] >= p->centre[b - 1]))
      return wavernn_fail(problem, WAVERNN_UNSUPPORTED,
                          "mel: band %d of %d has no bin of n_fft = %d", b, mel->bands,
                          mel->n_fft);
  }
  return true;
}

bool wavernn_prediction_init(wavernn_voice *voice, wavernn_problem *problem) {
  wavernn_spectral *p = &voice->prediction;
  const wavernn_mel *mel = &voice->mel;
  p->bins = mel->n_fft / 2 + 1;
  size_t bands = (size_t)mel->bands, n_fft = (size_t)mel->n_fft, lags = (size_t)p->taps + 1;
  size_t bytes = (2 * bands + n_fft + lags) * sizeof(double);
  if (!(p->centre = malloc(bytes))) return wavernn_fail(problem, WAVERNN_NO_MEMORY, "no memory");
  voice->bytes += bytes;
  p->log_area = p->centre + bands;
  p->cosine = p->log_area + bands;
  p->lag_window = p->cosine + n_fft;
  for (size_t i = 0; i < n_fft; i++) p->cosine[i] = cos(2 * PI * (double)i / (double)n_fft);
  for (size_t i = 0; i < lags; i++) {
    double x = 2 * PI * LAG_WINDOW_HZ * (double)i / mel->sample_rate;
    p->lag_window[i] = exp(-0.5 * x * x) + (i ? 0 : WHITE_NOISE);
  }
  double energy = 0;
  for (int i = 0; i < mel->window; i++) {
    double hann = 0.5 - 0.5 * cos(2 * PI * i / mel->window);
    energy += hann * hann;
  }
  p->power_scale = FULL_SCALE * FULL_SCALE / energy;
  return measure_bands(mel, p, problem);
}

void wavernn_prediction_free(wavernn_voice *voice) { free(voice->prediction.centre); }

/* The power A² at each bin: ln A is linear between the centres of bands. */
static void spectrum(const wavernn_stream *s, const float *mel) {
  const wavernn_spectral *p = &s->voice->prediction;
  const wavernn_mel *convention = &s->voice->mel;
  double to_natural = convention->decimal ? log(10) : 1;
  int last = convention->bands - 1, b = 0;
  for (int k = 0; k < p->bins; k++) {
    while (b < last && p->centre[b + 1] <= k) b++;
    double value = (mel[b] * to_natural - p->log_area[b]) / convention->power;
    if (b < last && k > p->centre[b]) {
      double next = (mel[b + 1] * to_natural - p->log_area[b + 1]) / convention->power;
      value += (next - value) * (k - p->centre[b]) / (p->centre[b + 1] - p->centre[b]);
    }
    s->power[k] = exp(2 * value);
  }
}

/* x_k + x_{n−k} for k <= n/2, then x_k − x_{n−k} for k < n/2, of x_0 .. x_n. Returns how many
   the latter are. */
static size_t fold(double *x, size_t n) {
  size_t differences = (n + 1) / 2;
  double *last = x + n;
  for (size_t k = 0; k < differences; k++) {
    double a = x[k], b = x[n - k];
    x[k] = a + b;
    x[n - k] = a - b;
  }
  for (double *first = last + 1 - differences; first < last; first++, last--) {
    double b = *first;
    *first = *last;
    *last = b;
  }
  return differences;
}

/* ρ_0 .. ρ_D. A cosine of an even lag is the same at k and at n_fft/2 − k, one of an odd lag
   the negative: even lags need half of the bins and half of the period, and so on. */
static void autocorrelation(const wavernn_stream *s) {
  const wavernn_voice *v = s->voice;
  const double *cosine = v->prediction.cosine;
  uint32_t n_fft = (uint32_t)v->mel.n_fft, lags = (uint32_t)v->prediction.taps + 1, step = 1;
  size_t bins = n_fft / 2 + 1;
  /* Bins between the first and the last of an even transform stand for two. */
  for (size_t k = 1; k < (n_fft + 1) / 2; k++) s->power[k] *= 2;
  for (; n_fft / step % 2 == 0 && step < lags; step *= 2) {
    size_t odd = fold(s->power, bins - 1);
    for (uint32_t n = step; n < lags; n += 2 * step)
      s->lag[n] = v->kernels->cosine_sum(s->power + bins - odd, odd, cosine, n, n_fft);
    bins -= odd;
  }
  for (uint32_t n = 0; n < lags; n += step)
    s->lag[n] = v->kernels->cosine_sum(s->power, bins, cosine, n, n_fft);
  for (uint32_t n = 0; n < lags; n++) s->lag[n] *= v->prediction.lag_window[n] / n_fft;
}

/* Durbin's recursion: solution[i] is of the sample i + 1 ago. Returns v. */
static double levinson(const wavernn_stream *s) {
  const double *r = s->lag;
  double *a = s->solution, v = r[0];
  for (int k = 0; k < s->voice->prediction.taps; k++) {
    double reflection = r[k + 1];
    for (int i = 0; i < k; i++) reflection -= a[i] * r[k - i];
    reflection /= v;
    for (int i = 0; i < k; i++) s->reversed[i] = a[k - 1 - i];
    for (int i = 0; i < k; i++) a[i] -= reflection * s->reversed[i];
    a[k] = reflection;
    v *= 1 - reflection * reflection;
  }
  return v;
}

/* Within bounds, the lower one for NaN. */
static double clip(double x, double low, double high) {
  return x > low ? (x < high ? x : high) : low;
}

static void quantise(wavernn_stream *s) {
  int taps = s->voice->prediction.taps;
  double largest = 0, sum = 0;
  for (int i = 0; i < taps; i++) {
    largest = fmax(largest, fabs(s->solution[i]));
    sum += fabs(s->solution[i]);
  }
  double room = fmin((LARGEST_SUM - taps / 2.0) / fmax(sum, 1e-9), LARGEST / fmax(largest, 1e-9));
  double power = floor(log2(room));
  s->shift = (int)clip(power, 0, FRACTION_BITS);
  double scale = exp2(fmin(power, s->shift));
  for (int i = 0; i < taps; i++) {
    double value = rint(s->solution[i] * scale);
    s->tap[taps - 1 - i] = value == value ? (int16_t)clip(value, -LARGEST, LARGEST) : 0;
  }
}

static float size_of(double power, double scale) { return (float)sqrt(power * scale + 1.0 / 12); }

void wavernn_prediction_solve(wavernn_stream *s, const float *mel) {
  double scale = s->voice->prediction.power_scale;
  spectrum(s, mel);
  autocorrelation(s);
  s->scale = size_of(levinson(s), scale);
  s->level = size_of(s->lag[0], scale);
  quantise(s);
}
