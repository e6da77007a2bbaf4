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
#define INVERSIONS 4
#define LARGEST_LOG 25.0
#define LARGEST_CORRECTION 4.0
#define FULL_SCALE 32768.0

#define OUTLINE static __attribute__((noinline)) /* for the sake of size */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll_count(4)")
#else
#define UNROLL _Pragma("GCC unroll 4")
#endif

typedef double eight __attribute__((vector_size(64), aligned(8), may_alias));
typedef uint64_t eight_words __attribute__((vector_size(64)));

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

/* Filter of band b at bin k, float32 (librosa.filters.mel). */
static float weight(const wavernn_mel *mel, int b, int k) {
  double low = edge(mel, b), middle = edge(mel, b + 1), high = edge(mel, b + 2);
  double hz = k * (double)mel->sample_rate / mel->n_fft;
  float found = (float)fmax(0, fmin((hz - low) / (middle - low), (high - hz) / (high - middle)));
  return mel->slaney_norm ? (float)(found * (2.0 / (high - low))) : found;
}

/* Bins of a band: from first to the one before `end`, some of which may weigh nothing. */
static void bins_of(const wavernn_mel *mel, int b, int bins, int *first, int *end) {
  double bin = mel->n_fft / (double)mel->sample_rate;
  *first = (int)fmax(0, floor(edge(mel, b) * bin));
  *end = (int)fmin(bins, ceil(edge(mel, b + 2) * bin) + 1);
  if (*end < *first) *end = *first;
}

/* Bins of all filters. */
static size_t filter_bins(const wavernn_mel *mel, int bins) {
  size_t found = 0;
  for (int b = 0; b < mel->bands; b++) {
    int first, end;
    bins_of(mel, b, bins, &first, &end);
    found += (size_t)(end - first);
  }
  return found;
}

/* Bin k of a spline: t from knot i to the next one. */
static void place_bin(wavernn_spectral *p, int k, int i, double t) {
  double u = 1 - t, *w = p->spline + 4 * (size_t)k;
  p->knot[k] = (uint16_t)i;
  w[0] = u;
  w[1] = t;
  w[2] = (u * u * u - u) / 6;
  w[3] = (t * t * t - t) / 6;
}

/* The filters of an area of one, those without a bin left out, and the place of each bin among
   the bands. */
static void measure_bands(const wavernn_mel *mel, wavernn_spectral *p) {
  double *filter = p->filter, before = 0;
  int bin = 0;
  p->bands = 0;
  for (int b = 0; b < mel->bands; b++) {
    wavernn_band *band = &p->band[p->bands];
    double area = 0, moment = 0;
    bins_of(mel, b, p->bins, &band->first, &band->end);
    for (int k = band->first; k < band->end; k++) {
      float w = weight(mel, b, k);
      filter[k - band->first] = w;
      area += w;
      moment += w * (double)k;
    }
    if (!(area > 0)) continue;
    for (int k = band->first; k < band->end; k++) *filter++ /= area;
    band->of = b;
    band->log_area = log(area);
    double centre = moment / area;
    for (; bin <= centre && bin < p->bins; bin++)
      if (p->bands) place_bin(p, bin, p->bands - 1, (bin - before) / (centre - before));
      else place_bin(p, bin, 0, 0);
    before = centre;
    p->bands++;
  }
  for (; bin < p->bins; bin++) place_bin(p, bin, p->bands ? p->bands - 1 : 0, 0);
}

/* What a frame's autocorrelation is multiplied with: Σ hann² / Σ hann_t hann_{t+n}. */
static void measure_window(const wavernn_mel *mel, wavernn_spectral *p, int lags) {
  double energy = 0, *hann = p->cosine; /* its room, n_fft >= window */
  for (int t = 0; t < mel->window; t++) hann[t] = 0.5 - 0.5 * cos(2 * PI * t / mel->window);
  for (int n = 0; n < lags; n++) {
    double sum = 0;
    for (int t = n; t < mel->window; t++) sum += hann[t - n] * hann[t];
    if (!n) energy = sum;
    p->correction[n] = fmin(energy / fmax(sum, 1e-9), LARGEST_CORRECTION);
  }
  p->power_scale = FULL_SCALE * FULL_SCALE / energy;
}

bool wavernn_prediction_init(wavernn_voice *voice, wavernn_problem *problem) {
  wavernn_spectral *p = &voice->prediction;
  const wavernn_mel *mel = &voice->mel;
  p->bins = mel->n_fft / 2 + 1;
  size_t bands = (size_t)mel->bands, n_fft = (size_t)mel->n_fft, lags = (size_t)p->taps + 1;
  size_t filters = filter_bins(mel, p->bins), bins = (size_t)p->bins;
  size_t bytes = (n_fft + 2 * lags + 4 * bins + filters) * sizeof(double) +
                 bands * sizeof *p->band + bins * sizeof *p->knot;
  if (!(p->cosine = malloc(bytes))) return wavernn_fail(problem, WAVERNN_NO_MEMORY, "no memory");
  voice->bytes += bytes;
  p->lag_window = p->cosine + n_fft;
  p->correction = p->lag_window + lags;
  p->spline = p->correction + lags;
  p->filter = p->spline + 4 * bins;
  p->band = (wavernn_band *)(p->filter + filters);
  p->knot = (uint16_t *)(p->band + bands);
  measure_window(mel, p, (int)lags);
  for (size_t i = 0; i < n_fft; i++) p->cosine[i] = cos(2 * PI * (double)i / (double)n_fft);
  for (size_t i = 0; i < lags; i++) {
    double x = 2 * PI * LAG_WINDOW_HZ * (double)i / mel->sample_rate;
    p->lag_window[i] = exp(-0.5 * x * x) + (i ? 0 : WHITE_NOISE);
  }
  measure_bands(mel, p);
  if (p->bands) return true;
  return wavernn_fail(problem, WAVERNN_UNSUPPORTED, "mel: no band has a bin of n_fft = %d",
                      mel->n_fft);
}

void wavernn_prediction_free(wavernn_voice *voice) { free(voice->prediction.cosine); }

/* Within bounds, the lower one for NaN. */
static double clip(double x, double low, double high) {
  return x > low ? (x < high ? x : high) : low;
}

/* Second derivatives of the natural cubic spline through n values at 0, 1, .. (Thomas). */
static void curve(const double *value, int n, double *second, double *ratio) {
  second[0] = second[n - 1] = ratio[0] = 0;
  for (int i = 1; i < n - 1; i++) {
    double bend = 6 * (value[i - 1] - 2 * value[i] + value[i + 1]);
    ratio[i] = 1 / (4 - ratio[i - 1]);
    second[i] = (bend - second[i - 1]) * ratio[i];
  }
  for (int i = n - 2; i > 0; i--) second[i] -= ratio[i] * second[i + 1];
}

/* exp of n numbers within -700 .. 700, and of what stands after them up to a multiple of
   eight; relative error below 1e-15. Eight at a time: cores that do not reorder instructions
   have others to do while one waits. */
OUTLINE void exp_of(double *x, int n) {
  const double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
  for (int i = 0; i < n; i += 8) {
    eight *value = (eight *)(x + i);
    eight shifted = *value * 1.4426950408889634 + 0x1.8p52; /* k stands in its low bits */
    eight k = shifted - 0x1.8p52, f = (*value - k * ln2_high) - k * ln2_low;
    eight p = f * (1.0 / 6227020800) + 1.0 / 479001600;
    p = f * p + 1.0 / 39916800;
    p = f * p + 1.0 / 3628800;
    p = f * p + 1.0 / 362880;
    p = f * p + 1.0 / 40320;
    p = f * p + 1.0 / 5040;
    p = f * p + 1.0 / 720;
    p = f * p + 1.0 / 120;
    p = f * p + 1.0 / 24;
    p = f * p + 1.0 / 6;
    p = f * p + 0.5;
    p = f * p + 1;
    p = f * p + 1;
    *value = (eight)((eight_words)p + ((eight_words)shifted << 52));
  }
}

/* exp of the spline through the bands' values times `root`, at each bin. */
OUTLINE void from_spline(const wavernn_stream *s, double root) {
  const wavernn_spectral *p = &s->voice->prediction;
  const double *restrict value = s->band[1], *restrict second = s->band[2], *w = p->spline;
  double *restrict power = s->power;
  curve(value, p->bands, s->band[2], s->band[3]);
  UNROLL for (int k = 0; k < p->bins; k++) {
    int i = p->knot[k];
    double found = (w[4 * k] * value[i] + w[4 * k + 1] * value[i + 1]) +
                   (w[4 * k + 2] * second[i] + w[4 * k + 3] * second[i + 1]);
    power[k] = root * clip(found, -LARGEST_LOG, LARGEST_LOG);
  }
  exp_of(power, p->bins);
}

/* The power A² at each bin: of the spectrum of which the filters see this mel. */
static void spectrum(const wavernn_stream *s, const float *mel) {
  const wavernn_spectral *p = &s->voice->prediction;
  const wavernn_mel *convention = &s->voice->mel;
  double to_natural = convention->decimal ? log(10) : 1, *target = s->band[0], *value = s->band[1];
  for (int b = 0; b < p->bands; b++)
    target[b] = value[b] = mel[p->band[b].of] * to_natural - p->band[b].log_area;
  for (int step = 0; step < INVERSIONS; step++) {
    from_spline(s, 1);
    const double *filter = p->filter;
    for (int b = 0; b < p->bands; b++) {
      double seen = 0;
      for (int k = p->band[b].first; k < p->band[b].end; k++) seen += *filter++ * s->power[k];
      value[b] += target[b] - log(seen);
    }
  }
  from_spline(s, 2 / convention->power);
}

/* Σ_k x_k cos(2π k n / period) of k < bins, for each lag n < lags, n_fft / period apart in
   `sum`; of an even period there are period / 2 + 1 bins. Destroys x; `room` holds twice as
   many. Lee's algorithm: a cosine of an even lag is the same at k and at period / 2 - k, one
   of an odd lag the negative, and cos((n + 1) a) + cos((n - 1) a) = 2 cos(a) cos(n a) makes
   even lags of odd ones. */
OUTLINE void cosine_sums(const wavernn_voice *v, uint32_t period, double *x, size_t bins,
                         double *sum, uint32_t lags, double *room) {
  const double *cosine = v->prediction.cosine;
  size_t step = (uint32_t)v->mel.n_fft / period, last = bins - 1, half = last / 2 + 1;
  if (period % 2 || lags <= 2) {
    for (size_t n = 0; n < lags; n++) {
      double found = 0;
      for (size_t k = 0; k < bins; k++) found += x[k] * cosine[k * n % period * step];
      sum[n * step] = found;
    }
    return;
  }
  for (size_t k = 0; k < half; k++) {
    double a = x[k], b = x[last - k];
    x[k] = 2 * k == last ? a : a + b;
    room[k] = 2 * cosine[k * step] * (a - b);
  }
  cosine_sums(v, period / 2, room, half, sum + step, lags / 2, room + half);
  cosine_sums(v, period / 2, x, half, sum, (lags + 1) / 2, room);
  sum[step] /= 2;
  for (size_t n = 3; n < lags; n += 2) sum[n * step] -= sum[(n - 2) * step];
}

/* ρ_0 .. ρ_D. */
static void autocorrelation(const wavernn_stream *s) {
  const wavernn_spectral *p = &s->voice->prediction;
  uint32_t n_fft = (uint32_t)s->voice->mel.n_fft, lags = (uint32_t)p->taps + 1;
  size_t bins = (size_t)p->bins;
  /* Bins between the first and the last of an even transform stand for two. */
  for (size_t k = 1; k < (n_fft + 1) / 2; k++) s->power[k] *= 2;
  cosine_sums(s->voice, n_fft, s->power, bins, s->lag, lags, s->power + bins);
  for (uint32_t n = 0; n < lags; n++) s->lag[n] *= p->lag_window[n] / n_fft;
}

/* Σ a_i b_i, in four sums that do not wait for each other. */
static double dot(const double *a, const double *b, int n) {
  double sum[4] = {0};
  int i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; j++) sum[j] += a[i + j] * b[i + j];
  for (; i < n; i++) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Durbin's recursion: solution[i] is of the sample i + 1 ago. Returns v, or the first that is
   not at least `least`. */
OUTLINE double levinson(const wavernn_stream *s, double least) {
  const double *r = s->lag;
  double *a = s->solution, v = r[0];
  int taps = s->voice->prediction.taps;
  for (int n = 0; n < taps; n++) s->backwards[n] = r[taps - n];
  for (int k = 0; k < taps; k++) {
    double reflection = (r[k + 1] - dot(a, s->backwards + taps - k, k)) / v;
    for (int i = 0; i < k / 2; i++) {
      double first = a[i], last = a[k - 1 - i];
      a[i] = first - reflection * last;
      a[k - 1 - i] = last - reflection * first;
    }
    if (k % 2) a[k / 2] *= 1 - reflection;
    a[k] = reflection;
    v *= 1 - reflection * reflection;
    if (!(v >= least)) break;
  }
  return v;
}

/* The weights where the window's part is taken out of r, or, where no signal has that, of r as
   it is. Returns v. */
static double solve(const wavernn_stream *s) {
  const wavernn_spectral *p = &s->voice->prediction;
  double least = 0.5 * WHITE_NOISE * s->lag[0];
  for (int n = 1; n <= p->taps; n++) s->lag[n] *= p->correction[n];
  double v = levinson(s, least);
  if (v >= least) return v;
  for (int n = 1; n <= p->taps; n++) s->lag[n] /= p->correction[n];
  return levinson(s, -INFINITY);
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
  s->scale = size_of(solve(s), scale);
  s->level = size_of(s->lag[0], scale);
  quantise(s);
}
