/* What the files of the library share. Names are those of the page that describes the
   file: H units, P projection, C channels, k kernel, D taps. */
#ifndef WAVERNN_INTERNAL_H
#define WAVERNN_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wavernn.h"

#define LANES 16  /* weights of a block */
#define LEVELS 256
#define MAX_LAYERS 64
#define MAX_RESIDUALS 64               /* past ones that are heard */
#define MAX_HEARD (2 * MAX_RESIDUALS + 2) /* inputs of a step */
#define QUEUE 16    /* frames that may wait */

/* A packed matrix, in the file. */
typedef enum { F32, BF16, I8 } wavernn_type;
typedef struct {
  uint32_t outputs, inputs, rows; /* rows of blocks */
  wavernn_type type;
  bool square; /* 4x4 blocks, not 16x1 */
  bool bytes;  /* of I8: its inputs have 8 bits, not 15 */
  const uint32_t *offsets;
  const uint16_t *indices;
  const void *values;
  const float *scales;
  const uint32_t *order; /* of 4x4: rows by their number of blocks */
} wavernn_matrix;

typedef struct {
  wavernn_matrix hidden, output;
  const float *hidden_bias, *output_bias;
  float limit; /* greatest integer activation of `output` */
} wavernn_head;

typedef struct {
  int sample_rate, n_fft, window, hop, bands;
  double fmin, fmax, power, clamp;
  bool htk, slaney_norm, decimal, center;
} wavernn_mel;

/* A mel filter: its place among those of the mel, its bins, and the logarithm of its area. */
typedef struct {
  int of, first, end;
  double log_area;
} wavernn_band;

/* Of the linear prediction: constants that all frames share. */
typedef struct {
  int taps, bins, bands; /* bands with a bin */
  double *cosine;        /* one period, n_fft */
  double *lag_window;    /* D + 1 */
  double *correction;    /* likewise, of the window */
  double *spline;        /* of each bin the weights of two values and two second derivatives, */
  uint16_t *knot;        /* of this band and the next */
  double *filter;        /* of all bands, one after the other */
  wavernn_band *band;
  double power_scale; /* κ */
  float prior;        /* exp(−π) */
} wavernn_spectral;

struct wavernn_stream;
typedef struct {
  const char *name;
  bool (*runs)(void); /* on this processor */
  /* A sample: draws its bytes, or reads them where `nats` is not NULL. */
  void (*sample)(struct wavernn_stream *stream, uint8_t bytes[2], float *nats);
  void (*product)(const wavernn_matrix *matrix, const float *x, float *y);
  /* y[O] += x[N] · w[N, O] */
  void (*add_dense)(const float *x, size_t inputs, const float *w, size_t outputs, float *y);
  int32_t (*dot)(const int16_t *a, const int16_t *b, size_t n);
} wavernn_kernels;

struct wavernn_voice {
  const uint8_t *data;
  size_t size;
  bool mapped;
  size_t bytes; /* allocated */
  const wavernn_kernels *kernels;
  wavernn_mel mel;
  int units, projection, channels, layers, kernel;
  int residuals, heard; /* R, and all inputs of a step */
  float floor;
  bool spectral, byte_activations;
  wavernn_type weights;
  const float *layer_kernel[MAX_LAYERS], *layer_bias[MAX_LAYERS];
  wavernn_matrix gates, recurrent[3];
  const float *gates_bias, *reset_bias; /* the latter NULL without */
  const float *previous, *coarse;
  wavernn_head heads[2];
  float limit; /* greatest integer activation of the state */
  uint32_t *orders; /* of all matrices */
  wavernn_spectral prediction;
};

/* Where a stream stands. Arrays are one allocation. */
struct wavernn_stream {
  const wavernn_voice *voice;
  float temperature[2];
  uint32_t seed, utterance;
  int64_t pushed, fed, sample; /* frames handed over; next frame to feed; next sample */
  bool ended;
  int64_t filter_frame; /* of which the prediction is; −2 at first */
  int shift;
  float scale, level; /* σ, τ */
  float residual[MAX_RESIDUALS]; /* z_1 .. z_R */
  int last[2]; /* bytes of the last sample */
  int32_t predicted;
  float fraction; /* a */
  int64_t ring; /* frames that are kept */
  float *frames;  /* [ring, M], log mel */
  float **layer;  /* inputs [k, width] of each layer, then the last output */
  float *gates[2];/* [3H], of frames f and f + 1 */
  float *h, *products, *inputs; /* [H], [3H], [3H] */
  float *hidden, *logits, *weights; /* [P], [256], [256 + 16] */
  int16_t *short_h, *short_hidden;
  int16_t *past; /* [2D] */
  int newest;    /* of past: index after the last sample */
  int16_t *tap;  /* [D], the latest last */
  double *power; /* [bins], and room for twice as many and eight */
  double *lag, *backwards, *solution; /* [D + 1], its end first [D], [D] */
  double *band[4]; /* of the mel: given, of the spline, its second derivatives, room; one more */
};

/* file.c: tensors of a safetensors file. */
typedef struct {
  const char *name;
  size_t length;
  int type, rank; /* type: index into the names, −1 where it is not known */
  uint64_t shape[2];
  const uint8_t *data;
} wavernn_tensor;

enum { T_F32, T_BF16, T_I8, T_U16, T_U32, T_OTHER = -1 };

typedef struct {
  wavernn_tensor *tensors;
  size_t count;
  char *header; /* unescaped */
  size_t header_length;
  const char *digits; /* of the checksum */
  size_t data_start;
} wavernn_file;

typedef struct {
  wavernn_error code;
  char *text; /* WAVERNN_MESSAGE bytes or NULL */
} wavernn_problem;

/* Notes the first problem. Always returns false. */
bool wavernn_fail(wavernn_problem *problem, wavernn_error code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

bool wavernn_file_read(const uint8_t *data, size_t size, wavernn_file *file,
                       wavernn_problem *problem);
bool wavernn_file_verify(const uint8_t *data, size_t size, const wavernn_file *file,
                         wavernn_problem *problem);
const wavernn_tensor *wavernn_find(const wavernn_file *file, const char *name);
void wavernn_file_free(wavernn_file *file);

/* header.c: version, and sizes of model and mel. */
bool wavernn_header_version(const wavernn_file *file, wavernn_problem *problem);
bool wavernn_header_read(const wavernn_file *file, wavernn_voice *voice, bool *square,
                         bool *reset_bias, wavernn_problem *problem);

/* weights.c: the tensors of a voice. Allocates `orders`. */
bool wavernn_weights_read(const wavernn_file *file, wavernn_voice *voice, bool square,
                          bool reset_bias, wavernn_problem *problem);

/* prediction.c */
bool wavernn_prediction_init(wavernn_voice *voice, wavernn_problem *problem);
void wavernn_prediction_free(wavernn_voice *voice);
void wavernn_prediction_solve(wavernn_stream *stream, const float *mel);

/* conditioning.c */
void wavernn_conditioning_feed(wavernn_stream *stream, const float *mel);

/* kernels.c */
const wavernn_kernels *wavernn_kernels_best(void);
const wavernn_kernels *wavernn_kernels_named(const char *name); /* NULL if it cannot run */

/* voice.c, for tests: another set of kernels, if the processor has it. */
bool wavernn_use_kernel(wavernn_voice *voice, const char *name);

/* sha256.c: of three pieces. */
void wavernn_sha256(const void *pieces[3], const size_t sizes[3], char hex[65]);

#endif
