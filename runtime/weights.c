/* The tensors of a voice: all that a file says is checked here, nothing is copied. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define GREATEST 16256 /* of integer activations: 15 bits, as 127 and a byte of 7 bits */
#define GREATEST_BYTE 127
#define MAX_PRIOR 20

typedef struct {
  const wavernn_file *file;
  wavernn_problem *problem;
  bool square, bytes;
} reader;

static bool all_finite(const wavernn_tensor *tensor, uint64_t count) {
  uint32_t found = 0;
  if (tensor->type == T_F32) {
    const uint32_t *bits = (const uint32_t *)(const void *)tensor->data;
    for (uint64_t i = 0; i < count; i++) found |= (bits[i] & 0x7f800000) == 0x7f800000;
  } else if (tensor->type == T_BF16) {
    const uint16_t *bits = (const uint16_t *)(const void *)tensor->data;
    for (uint64_t i = 0; i < count; i++) found |= (bits[i] & 0x7f80) == 0x7f80;
  }
  return !found;
}

/* A tensor of a type and of [n] or [n, m] (m = 0: one dimension). NULL if it is none. */
static const void *take(reader *r, const char *name, int type, uint64_t n, uint64_t m) {
  const wavernn_tensor *tensor = wavernn_find(r->file, name);
  if (!tensor) {
    wavernn_fail(r->problem, WAVERNN_DAMAGED, "tensor %s is missing", name);
    return NULL;
  }
  if (tensor->type != type || tensor->rank != (m ? 2 : 1) || tensor->shape[0] != n ||
      (m && tensor->shape[1] != m)) {
    wavernn_fail(r->problem, WAVERNN_DAMAGED, "tensor %s is of another type or shape", name);
    return NULL;
  }
  if (!all_finite(tensor, n * (m ? m : 1))) {
    wavernn_fail(r->problem, WAVERNN_DAMAGED, "tensor %s has NaN or infinite values", name);
    return NULL;
  }
  return tensor->data;
}

static bool check_blocks(reader *r, const char *name, const wavernn_matrix *m, uint32_t columns) {
  uint32_t end = m->offsets[m->rows];
  for (uint32_t row = 0; row < m->rows; row++) {
    if (m->offsets[row] > m->offsets[row + 1] || m->offsets[row + 1] > end)
      return wavernn_fail(r->problem, WAVERNN_DAMAGED, "%s.offsets do not grow", name);
    for (uint32_t k = m->offsets[row]; k < m->offsets[row + 1]; k++)
      if (m->indices[k] >= columns || (k > m->offsets[row] && m->indices[k] <= m->indices[k - 1]))
        return wavernn_fail(r->problem, WAVERNN_DAMAGED,
                            "%s.indices are not within the matrix, or do not grow", name);
  }
  return true;
}

static bool take_scales(reader *r, const char *name, wavernn_matrix *m, uint32_t count) {
  char part[80];
  snprintf(part, sizeof part, "%s.scales", name);
  if (!(m->scales = take(r, part, T_F32, m->outputs, 0))) return false;
  const int8_t *values = m->values;
  for (uint32_t i = 0; i < m->outputs; i++)
    if (m->scales[i] < 0)
      return wavernn_fail(r->problem, WAVERNN_DAMAGED, "%s.scales: found one below 0", name);
  for (size_t i = 0; i < (size_t)count * LANES; i++)
    if (values[i] == -128)
      return wavernn_fail(r->problem, WAVERNN_DAMAGED, "%s.values: found -128", name);
  return true;
}

static bool take_matrix(reader *r, const char *name, int outputs, int inputs, wavernn_type type,
                        wavernn_matrix *m) {
  static const int stored[] = {[F32] = T_F32, [BF16] = T_BF16, [I8] = T_I8};
  char part[80];
  int height = r->square ? 4 : 16, width = r->square ? 4 : 1;
  *m = (wavernn_matrix){.outputs = (uint32_t)outputs, .inputs = (uint32_t)inputs,
                        .rows = (uint32_t)(outputs / height), .type = type, .square = r->square,
                        .bytes = type == I8 && r->bytes};
  if (outputs % height || inputs % width)
    return wavernn_fail(r->problem, WAVERNN_DAMAGED, "%s: blocks do not divide %d outputs and %d "
                        "inputs", name, outputs, inputs);
  snprintf(part, sizeof part, "%s.offsets", name);
  if (!(m->offsets = take(r, part, T_U32, m->rows + 1u, 0))) return false;
  uint32_t count = m->offsets[m->rows];
  if (m->offsets[0])
    return wavernn_fail(r->problem, WAVERNN_DAMAGED, "%s.offsets do not grow from 0", name);
  snprintf(part, sizeof part, "%s.indices", name);
  if (!(m->indices = take(r, part, T_U16, count, 0))) return false;
  snprintf(part, sizeof part, "%s.values", name);
  if (!(m->values = take(r, part, stored[type], count, LANES))) return false;
  if (!check_blocks(r, name, m, (uint32_t)(inputs / width))) return false;
  return type != I8 || take_scales(r, name, m, count);
}

/* The greatest activation, one whose 32-bit sums cannot overflow. */
static float limit(const wavernn_matrix *m) {
  int64_t greatest = m->bytes ? GREATEST_BYTE : GREATEST;
  uint32_t longest = 1;
  for (uint32_t row = 0; row < m->rows; row++) {
    uint32_t inputs = (m->offsets[row + 1] - m->offsets[row]) * (m->square ? 4 : 1);
    if (inputs > longest) longest = inputs;
  }
  int64_t room = INT32_MAX / (127 * (int64_t)longest);
  return (float)(room < greatest ? room : greatest);
}

static bool take_head(reader *r, wavernn_voice *v, const char *byte, wavernn_head *head) {
  char name[64];
  snprintf(name, sizeof name, "outputs.%s.hidden.kernel", byte);
  if (!take_matrix(r, name, v->projection, v->units / 2, v->weights, &head->hidden)) return false;
  snprintf(name, sizeof name, "outputs.%s.output.kernel", byte);
  if (!take_matrix(r, name, LEVELS, v->projection, v->weights, &head->output)) return false;
  snprintf(name, sizeof name, "outputs.%s.hidden.bias", byte);
  if (!(head->hidden_bias = take(r, name, T_F32, (uint64_t)v->projection, 0))) return false;
  snprintf(name, sizeof name, "outputs.%s.output.bias", byte);
  head->limit = limit(&head->output);
  return (head->output_bias = take(r, name, T_F32, LEVELS, 0)) != NULL;
}

static bool take_conditioning(reader *r, wavernn_voice *v) {
  char name[64];
  uint64_t channels = (uint64_t)v->channels;
  for (int l = 0; l < v->layers; l++) {
    uint64_t inputs = (uint64_t)v->kernel * (uint64_t)(l ? v->channels : v->mel.bands);
    snprintf(name, sizeof name, "conditioning.layers.%d.kernel", l);
    if (!(v->layer_kernel[l] = take(r, name, T_F32, inputs, channels))) return false;
    snprintf(name, sizeof name, "conditioning.layers.%d.bias", l);
    if (!(v->layer_bias[l] = take(r, name, T_F32, channels, 0))) return false;
  }
  v->gates_bias = take(r, "conditioning.gates.bias", T_F32, 3 * (uint64_t)v->units, 0);
  return v->gates_bias && take_matrix(r, "conditioning.gates.kernel", 3 * v->units, v->channels,
                                      v->weights == I8 ? BF16 : v->weights, &v->gates);
}

static bool take_recurrence(reader *r, wavernn_voice *v, bool reset_bias) {
  uint64_t units = (uint64_t)v->units;
  char name[] = "recurrent.u";
  v->limit = GREATEST;
  for (int gate = 0; gate < 3; gate++) {
    name[sizeof name - 2] = "ure"[gate];
    if (!take_matrix(r, name, v->units, v->units, v->weights, &v->recurrent[gate])) return false;
    v->limit = fminf(v->limit, limit(&v->recurrent[gate]));
  }
  if (reset_bias && !(v->reset_bias = take(r, "recurrent.e.bias", T_F32, units, 0))) return false;
  v->previous = take(r, "previous", T_F32, (size_t)v->heard, 3 * units);
  return v->previous && (v->coarse = take(r, "coarse", T_F32, 3, units / 2));
}

static bool take_prior(reader *r, wavernn_voice *v) {
  const float *prior = take(r, "prior", T_F32, 1, 0);
  if (!prior) return false;
  if (fabsf(*prior) > MAX_PRIOR)
    return wavernn_fail(r->problem, WAVERNN_DAMAGED, "prior: found %g, expected -%d to %d",
                        (double)*prior, MAX_PRIOR, MAX_PRIOR);
  v->prediction.prior = expf(-*prior);
  return true;
}

static int by_count(const void *a, const void *b) {
  const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

/* Rows with as many blocks follow each other, in the order of the file: processors then know
   when a row ends. */
static bool sort_rows(wavernn_voice *v, wavernn_problem *problem) {
  wavernn_matrix *all[] = {&v->recurrent[0], &v->recurrent[1], &v->recurrent[2],
                           &v->heads[0].hidden, &v->heads[0].output, &v->heads[1].hidden,
                           &v->heads[1].output, &v->gates};
  size_t count = 0, most = 0, used = 0;
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    count += all[i]->rows;
    most = all[i]->rows > most ? all[i]->rows : most;
  }
  uint64_t *keys = malloc(most * sizeof *keys);
  v->orders = malloc(count * sizeof *v->orders);
  v->bytes += count * sizeof *v->orders;
  for (size_t i = 0; keys && v->orders && i < sizeof all / sizeof *all; i++) {
    wavernn_matrix *m = all[i];
    for (uint32_t row = 0; row < m->rows; row++)
      keys[row] = (uint64_t)(m->offsets[row + 1] - m->offsets[row]) << 32 | row;
    qsort(keys, m->rows, sizeof *keys, by_count);
    m->order = v->orders + used;
    for (uint32_t row = 0; row < m->rows; row++) v->orders[used++] = (uint32_t)keys[row];
  }
  free(keys);
  return used == count || wavernn_fail(problem, WAVERNN_NO_MEMORY, "no memory");
}

bool wavernn_weights_read(const wavernn_file *file, wavernn_voice *voice, bool square,
                          bool reset_bias, wavernn_problem *problem) {
  reader r = {file, problem, square, voice->byte_activations};
  if (!take_conditioning(&r, voice) || !take_recurrence(&r, voice, reset_bias) ||
      !take_head(&r, voice, "coarse", &voice->heads[0]) ||
      !take_head(&r, voice, "fine", &voice->heads[1]))
    return false;
  for (int side = 0; side < 2; side++)
    voice->limit = fminf(voice->limit, limit(&voice->heads[side].hidden));
  if (voice->spectral && !take_prior(&r, voice)) return false;
  return !square || sort_rows(voice, problem);
}
