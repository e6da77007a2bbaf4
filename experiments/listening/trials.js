// What a listener hears in which order: a function of the seed alone.

const MOS = ['Bad', 'Poor', 'Fair', 'Good', 'Excellent'];  // 1..5
const AB = [  // -3..3: positive where B is better
  'A is much better', 'A is better', 'A is slightly better', 'They are about the same',
  'B is slightly better', 'B is better', 'B is much better'];

function randomNumbers(seed) {  // mulberry32: [0, 1)
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let x = Math.imul(state ^ state >>> 15, state | 1);
    x ^= x + Math.imul(x ^ x >>> 7, x | 61);
    return ((x ^ x >>> 14) >>> 0) / 2 ** 32;
  };
}

function shuffle(items, random) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}

// {kind, sentence, text, names, clips}: one name to rate, or two to compare, A and then B.
function makeTrials(seed) {
  const random = randomNumbers(seed);
  const trial = (kind, sentence, names) => ({
    kind, sentence: sentence.id, text: sentence.text, names,
    clips: names.map(name => sentence.clips[name])});
  const single = DATA.sentences.flatMap(
    sentence => Object.keys(sentence.clips).map(name => trial('mos', sentence, [name])));
  const double = DATA.sentences.flatMap(sentence => DATA.pairs
    .filter(pair => pair.every(name => name in sentence.clips))
    .map(pair => trial('ab', sentence, shuffle([...pair], random))));
  return [...shuffle(single, random), ...shuffle(double, random)];
}

function keyOf({kind, sentence, names}) {  // the same whichever of the two is A
  return JSON.stringify([kind, sentence, ...[...names].sort()]);
}
