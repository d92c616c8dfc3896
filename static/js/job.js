// The panel of a job: asks how far it is, says so, and loads the page again when it has ended.
// Its sentences come from the server, in the page's language.

const job = document.querySelector("#job");
const bar = job.querySelector("progress");
const says = job.querySelector(".says");
const status = job.querySelector("[role=status]");

const ASK_EVERY = 1000; // milliseconds
const ASK_LOST = 5000;

/** What was last said aloud: a screen reader hears of a new state and of every tenth part, not every second. */
let spoken = "";

function show({ state, done, total, sentence }) {
  if (total) {
    bar.max = total;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  says.textContent = sentence;
  const step = `${state} ${total ? Math.floor((10 * done) / total) : ""}`;
  if (step !== spoken) status.textContent = sentence;
  spoken = step;
}

async function ask() {
  let pause = ASK_EVERY;
  try {
    const response = await fetch(job.dataset.progress, { headers: { Accept: "application/json" } });
    if (response.status === 404) return location.reload(); // deleted elsewhere: its page says so
    if (!response.ok) throw new Error(response.statusText);
    const report = await response.json();
    if (!["queued", "running"].includes(report.state)) return location.reload();
    show(report);
  } catch {
    says.textContent = job.dataset.lost;
    pause = ASK_LOST;
  }
  setTimeout(ask, pause);
}

setTimeout(ask, ASK_EVERY);
