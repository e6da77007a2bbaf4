#include "json.h"

#include <math.h>
#include <string.h>

static bool fail(json *j) {
  j->bad = true;
  j->at = j->end;
  return false;
}

char json_peek(json *j) {
  while (j->at < j->end && (*j->at == ' ' || *j->at == '\n' || *j->at == '\t' || *j->at == '\r'))
    j->at++;
  return j->at < j->end ? *j->at : 0;
}

bool json_take(json *j, char c) {
  if (json_peek(j) != c || c == 0) return false;
  j->at++;
  return true;
}

bool json_key(json *j, bool first, const char **key, size_t *length) {
  if (json_take(j, '}') || j->bad) return false;
  if (!first && !json_take(j, ',')) return fail(j);
  if (!json_string(j, key, length)) return false;
  return json_take(j, ':') || fail(j);
}

bool json_item(json *j, bool first) {
  if (json_take(j, ']') || j->bad) return false;
  return first || json_take(j, ',') || fail(j);
}

bool json_string(json *j, const char **text, size_t *length) {
  if (!json_take(j, '"')) return fail(j);
  *text = j->at;
  for (; j->at < j->end; j->at++) {
    if (*j->at == '"') {
      *length = (size_t)(j->at++ - *text);
      return true;
    }
    if (*j->at == '\\' && ++j->at == j->end) break;
  }
  return fail(j);
}

static bool word(json *j, const char *expected) {
  size_t length = strlen(expected);
  if ((size_t)(j->end - j->at) < length || memcmp(j->at, expected, length)) return false;
  j->at += length;
  return true;
}

bool json_bool(json *j, bool *value) {
  json_peek(j);
  *value = word(j, "true");
  return *value || word(j, "false") || fail(j);
}

static bool is_digit(const json *j) { return j->at < j->end && *j->at >= '0' && *j->at <= '9'; }

/* Not strtod: that depends on the locale and on an end of the text. */
bool json_number(json *j, double *value) {
  double mantissa = 0;
  int exponent = 0, written = 0;
  bool negative = json_take(j, '-'), down = false;
  if (!is_digit(j)) return fail(j);
  for (; is_digit(j); j->at++) mantissa = 10 * mantissa + (*j->at - '0');
  if (j->at < j->end && *j->at == '.')
    for (j->at++; is_digit(j); j->at++, exponent--) mantissa = 10 * mantissa + (*j->at - '0');
  if (j->at < j->end && (*j->at == 'e' || *j->at == 'E')) {
    j->at++;
    if (j->at < j->end && (*j->at == '-' || *j->at == '+')) down = *j->at++ == '-';
    if (!is_digit(j)) return fail(j);
    for (; is_digit(j); j->at++)
      if (written < 10000) written = 10 * written + (*j->at - '0');
  }
  exponent += down ? -written : written;
  /* Exact for the short numbers that a header has: powers of ten up to 10^22 are. */
  mantissa = exponent < 0 ? mantissa / pow(10, -exponent) : mantissa * pow(10, exponent);
  *value = negative ? -mantissa : mantissa;
  return true;
}

bool json_skip(json *j) {
  char open[JSON_DEPTH];
  int depth = 0;
  bool first = true;
  const char *text;
  size_t length;
  double number;
  bool value;
  for (;;) {
    char c = json_peek(j);
    if (c == '{' || c == '[') {
      if (depth == JSON_DEPTH) return fail(j);
      open[depth++] = c;
      first = true;
      j->at++;
    } else if (c == '"' ? !json_string(j, &text, &length)
               : c == 't' || c == 'f' ? !json_bool(j, &value)
               : c == 'n' ? !word(j, "null") && !fail(j)
                          : !json_number(j, &number)) {
      return false;
    }
    for (; depth; first = false, depth--) { /* closes what ends here, then takes the next key */
      if (open[depth - 1] == '{' ? json_key(j, first, &text, &length) : json_item(j, first)) break;
      if (j->bad) return false;
    }
    if (!depth) return true;
    first = false;
  }
}

bool json_is(const char *text, size_t length, const char *expected) {
  return strlen(expected) == length && !memcmp(text, expected, length);
}

size_t json_unescape(const char *text, size_t length, char *out) {
  static const char from[] = "nrtbf", to[] = "\n\r\t\b\f";
  char *start = out;
  for (size_t i = 0; i < length; i++) {
    if (text[i] != '\\' || i + 1 == length) {
      *out++ = text[i];
    } else if (text[++i] == 'u') {
      *out++ = '?';
      i += length - i > 4 ? 4 : length - i - 1;
    } else {
      const char *found = strchr(from, text[i]);
      *out++ = text[i] && found ? to[found - from] : text[i];
    }
  }
  return (size_t)(out - start);
}
