// The blind listening test: an introduction, one page for each trial, and the systems' names.

const testView = document.getElementById('test');
let state = null;  // what `storage` keeps
let trials = [];
let problem = '';  // with the last import or playback; shown until the next page
let since = 0;  // when this trial was shown
let shown = null;  // the elements of the trial on the page

const now = () => new Date().toISOString();
const randomHex = bytes => [...crypto.getRandomValues(new Uint8Array(bytes))]
  .map(byte => byte.toString(16).padStart(2, '0')).join('');

function newState() {
  return {report: DATA.identity, session: randomHex(8), listener: `listener-${randomHex(2)}`,
          seed: crypto.getRandomValues(new Uint32Array(1))[0], created: now(), finished: null,
          current: -1, ratings: {}, heard: {}};
}

function begin(given) {
  state = given;
  trials = makeTrials(state.seed);
}

function keep() {
  storage.write(state);
}

const ratingOf = trial => state.ratings[keyOf(trial)];
const ratedCount = () => trials.filter(ratingOf).length;

function heardOf(trial) {  // how often each clip of a trial was played
  return state.heard[keyOf(trial)] ?? ratingOf(trial)?.plays ?? trial.names.map(() => 0);
}

// What the listener does

function resume() {
  const open = trials.findIndex(trial => !ratingOf(trial));
  go(open < 0 ? trials.length : open);
}

function go(position) {
  if (position > 0 && trials.slice(0, position).some(trial => !ratingOf(trial))) return;
  if (state.finished && position < trials.length) return;  // the listener has seen the names
  state.current = position;
  if (position >= trials.length) state.finished ??= now();
  problem = '';
  keep();
  render();
  window.scrollTo(0, 0);
}

function playTrial(i) {
  const {trial, players} = shown;
  if (player.clip !== players[i].clip) {
    state.heard[keyOf(trial)] = heardOf(trial).map((times, j) => times + (i === j));
    keep();
  }
  shown.last = i;
  player.toggle(players[i].clip);
  refresh();
}

function rate(value) {
  const {trial} = shown;
  const heard = heardOf(trial);
  if (heard.includes(0)) return;
  const before = ratingOf(trial)?.milliseconds ?? 0;
  state.ratings[keyOf(trial)] = {
    trial: trials.indexOf(trial) + 1, kind: trial.kind, sentence: trial.sentence,
    names: trial.names, value, plays: heard,
    milliseconds: before + Math.round(performance.now() - since), time: now()};
  since = performance.now();
  keep();
  refresh();
}

function refresh() {
  const {trial, choices, next} = shown;
  const ready = !heardOf(trial).includes(0);
  const value = ratingOf(trial)?.value ?? null;
  for (const choice of choices) {
    choice.element.disabled = !ready;
    choice.element.setAttribute('aria-pressed', `${choice.value === value}`);
  }
  next.disabled = value === null;
  document.getElementById('hint').textContent = ready ? '' :
    trial.kind === 'mos' ? 'Listen first, then rate.' : 'Listen to both, then rate.';
  testView.querySelector('progress').value = ratedCount();
}

const PAGES = {
  ' '() {
    const {players, last = -1} = shown;
    playTrial(player.clip !== null ? last : (last + 1) % players.length);
  },
  p: () => PAGES[' '](),
  a: () => playTrial(0),
  b: () => shown.players.length > 1 && playTrial(1),
  enter: () => shown.next.disabled || shown.next.click(),
  arrowright: () => PAGES.enter(),
  n: () => PAGES.enter(),
  arrowleft: () => go(state.current - 1),
};

document.addEventListener('keydown', event => {
  if (testView.hidden || !shown || event.ctrlKey || event.altKey || event.metaKey) return;
  const name = event.key.toLowerCase();
  const inside = event.target.closest('input, summary, a, button');
  if (inside && (inside.tagName === 'INPUT' || name === ' ' || name === 'enter')) return;
  const choice = shown.choices[Number(name) - 1];
  if (choice) rate(choice.value);
  else if (name in PAGES) PAGES[name]();
  else return;
  event.preventDefault();
});
document.addEventListener('click', event => {  // the focus stays on the page, for its keys
  if (event.detail > 0) event.target.closest('#test button')?.blur();
});

// Which view

function listenToTest() {
  player.onChange = clip => {
    for (const {play, clip: own} of shown?.players ?? []) {
      play.classList.toggle('playing', own === clip);
    }
  };
  player.onProgress = (clip, seconds) => {
    const playing = shown?.players.find(({clip: own}) => own === clip);
    if (playing) playing.bar.style.width = `${100 * seconds / (player.audio.duration || 1)}%`;
  };
  player.onError = message => {
    problem = message;
    render();
  };
}

function render() {
  player.stop();
  shown = null;
  since = performance.now();
  const trial = trials[state.current];
  const page = state.current < 0 ? introPage() : trial ? trialPage(trial) : endPage();
  testView.replaceChildren(...page);
  if (trial) refresh();
}

function show() {
  const test = DATA.listeningOnly || location.hash === '#test';
  player.stop();
  testView.hidden = !test;
  if (!test) {
    testView.replaceChildren();
    document.body.prepend(reportView);
    document.title = DATA.title;
    listenToReport();
    return;
  }
  reportView.remove();  // so that nothing on the page names the systems
  document.title = 'Blind listening test';
  listenToTest();
  if (!state) {
    const kept = storage.read();
    const whole = kept?.report === DATA.identity && kept.ratings && kept.heard;
    begin(whole ? kept : newState());
    keep();
  }
  render();
}

addEventListener('hashchange', show);
show();
