"""Curves and spectrogram pairs, and that they are written at once."""

import functools
import math

import librosa
import numpy as np
import pytest

from wavernn_jax.config import MelConfig
from wavernn_jax.errors import InputError
from wavernn_jax.evaluation import pictures


def _rows(fine: float) -> list[dict]:
  train = [{'step': s, 'nll': 6.0, 'nll_coarse': 1.0 + 1 / s, 'nll_fine': fine}
           for s in (1, 2, 3)]
  return train + [{'step': 3, 'valid_nll_coarse': 1.2, 'valid_nll_fine': 5.3},
                  {'step': 2, 'nll_coarse': 9.0, 'nll_fine': fine}, {'step': 9, 'other': 1}]


def test_learning_curve_plots_each_byte_and_the_uniform_line_in_range():
  coarse, fine = pictures.learning_curve(_rows(fine=5.6)).axes
  train, valid, uniform = fine.lines
  assert train.get_xydata().tolist() == [[1, 5.6], [2, 5.6], [3, 5.6]]
  assert valid.get_xydata().tolist() == [[3, 5.3]]
  assert uniform.get_ydata()[0] == pytest.approx(math.log(256))
  assert coarse.lines[0].get_xydata()[1].tolist() == [2, 9.0]  # the later row of a step
  assert len(pictures.learning_curve(_rows(fine=5.4)).axes[1].lines) == 2
  pictures.to_array(pictures.learning_curve([]))


def test_voice_curve_is_over_samples_seen():
  rows = [{'step': 10, 'valid_voicing_f1': 0.1, 'valid_periodicity': 0.2,
           'valid_periodicity_target': 0.9},
          {'step': 5, 'nll': 6.0}, {'step': 20, 'valid_periodicity': 0.5},  # no voice in F1
          {'step': 10, 'valid_voicing_f1': 0.3}]
  f1, periodicity, target = pictures.voice_curve(rows, samples_per_step=200_000).axes[0].lines
  assert f1.get_xydata().tolist() == [[2, 0.3]]
  assert periodicity.get_xydata().tolist() == [[2, 0.2], [4, 0.5]]
  assert target.get_xydata().tolist() == [[2, 0.9]]
  pictures.to_array(pictures.voice_curve([], 1))


def test_spectrogram_pair_shares_scale_and_time():
  mel = MelConfig()
  target_FxM = np.random.default_rng(0).normal(size=(80, mel.bands))
  draw = functools.partial(pictures.spectrogram_pair, target_FxM, mel=mel, title='x')
  top, bottom = draw(target_FxM[:40] - 5).axes[:2]
  assert top.images[0].get_clim() == bottom.images[0].get_clim()
  np.testing.assert_array_equal(top.images[0].get_array(), target_FxM.T)
  assert bottom.get_xlim() == (0, 1.0)  # 80 frames of 300 samples at 24 kHz
  assert bottom.images[0].get_extent()[1] == 0.5
  band = dict(zip([t.get_text() for t in top.get_yticklabels()], top.get_yticks(), strict=True))
  edges_hz = librosa.mel_frequencies(mel.bands + 2, fmin=mel.fmin, fmax=mel.fmax)
  nearest = np.argmin(np.abs(edges_hz - 4_000)) - 1
  assert band['4,000'] == pytest.approx(nearest, abs=0.5)


def test_save_is_atomic(tmp_path, monkeypatch):
  figure, path = pictures.learning_curve(_rows(5.6)), tmp_path / 'curve.png'
  pictures.save(figure, path)
  old = path.read_bytes()
  assert old.startswith(b'\x89PNG')
  array = pictures.to_array(figure)
  assert array.dtype == np.uint8 and array.shape == (480, 1200, 3) and array.min() < 50

  def full(file, **_):
    file.write(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(figure, 'savefig', full)
  with pytest.raises(InputError, match='curve.png: cannot be written .disk full'):
    pictures.save(figure, path)
  assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
