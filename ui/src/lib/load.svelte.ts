// A question to the hub that a page shows the answer of, asked again while the page lives.
//
// Invariants: only the newest question counts, older ones are aborted; a failed refresh keeps the last good answer
// beside the error, and the page says that it is old.
import { ApiError } from './api';

export class Load<T> {
  data = $state.raw<T | null>(null);
  error = $state.raw<ApiError | null>(null);
  busy = $state(false);
  #abort: AbortController | null = null;

  /** Asks. `clear` forgets the last answer first: another question, not a newer answer to the same one. */
  async ask(question: (s: AbortSignal) => Promise<T>, clear = false): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    if (clear) {
      this.data = null;
      this.error = null;
    }
    this.busy = true;
    try {
      const data = await question(abort.signal);
      if (abort.signal.aborted) return;
      this.data = data;
      this.error = null;
    } catch (e) {
      if (abort.signal.aborted) return;
      this.error = e instanceof ApiError ? e : new ApiError(0, e instanceof Error ? e.message : String(e));
    } finally {
      if (this.#abort === abort) this.busy = false;
    }
  }
  /** Asks unless an answer is under way: for refreshing, so that a slow hub is not asked ever again. */
  refresh(question: (s: AbortSignal) => Promise<T>): void {
    if (!this.busy) void this.ask(question);
  }
  cancel(): void {
    this.#abort?.abort();
    this.busy = false;
  }
  set(data: T): void {
    this.cancel();
    this.data = data;
    this.error = null;
  }
}
