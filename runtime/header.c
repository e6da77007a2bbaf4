/* What the header of a file says of its model and mel. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "json.h"

typedef enum { WHOLE, REAL, TRUTH, CHOICE } kind;

/* A field: where its value goes, and which it may be. A choice is one of texts in the form
   "a|b"; its value is the number of the text. */
typedef struct {
  const char *name;
  kind kind;
  bool optional;
  void *value;
  double least, greatest;
  const char *texts;
  bool seen;
} field;

static int choice(const char *texts, const char *text, size_t length) {
  for (int i = 0; texts; i++) {
    const char *end = strchr(texts, '|');
    size_t size = end ? (size_t)(end - texts) : strlen(texts);
    if (size == length && !memcmp(texts, text, length)) return i;
    texts = end ? end + 1 : NULL;
  }
  return -1;
}

static bool read_field(json *j, field *f, wavernn_problem *problem) {
  const char *text;
  size_t length;
  double number;
  bool good = false;
  if (f->kind == CHOICE) {
    int found = json_string(j, &text, &length) ? choice(f->texts, text, length) : -1;
    if (found < 0)
      return wavernn_fail(problem, WAVERNN_UNSUPPORTED, "%s: expected %s", f->name, f->texts);
    *(int *)f->value = found;
  } else if (f->kind == TRUTH) {
    if (!json_bool(j, f->value))
      return wavernn_fail(problem, WAVERNN_DAMAGED, "%s: expected true or false", f->name);
  } else {
    good = json_number(j, &number) && number >= f->least && number <= f->greatest &&
           (f->kind == REAL || number == floor(number));
    if (!good)
      return wavernn_fail(problem, WAVERNN_UNSUPPORTED, "%s: expected %g to %g", f->name,
                          f->least, f->greatest);
    if (f->kind == REAL) *(double *)f->value = number;
    else *(int *)f->value = (int)number;
  }
  f->seen = true;
  return true;
}

/* Reads the known fields of an object. */
static bool read_fields(json *j, field *fields, size_t count, const char *where,
                        wavernn_problem *problem) {
  const char *key;
  size_t length;
  if (!json_take(j, '{'))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "%s: expected an object", where);
  for (bool first = true; json_key(j, first, &key, &length); first = false) {
    size_t i = 0;
    while (i < count && !json_is(key, length, fields[i].name)) i++;
    if (i == count ? !json_skip(j) : !read_field(j, &fields[i], problem))
      return wavernn_fail(problem, WAVERNN_DAMAGED, "%s: is no JSON", where);
  }
  for (size_t i = 0; i < count; i++)
    if (!fields[i].seen && !fields[i].optional)
      return wavernn_fail(problem, WAVERNN_DAMAGED, "%s: lacks the field %s", where,
                          fields[i].name);
  return !j->bad || wavernn_fail(problem, WAVERNN_DAMAGED, "%s: is no JSON", where);
}

static bool find(const wavernn_file *file, const char *name, json *found) {
  json j = {file->header, file->header + file->header_length, false};
  const char *key;
  size_t length;
  if (!json_take(&j, '{')) return false;
  for (bool first = true; json_key(&j, first, &key, &length); first = false) {
    if (json_is(key, length, name)) {
      json_peek(&j);
      *found = j;
      return true;
    }
    if (!json_skip(&j)) return false;
  }
  return false;
}

bool wavernn_header_version(const wavernn_file *file, wavernn_problem *problem) {
  json j;
  const char *text;
  size_t length;
  double version = 0;
  if (!find(file, "format", &j) || !json_string(&j, &text, &length) ||
      !json_is(text, length, "wavernn-jax"))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header has no format \"wavernn-jax\"");
  if (!find(file, "version", &j) || !json_number(&j, &version))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header has no version");
  if (version != WAVERNN_FORMAT)
    return wavernn_fail(problem, WAVERNN_VERSION,
                        "found format version %g, expected %d; export it again%s", version,
                        WAVERNN_FORMAT, version > WAVERNN_FORMAT ? ", or update this library" : "");
  return true;
}

static bool read_packing(const wavernn_file *file, wavernn_voice *voice, bool *square,
                         wavernn_problem *problem) {
  json j;
  int weights = 0;
  double outputs = 0, inputs = 0;
  field field = {"weights", CHOICE, false, &weights, 0, 0, "float32|bfloat16|int8", false};
  if (!find(file, "weights", &j))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header has no weights");
  if (!read_field(&j, &field, problem)) return false;
  voice->weights = (wavernn_type)weights;
  bool good = find(file, "block", &j) && json_take(&j, '[') && json_item(&j, true) &&
              json_number(&j, &outputs) && json_item(&j, false) && json_number(&j, &inputs) &&
              json_take(&j, ']');
  *square = outputs == 4 && inputs == 4;
  if (!good || (!*square && (outputs != 16 || inputs != 1)))
    return wavernn_fail(problem, WAVERNN_UNSUPPORTED, "block: expected [16, 1] or [4, 4]");
  return true;
}

static bool read_model(const wavernn_file *file, wavernn_voice *voice, bool *reset_bias,
                       wavernn_problem *problem) {
  int kind = 0, prediction = 0, activations = 0;
  voice->prediction.taps = 0;
  voice->residuals = 4; /* of files that don't say */
  field fields[] = {
      {"kind", CHOICE, false, &kind, 0, 0, "wavernn", false},
      {"units", WHOLE, false, &voice->units, 2, 1 << 16, NULL, false},
      {"projection", WHOLE, false, &voice->projection, 1, 1 << 16, NULL, false},
      {"channels", WHOLE, false, &voice->channels, 1, 1 << 16, NULL, false},
      {"layers", WHOLE, false, &voice->layers, 1, MAX_LAYERS, NULL, false},
      {"kernel", WHOLE, false, &voice->kernel, 1, 255, NULL, false},
      {"prediction", CHOICE, true, &prediction, 0, 0, "none|spectral", false},
      {"activations", CHOICE, true, &activations, 0, 0, "float32|int8", false},
      {"taps", WHOLE, true, &voice->prediction.taps, 1, 1 << 13, NULL, false},
      {"residuals", WHOLE, true, &voice->residuals, 1, MAX_RESIDUALS, NULL, false},
      {"reset_bias", TRUTH, true, reset_bias, 0, 0, NULL, false}};
  json j;
  if (!find(file, "model", &j))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header has no model");
  if (!read_fields(&j, fields, sizeof fields / sizeof *fields, "model", problem)) return false;
  voice->spectral = prediction == 1;
  voice->heard = voice->spectral ? 2 * voice->residuals + 2 : 2;
  voice->byte_activations = activations == 1;
  if (voice->units % 2 || voice->kernel % 2 == 0)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "units must be even and kernel odd");
  if (voice->spectral && !voice->prediction.taps)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "model: lacks the field taps");
  return true;
}

static bool read_mel(const wavernn_file *file, wavernn_mel *mel, wavernn_problem *problem) {
  int scale = 0, norm = 0, log = 0;
  field fields[] = {
      {"sample_rate", WHOLE, false, &mel->sample_rate, 1, 1 << 20, NULL, false},
      {"n_fft", WHOLE, false, &mel->n_fft, 2, 1 << 16, NULL, false},
      {"window", WHOLE, false, &mel->window, 2, 1 << 16, NULL, false},
      {"hop", WHOLE, false, &mel->hop, 1, 1 << 16, NULL, false},
      {"bands", WHOLE, false, &mel->bands, 1, 1 << 12, NULL, false},
      {"fmin", REAL, false, &mel->fmin, 0, 1 << 20, NULL, false},
      {"fmax", REAL, false, &mel->fmax, 0, 1 << 20, NULL, false},
      {"power", REAL, false, &mel->power, 1e-3, 1e3, NULL, false},
      {"clamp", REAL, false, &mel->clamp, 1e-30, 0.999, NULL, false},
      {"mel_scale", CHOICE, false, &scale, 0, 0, "slaney|htk", false},
      {"mel_norm", CHOICE, false, &norm, 0, 0, "none|slaney", false},
      {"log", CHOICE, false, &log, 0, 0, "e|10", false},
      {"center", TRUTH, false, &mel->center, 0, 0, NULL, false}};
  json j;
  if (!find(file, "mel", &j))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header has no mel");
  if (!read_fields(&j, fields, sizeof fields / sizeof *fields, "mel", problem)) return false;
  mel->htk = scale == 1;
  mel->slaney_norm = norm == 1;
  mel->decimal = log == 1;
  if (mel->window > mel->n_fft || mel->fmin >= mel->fmax || mel->fmax > mel->sample_rate / 2.0)
    return wavernn_fail(problem, WAVERNN_DAMAGED,
                        "mel: expected window <= n_fft and fmin < fmax <= sample_rate / 2");
  return true;
}

bool wavernn_header_read(const wavernn_file *file, wavernn_voice *voice, bool *square,
                         bool *reset_bias, wavernn_problem *problem) {
  *reset_bias = false;
  if (!read_packing(file, voice, square, problem) ||
      !read_model(file, voice, reset_bias, problem) || !read_mel(file, &voice->mel, problem))
    return false;
  const wavernn_mel *mel = &voice->mel;
  voice->floor = (float)(mel->decimal ? log10(mel->clamp) : log(mel->clamp));
  if (voice->spectral && voice->prediction.taps > mel->n_fft / 2)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "taps: found %d, expected at most n_fft / 2",
                        voice->prediction.taps);
  return true;
}
