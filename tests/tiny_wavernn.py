"""A tiny WaveRNN, its parameters and its teacher-forced logits."""

import functools

import jax
import numpy as np

from wavernn_jax import audio, likelihood
from wavernn_jax.config import MelConfig, ModelConfig
from wavernn_jax.models import wavernn

MEL = MelConfig(name='tiny', sample_rate=800, n_fft=16, window=8, hop=4, bands=3, fmax=400.0)
MODEL = ModelConfig(units=8, projection=16, channels=8, layers=2, kernel=3)
RNN = wavernn.WaveRNN(MODEL, MEL)
LOW = wavernn.WaveRNN(ModelConfig(**{**vars(MODEL), 'compute_dtype': 'bfloat16'}), MEL)
_nats = jax.jit(RNN.nats)


@functools.cache
def parameters(seed=0, dtype=np.float32):
  """Weights and biases so large that every input moves every later logit."""
  rng = np.random.default_rng(seed)
  scale = {'conditioning': 0.6, 'recurrent': 1, 'previous': 1, 'coarse': 1, 'outputs': 2}
  return {name: jax.tree.map(
      lambda a, s=scale[name]: (s * rng.standard_normal(a.shape) / np.sqrt(len(a))).astype(dtype),
      tree) for name, tree in jax.eval_shape(lambda: RNN.init(0)).items()}


def speech(samples, batch=2, seed=0, dtype=np.float32):
  """Samples BxT and the log mel around them."""
  rng = np.random.default_rng(seed)
  mel_BxFxM = rng.uniform(audio.mel_floor(MEL), 1, (batch, RNN.frames(samples), MEL.bands))
  return rng.integers(-2**15, 2**15, (batch, samples)).astype(np.int16), mel_BxFxM.astype(dtype)


def nats(pcm, mel, state=None):
  """Coarse and fine nats and the next state."""
  found, state = _nats(parameters(), state or RNN.initial_state(len(pcm)), pcm, mel)
  return np.asarray(found['coarse']), np.asarray(found['fine']), state


@functools.partial(jax.jit, static_argnums=0)
def teacher_forced_logits(model, params, state, pcm, mel):
  """Logits TxBxV of both bytes by the path of `nats`."""
  h_TxBxH, _ = model._run(params, state, pcm, mel)
  return [likelihood.layer_logits(params['outputs'][byte], y, model.config.compute_dtype)
          for byte, y in zip(wavernn.BYTES, np.split(h_TxBxH, 2, axis=-1), strict=True)]
