/* Voices: opening, describing and closing them. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

const char *wavernn_error_text(wavernn_error error) {
  static const char *const texts[] = {
      [WAVERNN_OK] = "no error",
      [WAVERNN_NO_FILE] = "the file cannot be opened or read",
      [WAVERNN_NO_MEMORY] = "there is no memory left",
      [WAVERNN_DAMAGED] = "the file is damaged: copy it again, or export it again",
      [WAVERNN_CHECKSUM] = "the file was changed after it was written: copy it again",
      [WAVERNN_VERSION] = "the file is of another format version",
      [WAVERNN_UNSUPPORTED] = "the file is of a model that this library does not run",
      [WAVERNN_ARGUMENT] = "an argument is out of its range"};
  bool known = (unsigned)error < sizeof texts / sizeof *texts;
  return known ? texts[error] : "unknown error";
}

static bool read_all(wavernn_voice *voice, const wavernn_file *file, wavernn_problem *problem) {
  bool square, reset_bias;
  return wavernn_header_version(file, problem) &&
         wavernn_file_verify(voice->data, voice->size, file, problem) &&
         wavernn_header_read(file, voice, &square, &reset_bias, problem) &&
         wavernn_weights_read(file, voice, square, reset_bias, problem) &&
         (!voice->spectral || wavernn_prediction_init(voice, problem));
}

/* Takes the data over where it is mapped. */
static wavernn_error open_data(const void *data, size_t size, bool mapped, wavernn_voice **out,
                               wavernn_problem *problem) {
  wavernn_voice *voice = calloc(1, sizeof *voice);
  wavernn_file file = {0};
  if (!voice) {
    if (mapped) munmap((void *)(uintptr_t)data, size);
    wavernn_fail(problem, WAVERNN_NO_MEMORY, "no memory");
    return problem->code;
  }
  voice->data = data;
  voice->size = size;
  voice->mapped = mapped;
  voice->bytes = sizeof *voice;
  voice->kernels = wavernn_kernels_best();
  bool good = wavernn_file_read(data, size, &file, problem) && read_all(voice, &file, problem);
  wavernn_file_free(&file);
  if (!good) {
    wavernn_close(voice);
    return problem->code;
  }
  *out = voice;
  return WAVERNN_OK;
}

wavernn_error wavernn_open_buffer(const void *data, size_t size, wavernn_voice **voice,
                                  char message[WAVERNN_MESSAGE]) {
  wavernn_problem problem = {WAVERNN_OK, message};
  if (message) *message = 0;
  if (!voice || !data || (uintptr_t)data % 4) {
    wavernn_fail(&problem, WAVERNN_ARGUMENT, "expected a buffer at a multiple of 4 bytes");
    return problem.code;
  }
  *voice = NULL;
  return open_data(data, size, false, voice, &problem);
}

wavernn_error wavernn_open(const char *path, wavernn_voice **voice,
                           char message[WAVERNN_MESSAGE]) {
  wavernn_problem problem = {WAVERNN_OK, message};
  struct stat status;
  void *data = MAP_FAILED;
  if (message) *message = 0;
  if (!path || !voice) {
    wavernn_fail(&problem, WAVERNN_ARGUMENT, "expected a path and a place for the voice");
    return problem.code;
  }
  *voice = NULL;
  int file = open(path, O_RDONLY);
  if (file >= 0 && !fstat(file, &status) && S_ISREG(status.st_mode) && status.st_size > 0)
    data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (file >= 0) close(file);
  if (data == MAP_FAILED) {
    wavernn_fail(&problem, WAVERNN_NO_FILE, "%.120s: cannot be opened or read", path);
    return problem.code;
  }
  return open_data(data, (size_t)status.st_size, true, voice, &problem);
}

void wavernn_close(wavernn_voice *voice) {
  if (!voice) return;
  wavernn_prediction_free(voice);
  free(voice->orders);
  if (voice->mapped) munmap((void *)(uintptr_t)voice->data, voice->size);
  free(voice);
}

wavernn_info wavernn_describe(const wavernn_voice *voice) {
  const wavernn_mel *mel = &voice->mel;
  int margin = voice->layers * (voice->kernel - 1) / 2;
  return (wavernn_info){mel->sample_rate, mel->bands, mel->hop,
                        margin + (mel->center ? 2 : 1), voice->floor};
}

const char *wavernn_kernel(const wavernn_voice *voice) { return voice->kernels->name; }

size_t wavernn_voice_bytes(const wavernn_voice *voice) { return voice->bytes; }

bool wavernn_use_kernel(wavernn_voice *voice, const char *name) {
  const wavernn_kernels *kernels = wavernn_kernels_named(name);
  if (kernels) voice->kernels = kernels;
  return kernels != NULL;
}
