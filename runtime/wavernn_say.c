/* wavernn_say voice.safetensors mels.npy out.wav [seed [temperature]]

   mels.npy: log mel frames, float32 or float16, [frames, bands] or, in Fortran's order,
   [bands, frames]. One frame goes in at a time, as it would from a text-to-speech model. */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wavernn.h"

static int fail(const char *path, const char *why) {
  fprintf(stderr, "%s: %s\n", path, why);
  return 1;
}

/* A .npy file at its first value: frames one after the other, of floats of 2 or 4 bytes. */
typedef struct {
  FILE *file;
  long frames;
  size_t bytes; /* of a value */
} mel_file;

/* Reads the header. False if it does not say frames of so many bands. */
static bool understood(const char *header, long bands, mel_file *mels) {
  const char *shape = strstr(header, "'shape': (");
  long rows = 0, columns = 0;
  if (!shape || sscanf(shape, "'shape': (%ld, %ld)", &rows, &columns) != 2) return false;
  bool transposed = strstr(header, "'fortran_order': True");
  mels->bytes = strstr(header, "'<f4'") ? 4 : strstr(header, "'<f2'") ? 2 : 0;
  mels->frames = transposed ? columns : rows;
  return mels->bytes && mels->frames >= 0 && (transposed ? rows : columns) == bands;
}

static bool open_mels(const char *path, long bands, mel_file *mels) {
  unsigned char start[10];
  char header[4096];
  if (!(mels->file = fopen(path, "rb"))) return false;
  if (fread(start, 1, sizeof start, mels->file) == sizeof start &&
      !memcmp(start, "\x93NUMPY\1", 7)) {
    size_t length = start[8] + 256u * start[9];
    if (length < sizeof header && fread(header, 1, length, mels->file) == length) {
      header[length] = 0;
      if (understood(header, bands, mels)) return true;
    }
  }
  fclose(mels->file);
  return false;
}

static float from_half(uint16_t half) {
  if ((half & 0x7c00) == 0x7c00) return NAN;
  uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
  float x;
  memcpy(&x, &bits, sizeof x);
  x *= 0x1p112f;
  return half & 0x8000 ? -x : x;
}

static bool read_frame(const mel_file *mels, float *mel, size_t bands) {
  if (mels->bytes == 4) return fread(mel, 4, bands, mels->file) == bands;
  for (size_t b = 0; b < bands; b++) {
    unsigned char half[2];
    if (fread(half, 1, 2, mels->file) != 2) return false;
    mel[b] = from_half((uint16_t)(half[0] | half[1] << 8));
  }
  return true;
}

static void little_endian(unsigned char *out, unsigned long value, int bytes) {
  for (int i = 0; i < bytes; i++) out[i] = (unsigned char)(value >> (8 * i));
}

static bool write_wav(const char *path, unsigned long rate, const int16_t *pcm, size_t samples) {
  unsigned char h[44] = "RIFF....WAVEfmt ....\1\0\1\0........\2\0\20\0data....";
  FILE *wav = fopen(path, "wb");
  if (!wav) return false;
  little_endian(h + 4, 36 + 2 * samples, 4);
  little_endian(h + 16, 16, 4);
  little_endian(h + 24, rate, 4);
  little_endian(h + 28, 2 * rate, 4);
  little_endian(h + 40, 2 * samples, 4);
  bool written = fwrite(h, 1, sizeof h, wav) == sizeof h;
  for (size_t i = 0; i < samples && written; i++) {
    unsigned char bytes[2];
    little_endian(bytes, (uint16_t)pcm[i], 2);
    written = fwrite(bytes, 1, 2, wav) == 2;
  }
  return !fclose(wav) && written;
}

/* Hands over each frame and takes the samples that can then be made. Returns how many, or −1 if
   the frames are not as many as said, or not finite. */
static long speak(wavernn_stream *stream, const mel_file *mels, float *mel, size_t bands,
                  int16_t *pcm, size_t room) {
  size_t made = 0;
  for (long f = 0; f < mels->frames; f++) {
    if (!read_frame(mels, mel, bands) || wavernn_push(stream, mel, 1) != 1) return -1;
    made += wavernn_pull(stream, pcm + made, room - made);
  }
  wavernn_end(stream);
  return (long)(made + wavernn_pull(stream, pcm + made, room - made));
}

static int say(wavernn_stream *stream, wavernn_info info, const char *path, const char *out) {
  mel_file mels;
  if (!open_mels(path, info.bands, &mels))
    return fail(path, "expected a .npy file of float32 or float16, [frames, bands], or [bands, "
                      "frames] in Fortran's order, bands as the voice");
  size_t frames = (size_t)mels.frames, hop = (size_t)info.hop, bands = (size_t)info.bands;
  float *mel = malloc(bands * sizeof *mel);
  int16_t *pcm = calloc(frames + 1, hop * sizeof *pcm); /* NULL where the product overflows */
  long made = mel && pcm ? speak(stream, &mels, mel, bands, pcm, frames * hop) : -1;
  int result = 0;
  if (!mel || !pcm) result = fail(path, "no memory for the samples of so many frames");
  else if (made < 0) result = fail(path, "the mel ends early, or holds NaN or infinite values");
  else if (!write_wav(out, (unsigned long)info.sample_rate, pcm, (size_t)made))
    result = fail(out, "cannot be written");
  else printf("%s: %.2f s\n", out, (double)made / info.sample_rate);
  fclose(mels.file);
  free(mel);
  free(pcm);
  return result;
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
