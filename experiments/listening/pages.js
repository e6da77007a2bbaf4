// What the test shows: the introduction, a trial, and at the end the names of the systems.

function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const button = (text, onclick, properties = {}) =>
  el('button', {type: 'button', onclick, ...properties}, text);
const signed = (value, mos) =>
  mos || value === 0 ? `${value}` : `${value < 0 ? '−' : '+'}${Math.abs(value)}`;
const key = name => el('kbd', {}, name);

function notices() {
  const texts = storage.lasting ? [] : [
    'This browser keeps no data for this page (a private window, or storage is switched off). ' +
    'Your ratings last as long as this tab is open: save them to a file before you close it.'];
  if (problem) texts.push(problem);
  return texts.map(text => el('p', {className: 'notice', role: 'alert'}, text));
}

function exports() {
  const stem = `${state.listener.replace(/[^\w-]+/g, '_')}-${DATA.identity.slice(0, 8)}`;
  return el('div', {className: 'row'},
    button('Save ratings (JSON)', () =>
      download(`ratings-${stem}.json`, exportJson(state), 'application/json'), {id: 'save-json'}),
    button('MOS as CSV (webMUSHRA)', () =>
      download(`lss-${stem}.csv`, exportLikert(state), 'text/csv'), {id: 'save-mos'}),
    button('A/B as CSV (webMUSHRA)', () =>
      download(`paired_comparison-${stem}.csv`, exportPaired(state), 'text/csv'),
      {id: 'save-ab'}));
}

function importer() {
  const input = el('input', {type: 'file', id: 'load', accept: '.json,application/json'});
  input.onchange = async () => {
    const [file] = input.files;
    problem = '';
    try {
      begin(importJson(await file.text()));
      keep();
    } catch (error) {
      problem = `${file.name} was not taken over: ${error.message}`;
    }
    render();
  };
  return el('label', {className: 'file'}, 'Go on from a saved file (JSON)', input);
}

function startOver() {
  if (!confirm('Forget the ratings on this device? Save them to a file first.')) return;
  storage.clear();
  begin(newState());
  keep();
  render();
}

function introPage() {
  const name = el('input', {type: 'text', id: 'listener', value: state.listener, maxLength: 60,
                            autocomplete: 'off', spellcheck: false});
  name.onchange = () => {
    state.listener = name.value.trim() || `listener-${randomHex(2)}`;
    keep();
  };
  const singles = trials.filter(trial => trial.kind === 'mos').length;
  const started = ratedCount() > 0;
  const check = DATA.sentences[0].clips[DATA.recording];
  return [
    el('h1', {}, 'Blind listening test'), ...notices(),
    el('div', {className: 'card'},
      el('ol', {},
        el('li', {}, 'Use headphones in a quiet room. ',
           button('Play a recording', () => player.toggle(check), {id: 'volume'}),
           ' and set a comfortable volume; leave it there.'),
        el('li', {}, `In ${singles} trials you rate how natural one voice sounds, from 1 (bad) ` +
           'to 5 (excellent).'),
        el('li', {}, `In ${trials.length - singles} trials you compare two versions of a ` +
           'sentence: which one is better, and by how much.')),
      el('p', {className: 'quiet'}, 'The order is random, and what you hear is not named until ' +
         'you have rated everything. You may stop at any time and go on later.'),
      el('p', {className: 'keys quiet'}, key('Space'), ' play or stop · ', key('A'), ' ', key('B'),
         ' play one of two · ', key('1'), '–', key('7'), ' rate · ', key('Enter'), ' or ',
         key('→'), ' next · ', key('←'), ' back'),
      el('label', {className: 'field'}, el('span', {}, 'Your name, or any other id'), name),
      el('div', {className: 'row'},
        button(started ? `Go on (${ratedCount()} of ${trials.length} rated)` : 'Start', resume,
               {className: 'action', id: 'start'}), importer())),
    leaveLinks()];
}

function trialPage(trial) {
  const position = trials.indexOf(trial);
  const mos = trial.kind === 'mos';
  const labels = mos ? ['Play'] : ['A', 'B'];
  const players = trial.clips.map((clip, i) => {
    const play = button('', () => playTrial(i), {
      className: 'play', 'aria-label': mos ? 'Play' : `Play ${labels[i]}`});
    const bar = el('div');
    return {clip, play, bar, box: el('div', {className: 'player'}, play,
      el('div', {className: 'bar'}, bar),
      el('b', {}, mos ? '' : labels[i], mos ? key('Space') : key(labels[i])))};
  });
  const choices = (mos ? MOS : AB).map((label, i) => {
    const value = mos ? i + 1 : i - 3;
    const element = button('', () => rate(value), {'data-value': `${value}`});
    element.append(el('b', {}, signed(value, mos)), label, mos ? '' : key(`${i + 1}`));
    return {value, element};
  });
  const back = button('Back', () => go(position - 1));
  const next = button('Next', () => go(position + 1), {id: 'next', className: 'action'});
  shown = {trial, players, choices, next};
  return [
    el('div', {className: 'where quiet'}, el('span', {}, mos ? 'How natural does this sound?' :
      'Which one is better?'), el('span', {id: 'position'}, `${position + 1} / ${trials.length}`)),
    el('progress', {max: trials.length, value: ratedCount(), 'aria-label': 'Rated so far'}),
    ...notices(),
    el('div', {className: 'card'},
      el('p', {className: 'say'}, trial.text ? `“${trial.text}”` : ''),
      el('div', {className: 'players'}, ...players.map(({box}) => box)),
      el('p', {className: 'quiet', id: 'hint', role: 'status'}),
      el('div', {className: 'scale', role: 'group', 'aria-label': 'Rating'},
        ...(mos ? [...choices].reverse() : choices).map(({element}) => element)),
      el('div', {className: 'steps'}, back, next)),
    el('details', {}, el('summary', {}, 'Pause or save'),
      el('p', {className: 'quiet'}, storage.lasting ?
        'Close the page whenever you like; it goes on here. ' : '',
        'The file names what you have heard: do not read it before you have finished.'),
      exports(), leaveLinks())];
}

function endPage() {
  return [
    el('h1', {}, 'Thank you'), ...notices(),
    el('p', {}, `${state.listener} has given all ${trials.length} ratings. Please save them and ` +
       'send the file to whoever asked you to listen.'),
    exports(),
    el('h2', {}, 'What you heard'),
    ...resultTable('mos', 'Your mean opinion, 1 (bad) to 5 (excellent).'),
    ...resultTable('ab', 'Your mean preference, −3 (the first is much better) to +3 (the second ' +
                   'is).'),
    el('div', {className: 'row'}, importer(),
       button('Start over for another listener', startOver, {id: 'over'})),
    leaveLinks()];
}

function resultTable(kind, caption) {
  const order = [DATA.recording, ...DATA.systems];
  const groups = new Map();  // keyed by place in the report
  for (const rating of Object.values(state.ratings).filter(rating => rating.kind === kind)) {
    const places = rating.names.map(name => order.indexOf(name));
    const swapped = places.length > 1 && places[0] > places[1];
    if (swapped) places.reverse();
    const place = places.reduce((sum, i) => sum * order.length + i, 0);
    const title = places.map(i => order[i]).join(' / ');
    if (!groups.has(place)) groups.set(place, {title, values: []});
    groups.get(place).values.push(swapped ? 0 - rating.value : rating.value);
  }
  if (!groups.size) return [];
  const rows = [...groups].sort(([a], [b]) => a - b).map(([, {title, values}]) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return el('tr', {}, el('td', {}, title), el('td', {className: 'number'}, mean.toFixed(2)),
              el('td', {className: 'number'}, `${values.length}`));
  });
  const head = el('tr', {}, el('th', {}, kind === 'mos' ? 'version' : 'pair'),
                  el('th', {className: 'number'}, 'mean'), el('th', {className: 'number'}, 'n'));
  return [el('p', {className: 'note'}, caption), el('div', {className: 'wide results'},
    el('table', {}, el('thead', {}, head), el('tbody', {}, ...rows)))];
}

function leaveLinks() {
  if (DATA.listeningOnly) return '';
  return el('p', {}, el('a', {href: '#report'}, state.finished ? 'To the report' :
    'Leave the test: the report names the systems'));
}
