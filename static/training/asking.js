// Asks the server again and again where something stands, and says so where no answer comes.

export const EVERY = 2_000; // milliseconds, while something may change
const LONGEST = 30_000; // between two tries while the server cannot be reached

class Refused extends Error {}

async function ask(address, name) {
  const answer = await fetch(address, {
    headers: { Accept: "application/json" },
    cache: "no-store",
    redirect: "manual",
    signal: AbortSignal.timeout(10_000),
  });
  if (answer.type === "opaqueredirect") throw new Refused("You are logged out: load this page again to log in.");
  if (answer.status === 404) throw new Refused(`This ${name} is gone: somebody has deleted it.`);
  if (answer.status === 403) throw new Refused(`You may not see this ${name} any longer.`);
  if (!answer.ok) throw new Error(`The server answered ${answer.status}`);
  return answer.json();
}

/**
 * Show every answer, until the page is left.
 * @param {string} name what is asked about, in a word or two
 * @param {() => string} address where
 * @param {(answer: object) => number} take shows an answer, and says in how many milliseconds to ask again
 */
export function follow(name, address, take) {
  const trouble = document.querySelector("#trouble");
  let failures = 0;
  let since = null;
  let timer = null;

  async function poll() {
    clearTimeout(timer);
    let pause;
    try {
      const answer = await ask(address(), name);
      failures = 0;
      since = null;
      trouble.hidden = true;
      pause = take(answer);
    } catch (error) {
      failures += 1;
      since ??= new Date();
      pause = Math.min(LONGEST, EVERY * 2 ** (failures - 1));
      const clock = since.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      const sentence =
        error instanceof Refused
          ? error.message
          : `The server cannot be reached since ${clock}. What you see is from before; this page goes on trying.`;
      if (trouble.textContent !== sentence) trouble.textContent = sentence; // what is written is read out
      trouble.hidden = false;
    }
    timer = setTimeout(poll, pause);
  }

  // A laptop that was closed, or a window that was covered, is up to date at the first look.
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && poll());
  addEventListener("online", poll);
  timer = setTimeout(poll, EVERY);
}
