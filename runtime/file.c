/* The tensors and the header of a safetensors file. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "json.h"

#define ALIGNMENT 64
#define MAX_HEADER (1u << 24)
#define MAX_TENSORS 4096
#define DIGITS 64

static const struct { const char *name; unsigned bytes; } TYPES[] = {
    [T_F32] = {"F32", 4}, [T_BF16] = {"BF16", 2}, [T_I8] = {"I8", 1},
    [T_U16] = {"U16", 2}, [T_U32] = {"U32", 4}};

bool wavernn_fail(wavernn_problem *problem, wavernn_error code, const char *format, ...) {
  if (problem->code != WAVERNN_OK) return false;
  problem->code = code;
  if (problem->text) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem->text, WAVERNN_MESSAGE, format, arguments);
    va_end(arguments);
  }
  return false;
}

/* Whole numbers of an array; those beyond `room` are counted only. −1 where it is bad. */
static int read_whole(json *j, uint64_t *values, int room) {
  int count = 0;
  double number;
  if (!json_take(j, '[')) return -1;
  for (; json_item(j, count == 0); count++) {
    if (!json_number(j, &number) || number < 0 || number > 9e15) return -1;
    if (number != (double)(uint64_t)number || count == 1 << 20) return -1;
    if (count < room) values[count] = (uint64_t)number;
  }
  return j->bad ? -1 : count;
}

static int type_of(const char *text, size_t length) {
  for (int t = 0; t < (int)(sizeof TYPES / sizeof *TYPES); t++)
    if (json_is(text, length, TYPES[t].name)) return t;
  return T_OTHER;
}

/* Whether a tensor takes as many bytes as its shape says; ones of no use here may not. */
static bool fits(wavernn_tensor *tensor, uint64_t bytes) {
  if (tensor->type == T_OTHER || tensor->rank > 2) {
    tensor->type = T_OTHER;
    return true;
  }
  uint64_t count = 1;
  for (int i = 0; i < tensor->rank; i++) {
    if (tensor->shape[i] > 1u << 31 || count > 1u << 31) return false;
    count *= tensor->shape[i];
  }
  return count <= 1u << 31 && count * TYPES[tensor->type].bytes == bytes;
}

static bool read_tensor(json *j, wavernn_tensor *tensor, const uint8_t *start, uint64_t size) {
  const char *key, *text;
  size_t length, text_length;
  uint64_t place[2];
  bool typed = false, placed = false;
  tensor->rank = -1;
  if (!json_take(j, '{')) return false;
  for (bool first = true; json_key(j, first, &key, &length); first = false) {
    if (json_is(key, length, "dtype")) {
      if (!json_string(j, &text, &text_length)) return false;
      tensor->type = type_of(text, text_length);
      typed = true;
    } else if (json_is(key, length, "shape")) {
      if ((tensor->rank = read_whole(j, tensor->shape, 2)) < 0) return false;
    } else if (json_is(key, length, "data_offsets")) {
      if (read_whole(j, place, 2) != 2) return false;
      placed = true;
    } else if (!json_skip(j)) {
      return false;
    }
  }
  if (j->bad || !typed || !placed || tensor->rank < 0) return false;
  if (place[0] > place[1] || place[1] > size) return false;
  tensor->data = start + place[0];
  return fits(tensor, place[1] - place[0]);
}

static bool read_metadata(json *j, wavernn_file *file) {
  const char *key, *text;
  size_t length, text_length;
  if (!json_take(j, '{')) return false;
  for (bool first = true; json_key(j, first, &key, &length); first = false) {
    if (!json_string(j, &text, &text_length)) return false;
    if (json_is(key, length, "sha256") && text_length == DIGITS) file->digits = text;
    if (json_is(key, length, "header")) {
      free(file->header);
      if (!(file->header = malloc(text_length + 1))) return false;
      file->header_length = json_unescape(text, text_length, file->header);
    }
  }
  return !j->bad;
}

static wavernn_tensor *add(wavernn_file *file) {
  if (file->count == MAX_TENSORS) return NULL;
  if (!(file->count & (file->count - 1))) { /* at powers of two */
    size_t room = file->count ? 2 * file->count : 1;
    wavernn_tensor *grown = realloc(file->tensors, room * sizeof *grown);
    if (!grown) return NULL;
    file->tensors = grown;
  }
  return &file->tensors[file->count++];
}

bool wavernn_file_read(const uint8_t *data, size_t size, wavernn_file *file,
                       wavernn_problem *problem) {
  uint64_t length = 0;
  *file = (wavernn_file){0};
  if (size < 8)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "found %zu bytes, expected an export", size);
  for (int i = 7; i >= 0; i--) length = length << 8 | data[i];
  if (length > size - 8 || length > MAX_HEADER)
    return wavernn_fail(problem, WAVERNN_DAMAGED,
                        "it is no safetensors file, or cut short: found a header of %llu bytes "
                        "in %zu", (unsigned long long)length, size);
  json j = {(const char *)data + 8, (const char *)data + 8 + length, false};
  const char *key;
  size_t key_length;
  file->data_start = 8 + (size_t)length;
  bool good = json_take(&j, '{');
  for (bool first = true; good && json_key(&j, first, &key, &key_length); first = false) {
    if (json_is(key, key_length, "__metadata__")) {
      good = read_metadata(&j, file);
      continue;
    }
    wavernn_tensor *tensor = add(file);
    good = tensor && read_tensor(&j, tensor, data + file->data_start, size - file->data_start);
    if (!good)
      return wavernn_fail(problem, WAVERNN_DAMAGED, "tensor %.*s: type, shape and place disagree",
                          (int)(key_length < 60 ? key_length : 60), key);
    tensor->name = key;
    tensor->length = key_length;
  }
  if (!good || j.bad || json_peek(&j))
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its header is no JSON of a safetensors file");
  if (!file->header)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its metadata has no entry header");
  return true;
}

bool wavernn_file_verify(const uint8_t *data, size_t size, const wavernn_file *file,
                         wavernn_problem *problem) {
  static const char zeros[DIGITS] = "0000000000000000000000000000000000000000000000000000000000000000";
  char hex[DIGITS + 1];
  if (!file->digits)
    return wavernn_fail(problem, WAVERNN_CHECKSUM, "its metadata has no sha256");
  size_t before = (size_t)((const uint8_t *)file->digits - data);
  const void *pieces[3] = {data, zeros, data + before + DIGITS};
  size_t sizes[3] = {before, DIGITS, size - before - DIGITS};
  wavernn_sha256(pieces, sizes, hex);
  if (memcmp(hex, file->digits, DIGITS))
    return wavernn_fail(problem, WAVERNN_CHECKSUM,
                        "its checksum is of other contents: it is damaged or was changed");
  bool aligned = file->data_start % ALIGNMENT == 0;
  for (size_t i = 0; i < file->count; i++)
    aligned &= (size_t)(file->tensors[i].data - data) % ALIGNMENT == 0 ||
               file->tensors[i].type == T_OTHER;
  if (!aligned)
    return wavernn_fail(problem, WAVERNN_DAMAGED, "its tensors are not at multiples of %d bytes",
                        ALIGNMENT);
  return true;
}

const wavernn_tensor *wavernn_find(const wavernn_file *file, const char *name) {
  for (size_t i = 0; i < file->count; i++)
    if (json_is(file->tensors[i].name, file->tensors[i].length, name)) return &file->tensors[i];
  return NULL;
}

void wavernn_file_free(wavernn_file *file) {
  free(file->tensors);
  free(file->header);
}
