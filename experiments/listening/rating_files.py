"""Files of ratings, as a report's page saves them: every rating checked.

JSON: {schema, version, report (its identity), listener, session, seed, created,
finished, exported, ratings: [{kind, sentence, names, value, plays, milliseconds,
time}]}. A rating of kind 'mos' has one name and a value of 1..5; one of kind 'ab'
has the names of what was heard as A and as B, and a value of -3..3, positive where
B is better (the paper's range).

CSV: webMUSHRA's lss.csv (MOS) and paired_comparison.csv (A/B: `choice_comment` is
the value, positive where `choice_non_reference` is better), with the identity of
the report as `session_test_id`.
"""

import csv
import dataclasses
import io
import json
import pathlib

from experiments.listening import document

SCHEMA, VERSION = 'wavernn-listening-ratings', 1
_RANGES = {'mos': range(1, 6), 'ab': range(-3, 4)}


@dataclasses.dataclass(frozen=True)
class Rating:
  """One answer: `names` are in the order of the report, `value` is positive for the second."""

  listener: str
  kind: str
  sentence: str
  names: tuple[str, ...]
  value: int

  @property
  def question(self) -> tuple:
    return self.listener, self.kind, self.sentence, self.names


def read(path, manifest: document.Manifest) -> tuple[list[Rating], list[str]]:
  """The valid ratings of a file, and a message for each of the others.

  Raises:
    ValueError: if none of it can be used; says why.
  """
  try:
    text = pathlib.Path(path).read_text(encoding='utf-8-sig')
  except OSError as error:
    raise ValueError(f'left out: it cannot be read ({error.strerror}).') from error
  except UnicodeDecodeError as error:
    raise ValueError('left out: it is no text; expected JSON or CSV of a report.') from error
  is_csv = text.startswith('session_test_id')
  ratings, problems = [], []
  for place, *row in (_csv_rows if is_csv else _json_rows)(text, manifest.identity):
    try:
      ratings.append(_check(*row, manifest))
    except ValueError as error:
      problems.append(f'{place} left out: {error}.')
  return ratings, problems


def _json_rows(text: str, identity: str):
  """Yields (place, listener, kind, sentence, names, value), unchecked."""
  try:
    content = json.loads(text)
  except ValueError as error:
    raise ValueError(f'left out: malformed ({error}); expected JSON or CSV that the report saved; '
                     'save it again.') from error
  schema = content.get('schema') if isinstance(content, dict) else None
  if schema != SCHEMA or content.get('version') != VERSION:
    raise ValueError(f'left out: found the schema {schema!r}, expected {SCHEMA!r} of version '
                     f'{VERSION}; give files that the report saved.')
  _check_report(content.get('report'), identity)
  if not isinstance(content.get('ratings'), list):
    raise ValueError('left out: malformed: it has no list of ratings; save it again.')
  for i, rating in enumerate(content['ratings'], 1):
    fields = rating if isinstance(rating, dict) else {}
    yield (f'rating {i}', content.get('listener'),
           *(fields.get(name) for name in ('kind', 'sentence', 'names', 'value')))


def _csv_rows(text: str, identity: str):
  """`_json_rows` for webMUSHRA's lss.csv or paired_comparison.csv."""
  reader = csv.DictReader(io.StringIO(text, newline=''))
  columns = set(reader.fieldnames)
  if {'listener', 'trial_id', 'stimuli', 'stimuli_rating'} <= columns:
    kind, named, value = 'mos', ['stimuli'], 'stimuli_rating'
  elif {'listener', 'trial_id', 'choice_reference', 'choice_non_reference',
        'choice_comment'} <= columns:
    kind, named, value = 'ab', ['choice_reference', 'choice_non_reference'], 'choice_comment'
  else:
    raise ValueError(f'left out: found the columns {reader.fieldnames}, expected those of the '
                     "report's CSV files.")
  for i, row in enumerate(reader, 2):
    _check_report(row['session_test_id'], identity)
    try:
      number = int(row[value])
    except (TypeError, ValueError):
      number = row[value]
    yield (f'line {i}', row['listener'], kind, row['trial_id'],
           [row[name] for name in named], number)


def _check_report(found, identity: str) -> None:
  if found != identity:
    raise ValueError(f'left out: of another report: found {found!r}, expected {identity!r}; give '
                     "--report=FILE of that one, or leave the file away.")


def _check(listener, kind, sentence, names, value, manifest) -> Rating:
  """The Rating, or a ValueError that says what was found and expected."""
  if not isinstance(listener, str) or not listener:
    raise ValueError(f'found the listener {listener!r}, expected a name')
  if kind not in ('mos', 'ab'):
    raise ValueError(f"found the kind {kind!r}, expected 'mos' or 'ab'")
  if not isinstance(sentence, str) or sentence not in manifest.sentences:
    raise ValueError(f'found the sentence {sentence!r}, which the report does not have')
  known = manifest.sentences[sentence]
  if (not isinstance(names, list) or len(names) != (1 if kind == 'mos' else 2)
      or not all(name in known for name in names)):
    count = 'one' if kind == 'mos' else 'two'
    raise ValueError(f'found {names!r} for {sentence!r}, expected {count} of {known}')
  if type(value) is not int or value not in _RANGES[kind]:  # a bool is none
    raise ValueError(f'found the value {value!r}, expected a whole number in '
                     f'{_RANGES[kind][0]}..{_RANGES[kind][-1]}')
  if kind == 'ab' and tuple(names) not in manifest.pairs:
    names, value = names[::-1], -value
    if tuple(names) not in manifest.pairs:
      raise ValueError(f'found the pair {names!r}, which the report does not compare')
  return Rating(listener, kind, sentence, tuple(names), value)
