"""Batches of random crops of utterances (grain), with the audio that their mels depend on.

Nothing is preprocessed or cached on disk. A crop is read by seeking, together
with the audio around it; its mel spectrogram is computed on the device
(`crop_inputs`).
"""

import dataclasses
import multiprocessing
import os
import signal
import threading

from absl import flags
import grain
import jax.numpy as jnp
import numpy as np

from wavernn_jax import audio
from wavernn_jax.config import MelConfig
from wavernn_jax.data.corpus import Utterance

_READERS = 8  # threads that read files which are not in memory


@dataclasses.dataclass(frozen=True)
class CropShape:
  """The static shape of a crop: T samples and the frames that condition them."""

  samples: int  # T
  frames: int  # F, of the conditioning network
  margin: int  # frames before the one at the first sample
  past: int = 1  # samples before the crop that are read with it
  ahead: int = 0  # samples after the crop that are read with it

  def window(self, mel: MelConfig) -> int:
    """Samples N that F frames are computed from."""
    return (self.frames - 1) * mel.hop + mel.n_fft


def crop_shape(model, samples: int) -> CropShape:
  """The shape of crops of `samples` samples for a model."""
  timing = model.timing
  return CropShape(samples, model.frames(samples), timing.margin, timing.past, timing.ahead)


def read_crop(utterance: Utterance, start: int, shape: CropShape, mel: MelConfig):
  """One element of a batch: `pcm`, past + T + ahead samples, and the source of its mel.

  `start` is a multiple of the hop. The source is `mel` FxM if the utterance has one of
  its own; otherwise the samples `window` N, with `first_frame` and `last_frame`, the
  range of its frames that lie inside the utterance.
  """
  first = start // mel.hop - shape.margin
  total = audio.frame_count(utterance.samples, mel)
  crop = {'pcm': _read_padded(utterance, start - shape.past,
                              start + shape.samples + shape.ahead, 0, mel)}
  if utterance.mel_FxM is not None:
    rows = np.arange(first, first + shape.frames)
    inside = (rows >= 0) & (rows < total)
    crop['mel'] = np.where(inside[:, None], utterance.mel_FxM[np.clip(rows, 0, total - 1)],
                           np.float32(audio.mel_floor(mel)))
    return crop
  padding = audio.edge_padding(mel)
  begin = first * mel.hop - padding
  crop['window'] = _read_padded(utterance, begin, begin + shape.window(mel), padding, mel)
  crop['first_frame'] = np.int32(-first)
  crop['last_frame'] = np.int32(total - first)
  return crop


def _read_padded(utterance: Utterance, start: int, stop: int, padding: int, mel: MelConfig):
  """Samples of an utterance, extended by `padding` as the convention says, then by zeros."""
  total = utterance.samples
  index = np.arange(max(start, -padding), min(stop, total + padding))
  if padding and mel.pad_mode == 'reflect':
    source = np.abs(index)
    source = np.where(source >= total, 2 * (total - 1) - source, source)
    inside = np.ones(len(index), bool)
  else:
    source = np.clip(index, 0, total - 1)
    inside = (index >= 0) & (index < total)
  out = np.zeros(stop - start, np.int16)
  if len(index):
    low, high = source.min(), source.max() + 1
    pcm = utterance.read(low, high, mel.sample_rate)
    out[index[0] - start:index[-1] + 1 - start] = np.where(inside, pcm[source - low], 0)
  return out


def crop_inputs(batch, mel: MelConfig):
  """The part on the device: int16 pcm Bx(past+T+ahead) and log mel BxFxM of a batch."""
  if 'mel' in batch:
    return batch['pcm'], batch['mel']
  mel_BxFxM = audio.log_mel(batch['window'], mel)
  frame = jnp.arange(mel_BxFxM.shape[1])
  inside = ((frame >= batch['first_frame'][:, None]) & (frame < batch['last_frame'][:, None]))
  return batch['pcm'], jnp.where(inside[..., None], mel_BxFxM, audio.mel_floor(mel))


class _Slots:
  """A list of utterances in which each occurs once for every crop's worth of its audio."""

  def __init__(self, utterances, samples: int):
    counts = [max(1, round(u.samples / samples)) for u in utterances]
    self._utterances = utterances
    self._owner = np.repeat(np.arange(len(utterances)), counts)

  def __len__(self):
    return len(self._owner)

  def __getitem__(self, index):
    return self._utterances[self._owner[index]]


class CropBatches:
  """Endless batches. The number taken is their whole state.

  So a run may continue with another number of workers or hosts. `close` ends the
  workers.
  """

  def __init__(self, dataset: grain.MapDataset, options: grain.ReadOptions, workers: int):
    self._dataset, self._options, self._workers = dataset, options, workers
    self._position, self._iterator = 0, None

  def __iter__(self):
    return self

  def __next__(self):
    if self._iterator is None:
      rest = self._dataset.slice(slice(self._position, None)).to_iter_dataset(self._options)
      if self._workers:
        if not flags.FLAGS.is_parsed():
          flags.FLAGS.mark_as_parsed()  # grain reads its own flags, even if nobody parsed any
        rest = rest.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers),
                                _start_worker)
      self._iterator = iter(rest)
    batch = next(self._iterator)
    self._position += 1
    return batch

  def get_state(self) -> dict:
    return {'batches': self._position}

  def set_state(self, state: dict) -> None:
    self.close()
    self._position = state['batches']

  def close(self) -> None:
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _start_worker(index: int, count: int) -> None:
  """Leaves Ctrl-C to the parent, and ends with it even if it is killed."""
  del index, count
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
  threading.Thread(target=end_with_parent, daemon=True).start()


def crop_batches(utterances, shape: CropShape, mel: MelConfig, batch: int, seed: int,
                 workers: int = 0, shard: tuple[int, int] = (0, 1)) -> CropBatches:
  """Batches of random crops, which the seed determines.

  Every epoch visits the utterances in proportion to their length, in a new
  order; a crop starts at a random frame.

  Args:
    utterances: of `load_utterances`, none shorter than T.
    shape: of the crops.
    mel: convention.
    batch: crops of a global batch.
    seed: of order and positions.
    workers: loader processes; 0 reads in this process.
    shard: (index, count) of this process; it yields the index-th of count equal
      pieces of the global batch.
  """
  def crop(utterance, rng):
    last = (utterance.samples - shape.samples) // mel.hop
    return read_crop(utterance, int(rng.integers(last + 1)) * mel.hop, shape, mel)

  dataset = (grain.MapDataset.source(_Slots(utterances, shape.samples))
             .seed(seed).shuffle().random_map(crop).repeat()
             .batch(batch // shard[1], drop_remainder=True)
             .slice(slice(shard[0], None, shard[1])))
  in_memory = all(u.pcm is not None for u in utterances)
  options = grain.ReadOptions(num_threads=0 if in_memory else _READERS,
                              prefetch_buffer_size=0 if in_memory else 2 * _READERS)
  return CropBatches(dataset, options, workers)
