"""Bundles log mels of a few held-out sentences, which the demo speaks.

    python -m experiments.make_demo_mels --data_dir=KATHLEEN24

Takes the first sentences of the test split and writes wavernn_jax/demo_mels/NAME.npy
([bands, frames], float16: 0.004 nats at the floor), mel.json and sentences.tsv (name,
text). The audio itself stays where it is.
"""

import csv
import dataclasses
import json
import pathlib

from absl import flags
import numpy as np

from experiments import cli
from wavernn_jax import audio, commands
from wavernn_jax.config import MelConfig

_DATA = flags.DEFINE_string('data_dir', None, 'Folder of kathleen24.', required=True)
_COUNT = flags.DEFINE_integer('count', 6, 'Number of sentences.', 1)


def main():
  folder, mel = commands.DEMO_MELS, MelConfig()
  folder.mkdir(exist_ok=True)
  texts = _texts(pathlib.Path(_DATA.value) / 'metadata.tsv')
  paths = sorted((pathlib.Path(_DATA.value) / 'test').glob('*.flac'))[:_COUNT.value]
  rows = ['name\ttext\n']
  for path in paths:
    name = path.stem.split('_')[1]
    mel_FxM = audio.utterance_log_mel(audio.read_audio(path, mel.sample_rate), mel)
    np.save(folder / f'{name}.npy', mel_FxM.T.astype(np.float16))
    rows.append(f'{name}\t{texts[path.stem]}\n')
  (folder / 'mel.json').write_text(json.dumps(dataclasses.asdict(mel), indent=1) + '\n')
  (folder / 'sentences.tsv').write_text(''.join(rows))


def _texts(path: pathlib.Path) -> dict[str, str]:
  with path.open(newline='') as file:
    return {row['file'].removesuffix('.flac'): row['text']
            for row in csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE)}


if __name__ == '__main__':
  cli.run(main)
