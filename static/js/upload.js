// The upload form, made comfortable: drop, paste and camera, previews with names, and progress.
// Without this script the form still works as it stands in the page.

import { ask, carried, reason, teller } from "./sending.js";

const form = document.querySelector("#upload");
const MOST_TIMES = 20; // that the photos are sent again to a busy site
const maxFiles = Number(form.dataset.maxFiles);
const maxMegabytes = Number(form.dataset.maxMegabytes);
const chosen = form.querySelector("#chosen");
const said = form.querySelector("#said");
const problem = form.querySelector("#problem");
const send = form.querySelector("#send");
const progress = form.querySelector("#progress");
const bar = progress.querySelector("progress");
const stop = progress.querySelector("#stop");
const tell = teller(progress);

/** The photos to send, each beside its line in the list. @type {Map<File, HTMLLIElement>} */
const photos = new Map();

const language = document.documentElement.lang;
const inWords = send.textContent;

/** The form's own sentence of that name, in the page's language, with its [places] filled. */
function say(name, places = {}) {
  const sentence = "count" in places ? name + (places.count === 1 ? "One" : "Other") : name;
  return form.dataset[sentence].replace(/\[(\w+)\]/g, (_, place) => places[place]);
}

function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toLocaleString(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 })} MB`;
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function complain(sentence, rejections = []) {
  problem.querySelector("p").textContent = sentence;
  problem.querySelector("ul").replaceChildren(
    ...rejections.map(({ name, reason }) => element("li", {}, element("strong", { textContent: name }), ` ${reason}`)),
  );
  problem.hidden = false;
}

function refresh() {
  const count = photos.size;
  send.textContent = count ? say("read", { count }) : inWords;
  send.disabled = count === 0;
  const sentence = count ? say("chosen", { count }) : "";
  if (said.textContent !== sentence) said.textContent = sentence; // what is written anew is read out anew
}

// One after the other: twenty large photos decoded at once would be gigabytes.
let previews = Promise.resolve();

async function preview(file, canvas) {
  try {
    const picture = await createImageBitmap(file);
    const scale = Math.max(canvas.width / picture.width, canvas.height / picture.height);
    const [width, height] = [picture.width * scale, picture.height * scale];
    const [left, top] = [(canvas.width - width) / 2, (canvas.height - height) / 3]; // faces are rather up
    canvas.getContext("2d").drawImage(picture, left, top, width, height);
    picture.close();
  } catch {
    canvas.classList.add("unreadable"); // the server says why, in words
  }
}

function add(files, folder = false) {
  if (form.classList.contains("busy")) return; // they would be in the list, and not be sent
  problem.hidden = true;
  if (folder) complain(say("folder"));
  for (const file of files) {
    if (photos.size >= maxFiles) {
      complain(say("tooMany"));
      break;
    }
    if (file.size > maxMegabytes * 1e6) {
      complain(say("tooLarge", { name: file.name }));
      continue;
    }
    const canvas = element("canvas", { width: 96, height: 72 });
    const remove = element("button", { type: "button", textContent: "×", className: "remove" });
    remove.setAttribute("aria-label", say("leaveOut", { name: file.name }));
    const line = element(
      "li",
      {},
      canvas,
      element("span", { textContent: file.name, className: "name" }),
      element("small", { textContent: size(file.size) }),
      remove,
    );
    remove.addEventListener("click", () => {
      const next = line.nextElementSibling ?? line.previousElementSibling;
      line.remove();
      photos.delete(file);
      refresh();
      (next?.querySelector("button") ?? form.querySelector("#photos")).focus();
    });
    photos.set(file, line);
    chosen.append(line);
    previews = previews.then(() => preview(file, canvas));
  }
  refresh();
}

for (const input of form.querySelectorAll("input[type=file]")) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // so that the same file can be chosen again after it was left out
  });
}

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
  const { files, folder } = carried(event.dataTransfer);
  add(files, folder);
});
document.addEventListener("paste", (event) => {
  const { files, folder } = carried(event.clipboardData);
  if (files.length || folder) add(files, folder);
});

function busy(on) {
  form.classList.toggle("busy", on);
  form.setAttribute("aria-busy", String(on));
  progress.hidden = !on;
  send.hidden = on;
  for (const button of document.querySelectorAll("button:not(#stop), input[type=file]")) button.disabled = on;
  if (on) progress.focus();
  else refresh();
}

/** The form again, with why nothing was taken. */
function back(sentence, rejections) {
  busy(false);
  complain(sentence, rejections);
  (send.disabled ? form.querySelector("#photos") : send).focus();
}

function uploading(event) {
  if (!event.lengthComputable) return;
  const percent = Math.round((100 * event.loaded) / event.total);
  bar.value = percent;
  tell(`${say("sending", { count: photos.size })}: ${percent}\u202f%`, Math.floor(percent / 10));
}

function analysing(count) {
  bar.removeAttribute("value"); // there is no telling how many faces will be found
  tell(say("analysing", { count }));
}

function answered({ status: code, response }, arrived) {
  if (response?.url) {
    location.assign(response.url);
    return;
  }
  if (response?.rejections?.length) {
    // None of them could be used, so there is nothing to send again.
    photos.clear();
    chosen.replaceChildren();
  }
  const why = reason(code, arrived);
  back(response?.error ?? say(why === "tooLarge" ? "allTooLarge" : why), response?.rejections);
}

/** Send the photos, and again where many others are being read at this moment. */
function post(data, times = 0) {
  const request = new XMLHttpRequest(); // fetch() cannot say how far an upload has come
  request.open("POST", form.action);
  request.responseType = "json";
  request.setRequestHeader("Accept", "application/json");
  request.upload.addEventListener("progress", uploading);
  let arrived = false; // all of it: the site may keep it whether or not its answer comes
  request.upload.addEventListener("load", () => {
    arrived = true;
    stop.hidden = true;
    removeEventListener("beforeunload", ask);
    analysing(photos.size);
  });
  request.addEventListener("load", () => {
    const seconds = request.status === 503 && Number(request.getResponseHeader("Retry-After"));
    if (seconds && times < MOST_TIMES) again(data, times + 1, seconds);
    else answered(request, arrived);
  });
  request.addEventListener("error", () => back(say(reason(0, arrived))));
  request.addEventListener("abort", () => back(say("stopped")));
  request.addEventListener("loadend", () => removeEventListener("beforeunload", ask));
  stop.onclick = () => request.abort();
  stop.hidden = false;
  tell(`${say("sending", { count: photos.size })}…`);
  addEventListener("beforeunload", ask);
  request.send(data);
}

function again(data, times, seconds) {
  const timer = setTimeout(() => post(data, times), 1000 * seconds * (0.5 + Math.random())); // not all at once
  tell(say("busy"));
  stop.hidden = false;
  stop.onclick = () => {
    clearTimeout(timer);
    back(say("stopped"));
  };
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  problem.hidden = true;
  const data = new FormData(form);
  data.delete("photos");
  for (const file of photos.keys()) data.append("photos", file);
  busy(true);
  post(data);
});

for (const sample of document.querySelectorAll("[data-sample]")) {
  sample.addEventListener("submit", () => {
    // After the form's own data were gathered: a disabled button would not stop them, but a second click is.
    setTimeout(() => {
      busy(true);
      analysing(1);
      stop.onclick = () => location.reload();
    });
  });
}

// Coming back by the browser's own way finds the form as fresh as the first time.
addEventListener("pageshow", (event) => {
  if (event.persisted) busy(false);
});
refresh();
