/* wavernn_say voice.safetensors mels.npy out.wav [seed [temperature]]

   mels.npy: log mel frames, float32 [frames, bands]. One frame goes in at a time, as it would
   from a text-to-speech model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wavernn.h"

#define PIECE 256 /* samples */

static int fail(const char *path, const char *why) {
  fprintf(stderr, "%s: %s\n", path, why);
  return 1;
}

/* Opens a .npy file of float32 [frames, bands] at its first value. NULL if it is none. */
static FILE *open_mels(const char *path, long bands, long *frames) {
  unsigned char start[10];
  char header[4096];
  long columns = 0;
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  if (fread(start, 1, sizeof start, file) == sizeof start && !memcmp(start, "\x93NUMPY\1", 7)) {
    size_t length = start[8] + 256u * start[9];
    if (length < sizeof header && fread(header, 1, length, file) == length) {
      header[length] = 0;
      const char *shape = strstr(header, "'shape': (");
      if (shape && strstr(header, "'<f4'") && strstr(header, "'fortran_order': False") &&
          sscanf(shape, "'shape': (%ld, %ld)", frames, &columns) == 2 && columns == bands &&
          *frames >= 0)
        return file;
    }
  }
  fclose(file);
  return NULL;
}

static void little_endian(unsigned char *out, unsigned long value, int bytes) {
  for (int i = 0; i < bytes; i++) out[i] = (unsigned char)(value >> (8 * i));
}

/* The header of a file of so many samples. */
static size_t write_header(FILE *file, unsigned long rate, unsigned long samples) {
  unsigned char h[44] = "RIFF....WAVEfmt ....\1\0\1\0........\2\0\20\0data....";
  little_endian(h + 4, 36 + 2 * samples, 4);
  little_endian(h + 16, 16, 4);
  little_endian(h + 24, rate, 4);
  little_endian(h + 28, 2 * rate, 4);
  little_endian(h + 40, 2 * samples, 4);
  return fwrite(h, 1, sizeof h, file);
}

/* Pulls and writes all samples that can be made; returns how many. */
static unsigned long drain(wavernn_stream *stream, FILE *wav) {
  int16_t pcm[PIECE];
  unsigned char bytes[2 * PIECE];
  unsigned long total = 0;
  for (size_t made; (made = wavernn_pull(stream, pcm, PIECE)); total += made) {
    for (size_t i = 0; i < made; i++) little_endian(bytes + 2 * i, (uint16_t)pcm[i], 2);
    fwrite(bytes, 2, made, wav);
  }
  return total;
}

static int say(wavernn_stream *stream, wavernn_info info, const char *mels, const char *out) {
  long frames = 0;
  unsigned long total = 0;
  FILE *in = open_mels(mels, info.bands, &frames);
  if (!in) return fail(mels, "expected float32 [frames, bands] in a .npy file, bands as the voice");
  FILE *wav = fopen(out, "wb");
  float *mel = malloc((size_t)info.bands * sizeof *mel);
  int wrong = !wav || !mel || !write_header(wav, (unsigned long)info.sample_rate,
                                            (unsigned long)frames * (unsigned long)info.hop);
  const char *reason = "cannot be written";
  for (long f = 0; f < frames && !wrong; f++) {
    wrong = fread(mel, sizeof *mel, (size_t)info.bands, in) != (size_t)info.bands ||
            wavernn_push(stream, mel, 1) != 1;
    if (wrong) reason = "not written: the mel ends early, or holds NaN or infinite values";
    else total += drain(stream, wav);
  }
  wavernn_end(stream);
  if (!wrong) total += drain(stream, wav);
  if (wav && fclose(wav)) wrong = 1;
  fclose(in);
  free(mel);
  if (!wrong) printf("%s: %.2f s\n", out, (double)total / info.sample_rate);
  return wrong ? fail(out, reason) : 0;
}

int main(int argc, char **argv) {
  char message[WAVERNN_MESSAGE];
  wavernn_voice *voice;
  wavernn_stream *stream;
  if (argc < 4 || argc > 6) {
    fprintf(stderr, "usage: %s voice.safetensors mels.npy out.wav [seed [temperature]]\n", argv[0]);
    return 2;
  }
  if (wavernn_open(argv[1], &voice, message)) return fail(argv[1], message);
  wavernn_error error = wavernn_stream_new(voice, &stream);
  if (error) return fail(argv[1], wavernn_error_text(error));
  float temperature = argc > 5 ? (float)atof(argv[5]) : 1;
  wavernn_reset(stream, argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0, 0);
  int result = wavernn_temperatures(stream, temperature, temperature)
                   ? fail(argv[5], "expected a temperature of 0 to 100")
                   : say(stream, wavernn_describe(voice), argv[2], argv[3]);
  wavernn_stream_free(stream);
  wavernn_close(voice);
  return result;
}
