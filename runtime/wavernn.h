/* Speech from log mel spectrograms with a WaveRNN that --mode=export has written.

   A voice is constant once it is open: any number of threads may use it. A stream speaks
   one utterance at a time and belongs to one thread at a time. Nothing is allocated after
   wavernn_stream_new. Samples are a function of voice, mel, seed, utterance and
   temperatures, however they are pushed and pulled. */
#ifndef WAVERNN_H
#define WAVERNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WAVERNN_FORMAT 4    /* version of the files that are read */
#define WAVERNN_MESSAGE 160 /* bytes of a message */

typedef enum {
  WAVERNN_OK = 0,
  WAVERNN_NO_FILE,     /* it cannot be opened or read */
  WAVERNN_NO_MEMORY,
  WAVERNN_DAMAGED,     /* it is cut short, or its contents contradict each other */
  WAVERNN_CHECKSUM,    /* it was changed after it was written */
  WAVERNN_VERSION,     /* of another format version */
  WAVERNN_UNSUPPORTED, /* of a model that this library does not run */
  WAVERNN_ARGUMENT     /* a pointer, size or temperature that is none */
} wavernn_error;

typedef struct wavernn_voice wavernn_voice;
typedef struct wavernn_stream wavernn_stream;

typedef struct {
  int sample_rate; /* Hz */
  int bands;       /* of a mel frame */
  int hop;         /* samples of a frame */
  int ahead;       /* frames that must be known before the first sample */
  float floor;     /* the least value of a log mel */
} wavernn_info;

/* What an error is, in English. */
const char *wavernn_error_text(wavernn_error error);

/* Opens a file, which is mapped into memory, or a buffer, which must stay as it is until
   the voice is closed and start at a multiple of 4 bytes. `message` may be NULL; it gets
   what was found and what was expected. */
wavernn_error wavernn_open(const char *path, wavernn_voice **voice,
                           char message[WAVERNN_MESSAGE]);
wavernn_error wavernn_open_buffer(const void *data, size_t size, wavernn_voice **voice,
                                  char message[WAVERNN_MESSAGE]);
void wavernn_close(wavernn_voice *voice); /* after its streams; NULL is allowed */

wavernn_info wavernn_describe(const wavernn_voice *voice);
const char *wavernn_kernel(const wavernn_voice *voice); /* of this processor: "avx2", .. */

/* Bytes that a voice holds beyond its file, and a stream. */
size_t wavernn_voice_bytes(const wavernn_voice *voice);
size_t wavernn_stream_bytes(const wavernn_voice *voice);

/* A stream at the start of utterance 0 of seed 0, at temperatures of 1. */
wavernn_error wavernn_stream_new(const wavernn_voice *voice, wavernn_stream **stream);
void wavernn_stream_free(wavernn_stream *stream); /* NULL is allowed */

/* To the start of an utterance; temperatures stay. */
void wavernn_reset(wavernn_stream *stream, uint32_t seed, uint32_t utterance);

/* Of the high and the low byte of a sample, 0 (the most probable) to 100. */
wavernn_error wavernn_temperatures(wavernn_stream *stream, float coarse, float fine);

/* Hands over frames of natural or decimal log mel, as the voice has them. Returns how many
   were taken: fewer when samples must be pulled first, or from the first frame on that
   holds NaN or infinite values. */
size_t wavernn_push(wavernn_stream *stream, const float *mel, size_t frames);

/* Says that the utterance has no more frames; its last samples can then be pulled. */
void wavernn_end(wavernn_stream *stream);

/* Makes up to so many samples. Returns how many: fewer when frames must be pushed first,
   and when all samples of an utterance that has ended, hop for each frame, are made. */
size_t wavernn_pull(wavernn_stream *stream, int16_t *pcm, size_t samples);

/* As wavernn_pull, of samples that are given: writes the natural logarithm of the
   probability of each one's high and low byte, negated, at temperature 1. */
size_t wavernn_score(wavernn_stream *stream, const int16_t *pcm, size_t samples,
                     float (*nats)[2]);

#ifdef __cplusplus
}
#endif
#endif
