"""Latency of a stream: from the arrival of a mel frame to its audio, at the pace of real time.

    python -m experiments.benchmarks.latency --layers=1
    python -m experiments.benchmarks.latency --model=FILE.safetensors

Frames arrive one by one, a hop apart, as a speech synthesiser would send them; the stream
gives its audio frame by frame. The latency of a frame is the time from its arrival to that
of the samples that begin at its centre: the frames that the model looks ahead
(`lookahead_ms`) and the computing. `--layers` sets the convolutions of the conditioning stack of a
random sparse model; the model looks a frame further than they do. Times are in milliseconds
(median, largest). A frame whose mel is taken from live audio arrives half a window later
than the audio at its centre (`half_window_ms`), which no sampler can change. The last line
is one JSON object.
"""

import statistics
import tempfile
import time

from absl import flags
import numpy as np

from experiments import cli
from experiments.benchmarks import measure
from wavernn_jax import config as config_lib, draw, sampling, voice as voice_lib
from wavernn_jax.sampling import export as export_lib, stream

_MODEL = flags.DEFINE_string('model', '', 'An export; by default a random model.')
_UNITS = flags.DEFINE_integer('units', 1024, 'Hidden units of the random model, H.')
_DENSITY = flags.DEFINE_float('density', 0.05, 'Fraction of its weights that are left.')
_LAYERS = flags.DEFINE_integer('layers', 1, 'Convolutions of its conditioning stack.')
_ENGINE = flags.DEFINE_string('engine', 'cpu', 'Engine.')
_FRAMES = flags.DEFINE_integer('frames', 400, 'Frames that arrive.')


def paced(frames_FxM, hop_seconds: float, arrivals: list):
  """The frames one by one at the pace of real time; `arrivals` gets the time of each."""
  start = time.perf_counter()
  for f, frame_M in enumerate(frames_FxM):
    time.sleep(max(0.0, start + f * hop_seconds - time.perf_counter()))
    arrivals.append(time.perf_counter())
    yield frame_M[None]


def latencies(engine, frames_FxM) -> list[float]:
  """Seconds from the arrival of each frame to that of the samples from its centre on.

  Frames whose audio waits for the end of the stream are left out.
  """
  mel, arrivals, found, samples = engine.model.mel, [], [], 0
  hop_seconds = mel.hop / mel.sample_rate
  for pcm in stream.stream(engine, paced(frames_FxM, hop_seconds, arrivals), draw.keys(0, [0])):
    now = time.perf_counter()
    if len(arrivals) == len(frames_FxM):
      break
    found.append(now - arrivals[samples // mel.hop])
    samples += len(pcm)
  return found


def random_voice() -> voice_lib.Voice:
  """A sparse model of the size asked for, as an export has it."""
  config = config_lib.Config()
  config.model.units, config.model.projection = _UNITS.value, _UNITS.value // 2
  config.model.prediction, config.model.layers = 'spectral', _LAYERS.value
  packed = measure.pruned_export(config, _DENSITY.value, 'bfloat16')
  with tempfile.TemporaryDirectory() as folder:
    export_lib.write(path := f'{folder}/random.safetensors', packed)
    return export_lib.read(path)


def main():
  voice = export_lib.read(_MODEL.value) if _MODEL.value else random_voice()
  voice.config.evaluation.block_frames = 1
  engine = sampling.open(voice, _ENGINE.value)
  engine.warm_up(1)
  mel, model = engine.model.mel, voice.config.model
  frames_FxM = np.random.default_rng(0).normal(-5, 1, (_FRAMES.value, mel.bands))
  found = latencies(engine, frames_FxM)
  hop_ms = 1e3 * mel.hop / mel.sample_rate
  measure.report({
      'engine': engine.name, 'units': model.units, 'layers': model.layers,
      'prediction': model.prediction, 'frames': len(found),
      'lookahead_ms': engine.model.timing.margin * hop_ms,
      'latency_ms': 1e3 * statistics.median(found), 'largest_ms': 1e3 * max(found),
      'half_window_ms': 500 * mel.window / mel.sample_rate})


if __name__ == '__main__':
  cli.run(main)
