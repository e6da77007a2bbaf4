"""§4 on the persistent kernel: the lanes of subscale models, a launch for each block of context.

The batched sampler of models/skew.py as it is, XLA's context network included, but for
its innermost scan: the L positions that all lanes draw between two runs of the context
network are one launch, in which a lane is a stream of the kernel. Weights are loaded
once a launch, for S·L samples of each utterance.

What the kernel does not know of lanes comes as input: the gate inputs of the
conditioning, the context and the nearest samples, of every sample; what the context
adds to the hidden layer of the coarse byte; and a negative uniform number where a lane
is before the beginning or after the end of its utterance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio, draw, products
from wavernn_jax.sampling import scan
from wavernn_jax.sampling.persistent import checks, operands as operands_lib

# Of frames that are one sample long: it lies on the first of the two frames around it.
_ONE_SAMPLE = np.zeros(1, np.int32), np.array([[1, 0]], np.float32)


class Sampler(scan.Sampler):
  """A subscale model on a chip."""

  name = 'pallas'

  def __init__(self, model, params, chip, temperatures=(1.0, 1.0), block_frames: int = 16):
    """Args as of engine.Sampler."""
    super().__init__(
        model, params, temperatures, block_frames, unroll=1,
        sample=functools.partial(model.sample, draws=self._draws))
    self._chip = chip
    self._on_chip = functools.cache(lambda rows: jax.device_put(chip.weights(rows)))

  def next_block(self, state, mel_BxFxM, keys_Bx2):
    """As of Engine.

    Raises:
      RuntimeError: if the kernel gave up.
    """
    self.params = self.params | {'kernel': self._on_chip(self._rows(len(mel_BxFxM)))}
    pcm, state = super().next_block(state, mel_BxFxM, keys_Bx2)
    if np.isnan(np.asarray(state['h'][:, :, 0])).any():
      raise RuntimeError('--engine=pallas: the multiprocessors of the GPU got out of step; use '
                         '--engine=scan, and report this.')
    return pcm, state

  def score(self, state, pcm_BxN, mel_BxFxM):
    """As of Engine, by XLA from the weights as the kernel multiplies them."""
    return self._nats(self._rounded, state, pcm_BxN, mel_BxFxM)

  @functools.cached_property
  def _rounded(self):
    return checks.rounded({name: part for name, part in self.params.items() if name != 'kernel'},
                          self._chip.kind)

  def check(self, batch: int, params) -> dict[str, float]:
    """Compares a block of all lanes with the model; as engine.Sampler.check."""
    rnn, config, rows = self.model.rnn, self.model.config, self._rows(batch)
    rng, shape = np.random.default_rng(0), (config.context_block, rows)
    x = [rng.standard_normal((*shape, config.units)).astype(np.float32) for _ in 'ure']
    seen = None if self.model.timing.lanes == 1 else rng.standard_normal(
        (*shape, config.context_channels)).astype(np.float32)
    uniform = draw.uniforms(draw.keys(0, range(rows)), np.zeros(rows, np.uint32), shape[0])
    silent = np.zeros(rows, np.int16)
    h = np.zeros((rows, config.units), np.float32)
    run = jax.jit(self._launch)
    weights = self._on_chip(rows)
    pcm, *_ = run(self.params, weights, h, silent, x, uniform, self._temperatures, seen)
    *_, found = run(self.params, weights, h, silent, x, uniform, self._temperatures, seen, pcm)

    @jax.jit
    def expected(params):
      heard = rnn.hearing.sequence(jnp.concatenate([silent[None], pcm.T]).T, None)
      x_LxZxH = rnn.add_heard(params, x, heard.previous, heard.current)
      return checks.forced_logits(rnn, params, h, x_LxZxH, self._chip.dtype, seen)
    return checks.compare(found, expected(params), np.asarray(pcm).T, uniform,
                          self._temperatures, self._chip.tolerance)

  def _rows(self, batch: int) -> int:
    return batch * self.model.timing.lanes

  def _draws(self, params, carry, x_LxZxH, uniform_Lx2xZ, temperatures, context_LxZxC, live_LxZ,
             unroll):
    """`WaveRNN.draws` in one launch; a state of NaN if the kernel gave up."""
    del unroll
    h, *last = carry
    uniform = jnp.where(live_LxZ[:, None], uniform_Lx2xZ, -1)
    pcm_ZxL, h, failed, _ = self._launch(
        params, params['kernel'], h, audio.join_bytes(*last), x_LxZxH, uniform, temperatures,
        context_LxZxC)
    return (jnp.where(failed, jnp.nan, h), *audio.split_bytes(pcm_ZxL[:, -1])), pcm_ZxL.T

  def _launch(self, params, weights, h_ZxH, pcm_Z, x_LxZxH, uniform_Lx2xZ, temperatures,
              context_LxZxC=None, forced_ZxL=None):
    """Samples ZxL of all rows, the state, whether it failed, and with `forced_ZxL` the logits."""
    rows, config, multiple = len(h_ZxH), self.model.config, self._chip.multiple
    gates = operands_lib.pad_halves(jnp.concatenate(x_LxZxH, axis=-1), multiple, 3)
    gates = jnp.pad(gates, ((0, 2), (0, 0), (0, 0)))  # frames around the last, of no weight
    added = None if context_LxZxC is None else self._added(params, context_LxZxC)
    h_ZxH = operands_lib.pad_halves(h_ZxH, multiple, 1)
    made, count = [], self._chip.fit(rows)
    for first in range(0, rows, count):
      which = np.minimum(np.arange(first, first + count), rows - 1)  # filled up with copies
      made.append(self._chip.call(
          rows, weights, gates[:, which], uniform_Lx2xZ[:, :, which], h_ZxH[which], pcm_Z[which],
          _ONE_SAMPLE, temperatures, None if forced_ZxL is None else forced_ZxL[which],
          None if added is None else added[:, which]))
    pcm, h = (jnp.concatenate([piece[i] for piece in made])[:rows] for i in (0, 1))
    logits = None if forced_ZxL is None else jnp.concatenate(
        [piece[2] for piece in made], axis=1)[:, :rows]
    failed = jnp.any(jnp.stack([piece[3] for piece in made]))
    return pcm, operands_lib.crop_halves(h, config.units // 2), failed, logits

  def _added(self, params, context_LxZxC):
    """What the context adds to O_1 y_c, LxZxP padded."""
    kernel = params['outputs']['coarse']['hidden']['kernel'][self.model.config.units // 2:]
    added = products.product(context_LxZxC, kernel.astype(self._chip.dtype))
    return jnp.pad(added, ((0, 0), (0, 0), (0, -added.shape[-1] % self._chip.multiple)))
