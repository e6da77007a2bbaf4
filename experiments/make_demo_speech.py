"""Makes the bundled demo speech: our own sentences, read by espeak-ng.

    python experiments/make_demo_speech.py [--output=wavernn_jax/demo_speech]

    python experiments/make_demo_speech.py --output=DIR --more_texts=FILE
    python experiments/make_demo_speech.py --output=DIR --voice=en-us+m1,165,35

Needs espeak-ng 1.51 on the PATH. The samples are a function of its version, the
texts and the seed: run twice, they are the same. --more_texts adds a training
sentence for each line of a file. --voice, which may be repeated, gives other voices than
the four: an espeak-ng voice and variant, words a minute and pitch.
"""

import argparse
import io
import pathlib
import subprocess

import numpy as np
import soundfile
import soxr

VOICES = {  # name: espeak-ng voice and variant, words a minute, pitch 0..99
    'ada': ('en-us+f2', 165, 55),
    'ben': ('en-gb+m3', 160, 40),
    'cal': ('en-us+m7', 170, 45),
    'dee': ('en-gb-scotland+f4', 160, 60),
}

TEXTS = {
    'train': (
        'My uncle keeps three loud geese behind the bakery.',
        'Please measure the width of that yellow door again.',
        'We lost a button under the kitchen shelf.',
        'Jack chose a cheap room near the harbour.',
        'The engine coughs twice, then purrs along happily.',
        'Nobody enjoys washing muddy boots in winter.',
        'Her voice was calm, though the ship was sinking.',
        'Could you fetch a bag of flour and two limes?',
        'Thick fog hid the valley until half past nine.',
        'An owl watched us from the broken chimney.',
        'They usually go swimming on Thursday evenings.',
        'That puzzle has four pieces too many.',
        'Bring your own cup, and leave it by the sink.',
        'A young judge laughed at the joke, but quietly.',
        'Fresh paint dries slowly on such a humid day.',
        'Why does the cat sleep inside a shoe box?',
        'Our neighbour grows enormous purple cabbages.',
        'Take the third path, where the oak trees begin.',
    ),
    'valid': (
        'The blue van stopped outside our garage at noon.',
        'Both children pushed the huge snowball slowly uphill.',
    ),
    'test': (
        'Five brown foals were grazing beyond the church.',
        'Is there any ginger left in that jar?',
        'Every other Tuesday, the choir sings off key.',
    ),
}

SOURCE_RATE, RATE = 22_050, 24_000  # Hz
PEAK = 10 ** (-3 / 20)  # of full scale
SILENCE, KEPT = 1e-3, 0.06  # level and seconds of the pauses left at the ends


def speak(text, name, speed, pitch):
  """Returns espeak-ng's samples at 24 kHz, float64, peak -3 dBFS; arguments as in VOICES."""
  command = ['espeak-ng', '-v', name, '-s', str(speed), '-p', str(pitch), '--stdout', text]
  wav = subprocess.run(command, check=True, capture_output=True).stdout
  pcm, rate = soundfile.read(io.BytesIO(wav), dtype='float64')
  if rate != SOURCE_RATE:
    raise SystemExit(f'{name}: espeak-ng gave {rate} Hz, expected {SOURCE_RATE} '
                     '(a mbrola voice?)')
  pcm = soxr.resample(pcm, rate, RATE, 'VHQ')
  loud = np.flatnonzero(np.abs(pcm) > SILENCE)
  margin = int(KEPT * RATE)
  pcm = pcm[max(0, loud[0] - margin):loud[-1] + margin]
  return pcm * (PEAK / np.abs(pcm).max())


def dither(pcm, seed):
  """Rounds to int16 with triangular noise of two least significant bits."""
  rng = np.random.default_rng(seed)
  noise = rng.random(len(pcm)) - rng.random(len(pcm))
  return np.rint(pcm * 32_768 + noise).astype(np.int16)


def _voice(text):
  """A name for files, and a value of VOICES."""
  name, speed, pitch = text.split(',')
  return name.replace('+', '_'), (name, int(speed), int(pitch))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  default = pathlib.Path(__file__).parents[1] / 'wavernn_jax' / 'demo_speech'
  parser.add_argument('--output', type=pathlib.Path, default=default)
  parser.add_argument('--more_texts', type=pathlib.Path)
  parser.add_argument('--voice', action='append', type=_voice, metavar='NAME,SPEED,PITCH')
  args = parser.parse_args()
  voices = dict(args.voice) if args.voice else VOICES
  output, splits = args.output, dict(TEXTS)
  if args.more_texts:
    more = [line.strip() for line in args.more_texts.read_text().splitlines()]
    splits['train'] += tuple(text for text in more if text)
  rows = ['split\tfile\tvoice\ttext']
  for split_index, (split, texts) in enumerate(splits.items()):
    folder = output / split
    folder.mkdir(parents=True, exist_ok=True)
    seconds = 0.0
    for i, text in enumerate(texts):
      voice = list(voices)[(i + split_index) % len(voices)]
      pcm = dither(speak(text, *voices[voice]), seed=(split_index, i))
      file = f'{split}_{i:02}_{voice}.flac'
      soundfile.write(folder / file, pcm, RATE, 'PCM_16', format='FLAC')
      rows.append(f'{split}\t{file}\t{voices[voice][0]}\t{text}')
      seconds += len(pcm) / RATE
    print(f'{split}: {seconds:.1f} s')
  (output / 'metadata.tsv').write_text('\n'.join(rows) + '\n')


if __name__ == '__main__':
  main()
