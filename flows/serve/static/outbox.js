// Decisions on their way to the server. Each is written to the browser's storage first and removed
// when the server has confirmed that it is on the disk, so neither a reload, nor a crash of the
// browser, nor a server that is gone loses one. Sending a decision twice counts once.

const MOST = 200; // decisions in one request
const MOST_LETTERS = 250000; // of them, which are four bytes at most; a request may have a megabyte
const LONGEST_WAIT = 15000; // ms between two tries

export class Outbox {
  // `address` takes the decisions; `key` names the version in the storage. `report` is called with
  // what has changed: {state, message} with "idle", "sending", "away" (it will be sent again) or
  // "refused", and `confirmed` with the answer and the batches that it confirms.
  constructor(address, key, report, confirmed) {
    Object.assign(this, { address, report, confirmed, prefix: `anomalysmith.outbox:${key}:` });
    this.batches = this.stored();
    this.busy = false;
    this.wait = 1000;
    Object.assign(this, { state: "idle", message: "" });
    addEventListener("online", () => this.send());
  }

  // Batches that were left behind, by this page before a reload or by a tab that is gone.
  stored() {
    try {
      const keys = Object.keys(localStorage).filter(key => key.startsWith(this.prefix)).sort();
      return keys.map(key => ({ key, ...JSON.parse(localStorage.getItem(key)) }));
    } catch { return []; }
  }

  get waiting() { return this.batches.reduce((sum, batch) => sum + batch.decisions.length, 0); }

  // Decisions of one key press; `pressed` is when it was pressed, for measuring.
  add(reviewer, decisions, pressed) {
    const key = this.prefix + decisions[0].at + Math.random().toString(36).slice(2, 8);
    try {
      localStorage.setItem(key, JSON.stringify({ reviewer, decisions }));
    } catch { /* A full or forbidden storage: it is sent all the same, from memory. */ }
    this.batches.push({ key, reviewer, decisions, pressed });
    if (this.state !== "refused") this.send();
  }

  async send() {
    if (this.busy || !this.batches.length) return;
    this.busy = true;
    clearTimeout(this.timer);
    while (this.batches.length) {
      const [first] = this.batches;
      let now = [], letters = 0;
      for (const batch of this.batches) {
        const size = now.reduce((sum, other) => sum + other.decisions.length, 0);
        letters += JSON.stringify(batch.decisions).length;
        const full = size + batch.decisions.length > MOST || letters > MOST_LETTERS;
        if (batch.reviewer !== first.reviewer || (now.length && full)) break;
        now.push(batch);
      }
      if (this.state !== "away") this.tell("sending");
      const failed = await this.post(first.reviewer, now);
      if (failed) {
        this.tell(failed.final ? "refused" : "away", failed.message);
        if (!failed.final) {
          this.timer = setTimeout(() => this.send(), this.wait);
          this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
        }
        break;
      }
      this.wait = 1000;
    }
    this.busy = false;
    if (!this.batches.length) this.tell("idle");
  }

  // One request; what went wrong, or nothing.
  async post(reviewer, batches) {
    const decisions = batches.flatMap(batch => batch.decisions);
    let answer;
    try {
      const response = await fetch(this.address, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ reviewer, decisions }),
      });
      if (response.status === 401) return { message: "The server was started anew: open the address that it printed, in this browser." };
      if (!response.ok) {
        const text = await response.text();
        let said = text;
        try { said = JSON.parse(text).error ?? text; } catch { /* plain text */ }
        if (response.status >= 500) return { message: `The server has a problem (${response.status}): ${said.trim()}.` };
        return { final: true, message: said.trim() };
      }
      answer = await response.json();
    } catch {
      return { message: "The server does not answer." };
    }
    this.batches = this.batches.filter(batch => !batches.includes(batch));
    for (const batch of batches) this.forget(batch);
    this.confirmed(answer, batches);
  }

  forget(batch) {
    try { localStorage.removeItem(batch.key); } catch { /* as above */ }
  }

  // Give up what the server refuses; returns the decisions.
  discard() {
    const gone = this.batches;
    gone.forEach(batch => this.forget(batch));
    this.batches = [];
    this.tell("idle");
    return gone.flatMap(batch => batch.decisions);
  }

  tell(state, message = "") {
    Object.assign(this, { state, message });
    this.report(state, message);
  }
}
