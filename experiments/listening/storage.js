// Progress is kept in localStorage, or else in the name of this window, which survives a reload.

const STORE_KEY = `wavernn-listening:${DATA.identity}`;

const storage = {
  lasting: true,

  read() {
    let text = null;
    try {
      text = localStorage.getItem(STORE_KEY);
      localStorage.setItem(`${STORE_KEY}:probe`, '');
      localStorage.removeItem(`${STORE_KEY}:probe`);
    } catch {
      this.lasting = false;
    }
    if (!text && window.name.startsWith(STORE_KEY)) text = window.name.slice(STORE_KEY.length);
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  },

  write(state) {
    const text = JSON.stringify(state);
    if (this.lasting) {
      try {
        localStorage.setItem(STORE_KEY, text);
        return;
      } catch {  // the storage is full, or has been forbidden since
        this.lasting = false;
      }
    }
    window.name = STORE_KEY + text;
  },

  clear() {
    try {
      localStorage.removeItem(STORE_KEY);
    } catch {
      // Nothing is kept there.
    }
    window.name = '';
  },
};
