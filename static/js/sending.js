// A form that sends large files: drop, what was chosen, how far the sending has come, and a way to stop it.
// Without this script the form still works as it stands in the page. Its texts are in the page.

const language = document.documentElement.lang;

export const unit = (value, name, digits = 0) =>
  new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: digits }).format(value);

function duration(seconds) {
  return seconds < 90 ? unit(Math.max(1, Math.round(seconds)), "second") : unit(Math.round(seconds / 60), "minute");
}

/** Asks whoever leaves the page while something is being sent, and would be lost. */
export const ask = (event) => event.preventDefault();

/**
 * What is said of how far the sending is: shown at once, and said aloud once a step, not at every percent.
 * @param {HTMLElement} progress where it stands
 */
export function teller(progress) {
  const says = progress.querySelector(".says");
  const status = progress.querySelector("[role=status]");
  let spoken;
  return (sentence, step = sentence) => {
    says.textContent = sentence;
    if (step !== spoken) status.textContent = sentence;
    spoken = step;
  };
}

/**
 * The files that were dropped or pasted, and whether a folder was among them: a browser hands one over as a
 * file, whose sending then breaks off.
 * @param {DataTransfer} transfer
 * @returns {{files: File[], folder: boolean}}
 */
export function carried({ items }) {
  const all = [...items].filter(({ kind }) => kind === "file");
  const files = all.filter((item) => !item.webkitGetAsEntry()?.isDirectory);
  return { files: files.map((item) => item.getAsFile()), folder: files.length < all.length };
}

/**
 * The name of the sentence for a refusal that came without one.
 * @param {number} code its status
 * @param {boolean} arrived whether everything had been sent: the site may then keep it, without our knowing
 */
export function reason(code, arrived) {
  if ([0, 502, 504].includes(code)) return arrived ? "unsure" : "lost"; // the latter two are a proxy's
  return { 403: "old", 413: "tooLarge", 429: "hasty" }[code] ?? "broken";
}

/**
 * Bring the page's form to life.
 * @param {HTMLInputElement} input where its files are chosen
 * @param {(files: File[], texts: DOMStringMap) => {name: string, problem?: string}} describe what is shown of
 *   the files chosen, and why they cannot be sent
 */
export function bringToLife(input, describe) {
  const form = document.querySelector("#upload");
  const problem = form.querySelector("#problem");
  const chosen = form.querySelector("#chosen");
  const send = form.querySelector("#send");
  const progress = form.querySelector("#progress");
  const bar = progress.querySelector("progress");
  const stop = progress.querySelector("#stop");
  const tell = teller(progress);
  const texts = form.dataset;

  function complain(sentence) {
    problem.querySelector("p").textContent = sentence;
    problem.hidden = false;
  }

  function refresh() {
    const files = [...input.files];
    chosen.hidden = !files.length;
    send.disabled = !files.length;
    if (!files.length) return;
    const { name, problem: why } = describe(files, texts);
    chosen.querySelector(".name").textContent = name;
    const megabytes = files.reduce((sum, file) => sum + file.size, 0) / 1e6;
    chosen.querySelector("small").textContent = unit(Math.max(0.1, megabytes), "megabyte", 1); // never "0 MB"
    if (why) {
      complain(why);
      send.disabled = true;
    }
  }
  function chose() {
    problem.hidden = true;
    refresh();
  }
  input.addEventListener("change", chose);

  // Drop anywhere on the page: nobody aims.
  let depth = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (carriesFiles(event)) form.classList.toggle("dragging", ++depth > 0);
  });
  document.addEventListener("dragleave", (event) => {
    if (carriesFiles(event)) form.classList.toggle("dragging", --depth > 0);
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    depth = 0;
    form.classList.remove("dragging");
    if (input.disabled) return;
    const { files, folder } = carried(event.dataTransfer);
    if (files.length) {
      const dropped = new DataTransfer();
      for (const file of input.multiple ? files : files.slice(0, 1)) dropped.items.add(file);
      input.files = dropped.files;
      chose();
    }
    // Why the files beside it can't be sent matters more.
    if (folder && (problem.hidden || !files.length)) complain(texts.folder);
  });

  function busy(on) {
    form.classList.toggle("busy", on);
    form.setAttribute("aria-busy", String(on));
    progress.hidden = !on;
    send.hidden = on;
    input.disabled = on;
    stop.hidden = !on;
    if (on) progress.focus();
  }

  /** The form again, with why nothing was taken. */
  function back(sentence) {
    busy(false);
    complain(sentence);
    send.focus();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    problem.hidden = true;
    const data = new FormData(form);
    const began = performance.now();
    let arrived = false; // all of it
    const request = new XMLHttpRequest(); // fetch() cannot say how far an upload has come
    request.open("POST", form.action);
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", ({ lengthComputable, loaded, total }) => {
      if (!lengthComputable) return;
      const seconds = (performance.now() - began) / 1000;
      bar.value = (100 * loaded) / total;
      const sentence = (seconds > 2 ? texts.sendingLeft : texts.sending)
        .replace("[percent]", `${Math.floor(bar.value)}\u202f%`)
        .replace("[left]", duration((seconds * (total - loaded)) / loaded));
      tell(sentence, Math.floor(bar.value / 10));
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      tell(texts.checking);
      // The site has all of it, and may keep it whether or not we wait for the answer.
      arrived = true;
      stop.hidden = true;
      removeEventListener("beforeunload", ask);
    });
    request.addEventListener("load", () => {
      if (request.response?.url) location.assign(request.response.url);
      else back(request.response?.error ?? texts[reason(request.status, arrived)]);
    });
    request.addEventListener("error", () => back(texts[reason(0, arrived)]));
    request.addEventListener("abort", () => back(texts.stopped));
    request.addEventListener("loadend", () => removeEventListener("beforeunload", ask));
    stop.onclick = () => request.abort();
    bar.value = 0;
    busy(true);
    tell(texts.sending.replace("[percent]", "0\u202f%"));
    addEventListener("beforeunload", ask);
    request.send(data);
  });

  // Coming back by the browser's own way finds the form as fresh as the first time.
  addEventListener("pageshow", (event) => {
    if (event.persisted) busy(false);
  });
  refresh();
}
