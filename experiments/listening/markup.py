"""The report's part of a page: HTML text, all values escaped."""

import base64
import html
import string

from experiments.listening import document, media, tables
from wavernn_jax.evaluation import pictures


def fill(template: str, title: str, **parts: str) -> str:
  """The template with its $names replaced; all but the title are markup already."""
  return string.Template(template).substitute(parts, title=html.escape(title))


def report(report: document.Report, sentences: list[dict]) -> str:
  """Tables, plots and sentences.

  Args:
    report: the one that it belongs to.
    sentences: of each, the numbers of its clips by name.
  """
  mel = report.mel or media.display_mel(report.sample_rate)
  parts = [f'<p class="note">{html.escape(report.note)}</p>' if report.note else '']
  parts += [tables.markup(table) for table in report.tables]
  parts += [_plot(plot) for plot in report.plots]
  parts += [_systems(report.systems)]
  parts += [_sentence(report, sentence, numbered['clips'], mel)
            for sentence, numbered in zip(report.sentences, sentences, strict=True)]
  return '\n'.join(parts)


def _plot(plot: document.Plot) -> str:
  title = html.escape(plot.title)
  return (f'<section><h2>{title}</h2><figure><img class="plot" alt="{title}" loading="lazy" '
          f'src="{_png(plot.png)}"><figcaption>{html.escape(plot.note)}</figcaption></figure>'
          '</section>')


def _png(png: bytes) -> str:
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'


# Sentences


def _systems(systems) -> str:
  described = ''.join(f'<dt>{html.escape(s.name)}</dt><dd>{html.escape(s.description)}</dd>'
                      for s in systems if s.description)
  shown = ''.join(
      f'<label><input type="checkbox" checked value="{i}">{html.escape(s.name)}</label>'
      for i, s in enumerate(systems))
  return ('<section id="listen"><h2>Listen</h2>'
          f'{f"<dl>{described}</dl>" if described else ""}'
          '<p class="note">A click on a spectrogram plays from there. While one version plays, '
          'the button of another goes on at the same moment. All spectrograms of a sentence '
          'have one time axis and one colour scale.</p>'
          f'<fieldset id="shown"><legend>Show</legend>{shown}</fieldset></section>')


def _sentence(report, sentence: document.Sentence, numbers: dict, mel) -> str:
  names = [system.name for system in report.systems]
  strips = media.strips(document.clips_of(sentence, names), mel)
  rows = []
  for i, name in enumerate([document.RECORDING, *names], -1):  # the recording is always shown
    system = f' data-system="{i}"' if i >= 0 else ''
    if name in numbers:
      png, share = strips[name]
      seconds = share * _longest(sentence, names) / report.sample_rate
      rows.append(_version(name, sentence.id, numbers[name], png, share, seconds, system, mel))
    else:
      reason = html.escape(sentence.syntheses.get(name, 'it was not made'))
      rows.append(f'<div class="version gap"{system}><div class="label"><b>{html.escape(name)}</b>'
                  f'</div><p class="missing">missing: {reason}</p></div>')
  axis = _time_axis(_longest(sentence, names) / report.sample_rate)
  return (f'<section class="sentence"><h3>{html.escape(sentence.id)}</h3>'
          f'<p class="text">{html.escape(sentence.text)}</p>{"".join(rows)}{axis}</section>')


def _longest(sentence, names) -> int:
  return max(len(pcm) for pcm in document.clips_of(sentence, names).values())


def _version(name, id, number, png, share, seconds, system, mel) -> str:
  name, id = html.escape(name), html.escape(id)
  ticks = ''.join(
      f'<i style="bottom:{100 * (band + 0.5) / mel.bands:.2f}%">{_kilohertz(hz)}</i>'
      for hz, band in zip(*pictures.band_ticks(mel), strict=True) if hz >= 1_000)
  return (f'<div class="version" data-clip="{number}" data-seconds="{seconds:.4f}"{system}>'
          f'<div class="label"><button type="button" class="play" aria-label="Play {name}, {id}">'
          f'</button><b>{name}</b> <span>{seconds:.2f} s</span></div>'
          f'<div class="track"><div class="strip" style="width:{100 * share:.3f}%">'
          f'<img alt="Spectrogram of {name}, {id}" src="{_png(png)}">{ticks}'
          '<div class="cursor"></div></div></div></div>')


def _kilohertz(hz) -> str:
  return f'{hz / 1000:g}k'


def _time_axis(seconds: float) -> str:
  step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60) if seconds / s <= 8), 120)
  ticks = ''.join(f'<i style="left:{100 * k * step / seconds:.3f}%">{k * step:g}</i>'
                  for k in range(int(seconds / step * 0.97) + 1))
  return ('<div class="version axis"><div class="label">seconds</div>'
          f'<div class="track">{ticks}</div></div>')
