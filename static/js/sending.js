// A form that sends large files: drop, what was chosen, how far the sending has come, and a way to stop it.
// Without this script the form still works as it stands in the page. Its texts are in the page.

const language = document.documentElement.lang;

export const unit = (value, name, digits = 0) =>
  new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: digits }).format(value);

function duration(seconds) {
  return seconds < 90 ? unit(Math.max(1, Math.round(seconds)), "second") : unit(Math.round(seconds / 60), "minute");
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
  const status = progress.querySelector("[role=status]");
  const texts = form.dataset;

  function complain(sentence) {
    problem.querySelector("p").textContent = sentence;
    problem.hidden = false;
  }

  function refresh() {
    const files = [...input.files];
    problem.hidden = true;
    chosen.hidden = !files.length;
    send.disabled = !files.length;
    if (!files.length) return;
    const { name, problem: why } = describe(files, texts);
    chosen.querySelector(".name").textContent = name;
    chosen.querySelector("small").textContent = unit(files.reduce((sum, file) => sum + file.size, 0) / 1e6, "megabyte", 1);
    if (why) {
      complain(why);
      send.disabled = true;
    }
  }
  input.addEventListener("change", refresh);

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
    const dropped = new DataTransfer();
    for (const file of input.multiple ? event.dataTransfer.files : [event.dataTransfer.files[0]]) dropped.items.add(file);
    input.files = dropped.files;
    refresh();
  });

  function busy(on) {
    form.classList.toggle("busy", on);
    form.setAttribute("aria-busy", String(on));
    progress.hidden = !on;
    send.hidden = on;
    input.disabled = on;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    problem.hidden = true;
    const data = new FormData(form);
    const began = performance.now();
    const stop = form.querySelector("#stop");
    let why = texts.lost; // if the connection is
    const request = new XMLHttpRequest(); // fetch() cannot say how far an upload has come
    request.open("POST", form.action);
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", ({ lengthComputable, loaded, total }) => {
      if (!lengthComputable) return;
      const seconds = (performance.now() - began) / 1000;
      bar.value = (100 * loaded) / total;
      status.textContent = (seconds > 2 ? texts.sendingLeft : texts.sending)
        .replace("[percent]", `${Math.floor(bar.value)}\u202f%`)
        .replace("[left]", duration((seconds * (total - loaded)) / loaded));
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      status.textContent = texts.checking;
      // The site has all of it, and may keep it whether or not we wait for the answer.
      why = texts.unsure;
      stop.hidden = true;
    });
    request.addEventListener("load", () => {
      if (request.response?.url) {
        location.assign(request.response.url);
        return;
      }
      busy(false);
      complain(
        request.response?.error ??
          (request.status === 413 ? texts.tooLarge : request.status === 403 ? texts.old : texts.broken),
      );
    });
    request.addEventListener("error", () => {
      busy(false);
      complain(why);
    });
    request.addEventListener("abort", () => {
      busy(false);
      complain(texts.stopped);
      send.focus();
    });
    stop.onclick = () => request.abort();
    stop.hidden = false;
    bar.value = 0;
    status.textContent = texts.sending.replace("[percent]", "0\u202f%");
    busy(true);
    request.send(data);
  });

  // Coming back by the browser's own way finds the form as fresh as the first time.
  addEventListener("pageshow", (event) => {
    if (event.persisted) busy(false);
  });
  refresh();
}
