/* A reader of JSON that allocates nothing and goes no deeper than JSON_DEPTH. */
#ifndef WAVERNN_JSON_H
#define WAVERNN_JSON_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_DEPTH 32

typedef struct {
  const char *at, *end;
  bool bad; /* it is no JSON */
} json;

/* Where a value starts: one of { [ " t f n - 0 .. 9, or 0 where there is none. */
char json_peek(json *j);
bool json_take(json *j, char c); /* steps over a character if it comes next */

/* Goes through an object, after json_take(j, '{'): the next key, as it stands between the
   quotes. False at the end, and where it is bad. The caller reads or skips the value. */
bool json_key(json *j, bool first, const char **key, size_t *length);
/* The same of an array, after json_take(j, '['). */
bool json_item(json *j, bool first);

bool json_skip(json *j); /* any value */
bool json_string(json *j, const char **text, size_t *length); /* as it stands */
bool json_number(json *j, double *value);
bool json_bool(json *j, bool *value);
bool json_is(const char *text, size_t length, const char *expected);

/* Text without escapes; characters beyond ASCII of \u become '?'. Returns its length, at
   most that of the text. */
size_t json_unescape(const char *text, size_t length, char *out);

#endif
