r"""Makes a second voice for the study of fine-tuning: espeak-ng with a natural jitter.

    python -m experiments.make_second_voice [--output=runs/second_voice] [--minutes=1,5,15]
    python -m experiments.make_second_voice --voice=en-us+m2 --pitches=20,80 --seed=1 \
        --minutes=0.67 --held_out=0.1 --output=DIR

Needs espeak-ng on the PATH. OUTPUT/1, OUTPUT/5 and OUTPUT/15 hold train folders of as many
minutes, each the beginning of the next, and all the same valid and test, of 40 seconds
each. Sentences come from a small grammar of our own. espeak-ng repeats itself exactly: its
tempo and pitch vary here from sentence to sentence, and time is warped and loudness swayed
within them, slowly as a speaker drifts and from one pitch period to the next as a larynx
does. The samples are a function of the seed and of espeak-ng's version.
"""

import itertools
import json
import os
import pathlib

from absl import flags
import numpy as np
from scipy import ndimage, signal
import soundfile

from experiments import cli, make_demo_speech
from wavernn_jax.errors import InputError

VOICE, PITCHES = 'en-gb+m3', (32, 46)  # espeak-ng's 0..99
HELD_OUT = 40.0  # seconds of valid and of test
_SPEEDS = 145, 180  # words a minute
# (Hz, size): standard deviations of the rate of time and of the logarithm of loudness, and the
# frequencies up to which they move: a drift, and what changes from one period to the next.
_WARP = (2.0, 0.02), (60.0, 0.012)
_SWAY = (3.0, 0.12), (60.0, 0.04)

_SUBJECTS = (
    'my sister', 'the old baker', 'our teacher', 'a young farmer', 'the tall pilot', 'his cousin',
    'her neighbour', 'the judge', 'a quiet child', 'the painter', 'every guest', 'that doctor')
_VERBS = (
    'found', 'carried', 'washed', 'forgot', 'painted', 'measured', 'borrowed', 'noticed',
    'dropped', 'chose', 'repaired', 'followed')
_OBJECTS = (
    'a broken chair', 'the yellow bag', 'five fresh apples', 'an empty jar', 'the heavy box',
    'two small fish', 'a thick blanket', 'the other ring', 'some ginger', 'a good knife',
    'the village map', 'three white mugs')
_PLACES = (
    'behind the church', 'near the harbour', 'under the bridge', 'at the market', 'in the garage',
    'beside the river', 'on the roof', 'before the storm', 'after lunch', 'over the weekend',
    'without a word', 'for a whole year')
_WORDS = _SUBJECTS, _VERBS, _OBJECTS, _PLACES


def sentences(rng: np.random.Generator):
  """Yields sentences of the grammar, each once."""
  sizes = [len(words) for words in _WORDS]
  for number in rng.permutation(np.prod(sizes)):
    parts = [words[i] for words, i in zip(_WORDS, np.unravel_index(number, sizes), strict=True)]
    yield f'{" ".join(parts).capitalize()}.'


def jitter(pcm, rate: int, rng: np.random.Generator) -> np.ndarray:
  """Samples whose time is warped and whose loudness sways; of nearly the same length."""
  speed = np.exp(_noise(len(pcm), rate, _WARP, rng))
  place = np.cumsum(speed) - speed[0]
  place = place[place <= len(pcm) - 1]
  warped = ndimage.map_coordinates(pcm, [place], order=5, mode='nearest')
  return warped * np.exp(_noise(len(warped), rate, _SWAY, rng))


def _noise(samples: int, rate: int, parts, rng) -> np.ndarray:
  """A sum of Gaussian noises, each of a band from 0 Hz and a standard deviation."""
  total = np.zeros(samples)
  for highest, size in parts:
    band = signal.sosfiltfilt(signal.butter(2, highest, fs=rate, output='sos'),
                              rng.standard_normal(samples + rate))[rate // 2:][:samples]
    total += size * band / band.std()
  return total


def speak(text: str, voice: str, pitches, rng: np.random.Generator) -> np.ndarray:
  """int16 at 24 kHz."""
  speed, pitch = (int(rng.integers(*of)) for of in (_SPEEDS, pitches))
  pcm = make_demo_speech.speak(text, voice, speed, pitch)
  pcm = jitter(pcm, make_demo_speech.RATE, rng)
  pcm *= make_demo_speech.PEAK / np.abs(pcm).max()
  return make_demo_speech.dither(pcm, rng)


def make(output, minutes, held_out: float = HELD_OUT, seed: int = 0, voice: str = VOICE,
         pitches=PITCHES) -> dict:
  """Writes the folders of `minutes`; returns the seconds of each."""
  output, minutes = pathlib.Path(output), sorted(minutes)
  rng = np.random.default_rng(seed)
  takes = (speak(text, voice, pitches, rng) for text in sentences(rng))
  folders = [output / f'{m:g}' for m in minutes]
  seconds = {split: _write(folders, split, held_out, takes) for split in ('valid', 'test')}
  found, done = {}, 0.0
  for i, limit in enumerate(minutes):
    done += _write(folders[i:], f'train/{i}', 60 * limit - done, takes)
    found[f'{limit:g}'] = round(done, 1)
  return {'output': str(output), 'train_seconds': found, **seconds}


def _write(folders, part: str, seconds: float, takes) -> float:
  """New sentences of at least so many seconds, under a name in each of the folders."""
  done = 0.0
  for folder in folders:
    (folder / part).mkdir(parents=True, exist_ok=True)
  for i in itertools.count():
    if done >= seconds:
      return round(done, 1)
    pcm = next(takes)
    name = f'{part.replace("/", "_")}_{i:04}.flac'
    first, *others = (folder / part / name for folder in folders)
    soundfile.write(first, pcm, make_demo_speech.RATE, 'PCM_16', format='FLAC')
    for other in others:
      other.unlink(missing_ok=True)
      os.link(first, other)
    done += len(pcm) / make_demo_speech.RATE


def main() -> None:
  given = flags.FLAGS
  try:
    minutes = [float(m) for m in given.minutes]
  except ValueError as error:
    raise InputError(f'--minutes={",".join(given.minutes)}: found {error}, expected numbers such '
                     'as 1,5,15.') from error
  try:
    pitches = tuple(int(p) for p in given.pitches)
    low, high = pitches
  except ValueError as error:
    raise InputError(f'--pitches={",".join(given.pitches)}: expected two whole numbers such as '
                     '32,46.') from error
  if not 0 <= low < high <= 100:
    raise InputError(f'--pitches={low},{high}: expected 0 ≤ the first < the second ≤ 100.')
  print(json.dumps(make(given.output, minutes, given.held_out, given.seed, given.voice, pitches)),
        flush=True)


if __name__ == '__main__':
  flags.DEFINE_string('output', 'runs/second_voice', 'Folder to write.')
  flags.DEFINE_list('minutes', ['1', '5', '15'], 'Lengths of the training folders.')
  flags.DEFINE_string('voice', VOICE, 'Voice and variant of espeak-ng.')
  flags.DEFINE_list('pitches', [str(p) for p in PITCHES], 'Range of its pitch, of 0 to 99.')
  flags.DEFINE_float('held_out', HELD_OUT, 'Seconds of valid and of test.')
  flags.DEFINE_integer('seed', 0, 'Seed of sentences and jitter.')
  cli.run(main)
