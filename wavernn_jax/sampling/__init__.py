"""Sampling: `open` returns an engine for a voice; stream.py makes audio with any engine."""

import warnings

import jax

from wavernn_jax import rules
from wavernn_jax.sampling import cpu, export, persistent, scan
from wavernn_jax.sampling.engine import Engine
from wavernn_jax.voice import Voice


def open(voice: Voice, engine: str = 'auto', temperatures=(1.0, 1.0),
         weights: str = 'bfloat16', batch: int = 1) -> Engine:
  """The engine that samples and scores a voice.

  Args:
    voice: of a run or an export.
    engine: 'scan', 'cpu', 'pallas', or 'auto': cpu if JAX has no accelerator and the
      voice is an export that cpu can run, else scan.
    temperatures: for the coarse and the fine byte; 0 takes the most probable value.
    weights: number type to which cpu and pallas pack a run; an export has its own.
    batch: number of utterances that the kernel of pallas is compiled and checked for.

  Returns:
    The engine. If the kernel of pallas cannot be used, a warning says why and scan is
    returned in its place.

  Raises:
    InputError: if the machine or the model does not suit the engine.
  """
  block_frames = voice.config.evaluation.block_frames
  if engine == 'auto':
    suits = voice.packed and jax.default_backend() == 'cpu' and rules.suits(voice.config, 'cpu')
    engine = 'cpu' if suits else 'scan'
  if engine == 'cpu':
    return cpu.Sampler(export.packed(voice, weights), temperatures, block_frames)
  if engine == 'pallas':
    try:
      return persistent.start(
          voice, temperatures, voice.packed.weights if voice.packed else weights, batch)
    except persistent.UNUSABLE as error:
      warnings.warn(f'{error} --engine=scan takes its place.', stacklevel=2)
  return scan.Sampler(voice.model, voice.params, temperatures, block_frames, donate=True)
