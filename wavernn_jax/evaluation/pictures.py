"""Pictures: spectrogram pairs, and curves over training. No global pyplot state."""

import io
import math
import os

import librosa
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from wavernn_jax import files
from wavernn_jax.config import MelConfig

TICKS_HZ = np.array([250, 500, 1_000, 2_000, 4_000, 8_000, 16_000])


def new_figure(width: float, height: float) -> Figure:
  """A figure of a size in inches, without global state."""
  figure = Figure(figsize=(width, height), dpi=120, layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def band_ticks(mel: MelConfig) -> tuple[np.ndarray, np.ndarray]:
  """Round frequencies within the bands, and the (fractional) band each falls in."""
  centres_M = librosa.mel_frequencies(
      mel.bands + 2, fmin=mel.fmin, fmax=mel.fmax, htk=mel.mel_scale == 'htk')[1:-1]
  hz = TICKS_HZ[(TICKS_HZ >= centres_M[0]) & (TICKS_HZ <= centres_M[-1])]
  return hz, np.interp(hz, centres_M, np.arange(mel.bands))


def colour_limits(*log_mels) -> tuple[float, float]:
  """Ends of the one colour scale of several log mels."""
  low, high = np.percentile(np.concatenate([np.ravel(x) for x in log_mels]), [1, 99.9])
  return float(low), float(high)  # a few extreme cells would eat the scale


def spectrogram_strip(log_mel_FxM: np.ndarray, limits: tuple[float, float]) -> bytes:
  """A bare PNG, one pixel a frame and band, in the colours of `spectrogram_pair`.

  Strips of equal `limits` compare; a page stretches them to one time axis.
  """
  low, high = limits
  scaled_MxF = (np.transpose(log_mel_FxM)[::-1] - low) / max(high - low, 1e-9)
  index_MxF = np.rint(np.clip(scaled_MxF, 0, 1) * 255).astype(np.uint8)
  image = Image.fromarray(index_MxF)
  colours = matplotlib.colormaps['magma'](np.arange(256), bytes=True)[:, :3]
  image.putpalette(colours.tobytes())
  file = io.BytesIO()
  image.save(file, 'PNG', optimize=True)
  return file.getvalue()


def spectrogram_pair(target_FxM: np.ndarray, synthesis_FxM: np.ndarray,
                     mel: MelConfig, title: str) -> Figure:
  """Target above synthesis: one time axis in seconds, one colour scale."""
  figure = new_figure(10, 6)
  axes = figure.subplots(2, 1, sharex=True)
  low, high = colour_limits(target_FxM, synthesis_FxM)
  hz, bands = band_ticks(mel)
  seconds_per_frame = mel.hop / mel.sample_rate
  for ax, log_mel_FxM, name in zip(
      axes, (target_FxM, synthesis_FxM), ('target', 'synthesis'), strict=True):
    image = ax.imshow(
        np.transpose(log_mel_FxM), origin='lower', aspect='auto', vmin=low, vmax=high,
        interpolation='nearest', cmap='magma',
        extent=(0, len(log_mel_FxM) * seconds_per_frame, -0.5, mel.bands - 0.5))
    ax.set_facecolor('0.85')  # beyond the end of the shorter one
    ax.set_yticks(bands, [f'{f:,}' for f in hz])
    ax.set_ylabel(f'{name}\nmel band centre (Hz)')
  axes[0].set_xlim(0, max(len(target_FxM), len(synthesis_FxM)) * seconds_per_frame)
  axes[-1].set_xlabel('seconds')
  figure.colorbar(image, ax=axes, label='log10 mel' if mel.log == '10' else 'ln mel')
  figure.suptitle(title)
  return figure


def learning_curve(rows: list[dict]) -> Figure:
  """Coarse and fine NLL over steps, from the rows of metrics.jsonl.

  A row that holds `nll_coarse` and `nll_fine` is a training row, one that holds
  `valid_nll_coarse` and `valid_nll_fine` an evaluation; others are skipped.
  """
  figure = new_figure(10, 4)
  for ax, byte in zip(figure.subplots(1, 2), ('coarse', 'fine'), strict=True):
    for key, label, style in ((f'nll_{byte}', 'train', {'alpha': 0.5, 'linewidth': 1}),
                              (f'valid_nll_{byte}', 'valid', {'marker': 'o', 'markersize': 4})):
      points = {row['step']: row[key] for row in rows if key in row}  # a resumed run repeats
      steps = sorted(points)
      ax.plot(steps, [points[step] for step in steps], label=label, **style)
    low, high = ax.get_ylim()
    if low <= math.log(256) <= high:
      ax.axhline(math.log(256), color='0.4', linestyle='--', label='uniform')
    ax.set(title=f'{byte} byte', xlabel='step', ylabel='NLL (nats/sample)')
    ax.xaxis.set_major_formatter('{x:,.0f}')
    ax.grid(alpha=0.3)
    ax.legend()
  return figure


def corpus_survey(files) -> Figure:
  """Lengths, levels, noise floors and the coarse bytes of recordings (of survey.py)."""
  figure = new_figure(10, 6)
  lengths, levels, bytes_axis, clipping = figure.subplots(2, 2).ravel()
  lengths.hist([f.seconds for f in files], bins=30)
  lengths.set(title='lengths', xlabel='seconds', ylabel='files')
  for name, label in (('peak_db', 'peak'), ('speech_db', 'speech'), ('noise_db', 'noise floor')):
    values = [getattr(f, name) for f in files]
    levels.hist([v for v in values if math.isfinite(v)], bins=30, alpha=0.6, label=label)
  levels.set(title='levels', xlabel='dB, 0 is full scale', ylabel='files')
  levels.legend()
  bytes_axis.semilogy(np.maximum(sum(f.coarse for f in files), 0.5), drawstyle='steps-mid')
  bytes_axis.set(title='coarse bytes',
                 xlabel='coarse byte', ylabel='samples')
  clipping.scatter([100 * f.silence for f in files], [f.clipped for f in files], s=8)
  clipping.set(title='silence and clipping, a point for each file', xlabel='silence (%)',
               ylabel='clipped samples')
  for ax in figure.axes:
    ax.grid(alpha=0.3)
  return figure


def voice_curve(rows: list[dict], samples_per_step: int) -> Figure:
  """Voicing F1 and periodicity over training samples seen, from the rows of metrics.jsonl.

  Args:
    rows: those of `metrics.valid_scalars` are used, others are skipped.
    samples_per_step: of a training step.
  """
  figure = new_figure(6, 4)
  ax = figure.subplots()
  for key, label, style in (
      ('valid_voicing_f1', 'voicing F1', {'marker': 'o', 'markersize': 4}),
      ('valid_periodicity', 'periodicity', {'marker': 's', 'markersize': 4}),
      ('valid_periodicity_target', 'periodicity of the recordings',
       {'color': '0.4', 'linestyle': '--'})):
    points = {row['step']: row[key] for row in rows if key in row}  # a resumed run repeats
    steps = sorted(points)
    ax.plot([step * samples_per_step / 1e6 for step in steps],
            [points[step] for step in steps], label=label, **style)
  ax.set(xlabel='samples seen (millions)', ylim=(0, 1.02), title='copies of valid utterances')
  ax.xaxis.set_major_formatter('{x:,g}')
  ax.grid(alpha=0.3)
  ax.legend()
  return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a PNG; a reader finds the old file or the whole new one."""
  with files.replacing(path) as file:
    figure.savefig(file, format='png')


def to_array(figure: Figure) -> np.ndarray:
  """Pixels HxWx3 uint8, as TensorBoard takes them."""
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
