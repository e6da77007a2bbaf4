"""Exports, damaged as bytes, and rewritten with a right checksum around wrong contents."""

import functools
import hashlib
import json

import attacks
import numpy as np
import random_models
import safetensors

from wavernn_jax.config import Config, ModelConfig, PruningConfig
from wavernn_jax.sampling import export as export_lib

REFUSALS = ValueError, RecursionError, safetensors.SafetensorError  # see export.from_bytes


@functools.cache
def originals() -> list[bytes]:
  """Small exports of each type of weights, one of them of a subscale model."""
  small = ModelConfig(units=32, projection=16, channels=16, layers=1)
  config = Config(model=small, mel=random_models.MEL, pruning=PruningConfig(recurrent=0.5))
  made = [export_lib.to_bytes(export_lib.pack(*random_models.pruned_run(config), config, kind))
          for kind in ('float32', 'bfloat16', 'int8')]
  lanes = Config(model=random_models.SUBSCALE, mel=random_models.MEL)
  lanes.model = ModelConfig(**{**vars(lanes.model), 'units': 32, 'context_channels': 16,
                               'channels': 16})
  lanes.evaluation.block_frames = 2
  return [*made, export_lib.to_bytes(export_lib.pack(
      *random_models.pruned_run(lanes), lanes, 'float32'))]


def parts(data: bytes):
  """Header and tensors of a file, for `joined`."""
  start = 8 + int.from_bytes(data[:8], 'little')
  entries = json.loads(data[8:start])
  header = json.loads(entries.pop('__metadata__')['header'])
  tensors = {name: [e['dtype'], e['shape'], data[start + e['data_offsets'][0]:
                                                 start + e['data_offsets'][1]]]
             for name, e in entries.items()}
  return header, tensors


def joined(header, tensors) -> bytes:
  """A file with a right checksum, whatever is in it."""
  digits = '0' * 64
  entries, body = {'__metadata__': {'sha256': digits, 'header': json.dumps(header)}}, b''
  for name, (dtype, shape, data) in tensors.items():
    entries[name] = {'dtype': dtype, 'shape': shape, 'data_offsets': [
        len(body), len(body) + len(data)]}
    body += data
  found = json.dumps(entries).encode()
  found += b' ' * (-len(found) % 8)
  data = len(found).to_bytes(8, 'little') + found + body
  return data.replace(digits.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def rewritten(data: bytes, rng) -> bytes:
  header, tensors = parts(data)
  for _ in range(1 + rng.integers(2)):
    if rng.integers(2):
      attacks.replace_somewhere(header, rng)
    else:
      _change_tensor(tensors, rng)
  return joined(header, tensors)


def _change_tensor(tensors, rng) -> None:
  name = list(tensors)[rng.integers(len(tensors))]
  tensor, kind = tensors[name], rng.integers(8)
  if kind == 0:
    del tensors[name]
  elif kind == 1:
    tensors[f'{name}.x'] = tensor
  elif kind == 2:
    other = list(tensors)[rng.integers(len(tensors))]
    tensors[name], tensors[other] = tensors[other], tensor
  elif kind == 3:
    tensor[1] = tensor[1][::-1]
  else:  # other numbers
    words = np.frombuffer(tensor[2], np.uint8).copy()
    if len(words):
      words[rng.integers(len(words), size=1 + rng.integers(8))] = rng.integers(256)
    tensor[2] = words.tobytes()


def is_whole(original: bytes, data: bytes, export) -> bool:
  """Whether an export holds what its file says, all of it; the original as it was."""
  header, tensors = parts(export_lib.to_bytes(export))
  given = parts(data)
  if given == parts(original):
    return (header, tensors) == given
  return all(tensors[name][2] == given[1][name][2] for name in tensors
             if not name.startswith('padding.'))


@attacks.counts(400, 100_000)
def test_exports(count):
  tally = attacks.Tally('exports')
  for data in originals():
    assert is_whole(data, data, export_lib.from_bytes(data))
    assert is_whole(data, joined(*parts(data)), export_lib.from_bytes(joined(*parts(data))))
  for number, rng in attacks.seeded(count):
    original = originals()[rng.integers(len(originals()))]
    data = rewritten(original, rng) if number % 4 == 0 else attacks.damage(original, rng)
    tally.attack(number, lambda data=data: export_lib.from_bytes(data),
                 lambda export, data=data, o=original: is_whole(o, data, export), REFUSALS)
  tally.report(count)
