'use strict';
// Audio of the page: one clip at a time.

const DATA = JSON.parse(document.getElementById('data').textContent);

const player = {
  audio: new Audio(),
  clip: null,        // the one that is playing
  urls: new Map(),   // made on first use, so that a phone need not hold all clips at once
  onChange: () => {},  // (clip or null): another clip plays
  onProgress: () => {},  // (clip, seconds)
  onError: () => {},  // (message)

  url(clip) {
    if (!this.urls.has(clip)) {
      const text = atob(document.getElementById(`clip-${clip}`).textContent);
      const bytes = Uint8Array.from(text, c => c.charCodeAt(0));
      this.urls.set(clip, URL.createObjectURL(new Blob([bytes], {type: 'audio/wav'})));
    }
    return this.urls.get(clip);
  },

  play(clip, from = 0) {
    this.audio.pause();
    this.clip = clip;
    this.audio.src = this.url(clip);
    this.audio.onloadedmetadata = () => {
      if (from) this.audio.currentTime = from;
    };
    this.audio.play().catch(error => {
      if (this.clip !== clip || error.name === 'AbortError') return;  // another clip was started
      this.stop();
      this.onError(`This browser could not play the audio (${error.message}).`);
    });
    this.onChange(clip);
    requestAnimationFrame(() => this.tick());
  },

  stop() {
    this.audio.pause();
    this.clip = null;
    this.onChange(null);
  },

  toggle(clip) {
    if (this.clip === clip) this.stop();
    else this.play(clip);
  },

  tick() {
    if (this.clip === null) return;
    this.onProgress(this.clip, this.audio.currentTime);
    requestAnimationFrame(() => this.tick());
  },
};
player.audio.addEventListener('ended', () => player.stop());
