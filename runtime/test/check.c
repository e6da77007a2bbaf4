/* What the tests run where they cannot load the library: under an emulator or sanitisers.

     check say    VOICE MELS OUT KERNEL SEED UTTERANCE TEMPERATURE
     check score  VOICE MELS OUT KERNEL PCM
     check attack VOICE COUNT SEED

   MELS are float32 and PCM int16, without headers, as is what is written: samples, or pairs of
   nats. KERNEL "-" is the best one. `attack` reads COUNT mutations of a file and speaks with
   those that pass as voices; it prints how many did. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

static void *read_whole(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file || fseek(file, 0, SEEK_END)) exit(2);
  *size = (size_t)ftell(file);
  void *data = malloc(*size + 1);
  rewind(file);
  if (!data || fread(data, 1, *size, file) != *size) exit(2);
  fclose(file);
  return data;
}

static wavernn_stream *open_stream(char **argv, wavernn_voice **voice) {
  char message[WAVERNN_MESSAGE];
  wavernn_stream *stream;
  wavernn_error error = wavernn_open(argv[2], voice, message);
  if (error) {
    fprintf(stderr, "%s: %s: %s\n", argv[2], message, wavernn_error_text(error));
    exit(1);
  }
  if (strcmp(argv[5], "-") && !wavernn_use_kernel(*voice, argv[5])) exit(3);
  if (wavernn_stream_new(*voice, &stream)) exit(2);
  return stream;
}

/* Speaks or scores in uneven pieces. */
static int run(char **argv, bool score) {
  wavernn_voice *voice;
  wavernn_stream *stream = open_stream(argv, &voice);
  wavernn_info info = wavernn_describe(voice);
  size_t bytes, made, at = 0, done = 0;
  float *mel = read_whole(argv[3], &bytes), (*nats)[2] = NULL;
  size_t frames = bytes / sizeof *mel / (size_t)info.bands, samples = frames * (size_t)info.hop;
  int16_t *pcm = score ? read_whole(argv[6], &bytes) : malloc(samples * sizeof *pcm + 1);
  if (score) nats = malloc(samples * sizeof *nats + 1);
  if (score && bytes != samples * sizeof *pcm) return 2;
  if (!score) {
    float temperature = (float)atof(argv[8]);
    wavernn_reset(stream, (uint32_t)atol(argv[6]), (uint32_t)atol(argv[7]));
    if (wavernn_temperatures(stream, temperature, temperature)) return 2;
  }
  do {
    at += wavernn_push(stream, mel + at * (size_t)info.bands, frames - at);
    if (at == frames) wavernn_end(stream);
    size_t piece = 1 + done % 7 < samples - done ? 1 + done % 7 : samples - done;
    made = score ? wavernn_score(stream, pcm + done, piece, nats + done)
                 : wavernn_pull(stream, pcm + done, piece);
    done += made;
  } while (made || at < frames);
  FILE *out = fopen(argv[4], "wb");
  if (score) fwrite(nats, sizeof *nats, done, out);
  else fwrite(pcm, sizeof *pcm, done, out);
  fclose(out);
  printf("%s %zu %zu\n", wavernn_kernel(voice), wavernn_stream_bytes(voice),
         wavernn_voice_bytes(voice));
  free(mel);
  free(pcm);
  free(nats);
  wavernn_stream_free(stream);
  wavernn_close(voice);
  return 0;
}

static uint64_t state;

static uint32_t any(uint64_t below) { /* xorshift64* */
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (uint32_t)((state * 2685821657736338717u >> 33) % (below ? below : 1));
}

/* A place in the JSON header, where most of what can go wrong stands, or anywhere. */
static size_t place(const uint8_t *data, size_t size) {
  uint64_t header = 8 + (uint64_t)data[0] + 256u * data[1];
  return any(3) ? any(header < size ? header : size) : any(size);
}

static size_t mutate(uint8_t *data, size_t size) {
  static const char tokens[] = "0123456789\"{}[]:,-+.eEtfn\\ ";
  for (uint32_t n = 1 + any(3); n--;) {
    size_t at = place(data, size), from = place(data, size), length = 1 + any(24);
    if (length > size - at) length = size - at;
    switch (any(7)) {
      case 0: data[at] ^= (uint8_t)(1 << any(8)); break;
      case 1: data[at] = (uint8_t)any(256); break;
      case 2: memset(data + at, any(2) ? 0xff : 0, length); break;
      case 3: memmove(data + at, data + (from + length <= size ? from : 0), length); break;
      case 4: data[at] = (uint8_t)tokens[any(sizeof tokens - 1)]; break;
      case 5: /* the next number changes */
        while (at < size && (data[at] < '0' || data[at] > '9')) at++;
        if (at < size) data[at] = (uint8_t)('0' + any(10));
        break;
      default: if (!any(8)) size = at; /* cut short */
    }
    if (size < 8) break;
  }
  return size;
}

/* Makes the checksum right, so that what lies behind it is reached. */
static void seal(uint8_t *data, size_t size, size_t digits) {
  char hex[65];
  if (digits + 64 > size) return;
  memset(data + digits, '0', 64);
  const void *pieces[3] = {data, data, data};
  size_t sizes[3] = {size, 0, 0};
  wavernn_sha256(pieces, sizes, hex);
  memcpy(data + digits, hex, 64);
}

static bool speak(const wavernn_voice *voice) {
  wavernn_info info = wavernn_describe(voice);
  wavernn_stream *stream;
  int16_t pcm[24];
  float nats[24][2], *mel = malloc((size_t)info.bands * sizeof *mel);
  if (wavernn_stream_bytes(voice) > 1 << 26 || wavernn_stream_new(voice, &stream)) exit(2);
  size_t done = 0;
  for (int f = 0; f < 6; f++) {
    for (int b = 0; b < info.bands; b++) mel[b] = (float)any(1 << 20) / 50000 - 15;
    wavernn_push(stream, mel, 1);
    done += f % 2 ? wavernn_score(stream, pcm, 24, nats) : wavernn_pull(stream, pcm, 24);
  }
  wavernn_end(stream);
  done += wavernn_pull(stream, pcm, 24);
  wavernn_stream_free(stream);
  free(mel);
  return done > 0;
}

static int attack(char **argv) {
  size_t size, spoke = 0, opened = 0;
  uint8_t *original = read_whole(argv[2], &size);
  int count = atoi(argv[3]), found[8] = {0};
  wavernn_file file;
  wavernn_problem problem = {WAVERNN_OK, NULL};
  if (!wavernn_file_read(original, size, &file, &problem)) return 2;
  size_t digits = (size_t)((const uint8_t *)file.digits - original);
  wavernn_file_free(&file);
  state = (uint64_t)atoi(argv[4]) * 2 + 1;
  for (int i = 0; i < count; i++) {
    wavernn_voice *voice;
    char message[WAVERNN_MESSAGE];
    uint8_t *work = malloc(size);
    memcpy(work, original, size);
    size_t left = mutate(work, size);
    uint8_t *data = malloc(left ? left : 1); /* of its very size, so that ASan sees its end */
    memcpy(data, work, left);
    if (any(8)) seal(data, left, digits);
    wavernn_error error = wavernn_open_buffer(data, left, &voice, message);
    found[error]++;
    if (!error) {
      opened++;
      spoke += speak(voice);
      wavernn_close(voice);
    } else if (!message[0]) {
      return 4; /* an error without a message */
    }
    free(data);
    free(work);
  }
  for (int i = 0; i < 8; i++) printf("%d ", found[i]);
  printf("%zu\n", spoke);
  free(original);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 5 && !strcmp(argv[1], "attack")) return attack(argv);
  if (argc == 7 && !strcmp(argv[1], "score")) return run(argv, true);
  if (argc == 9 && !strcmp(argv[1], "say")) return run(argv, false);
  return 2;
}
