// The camera, frame by frame: sent to the server one at a time, and what was read in it drawn over the picture.
// Nothing is kept here either, save the snapshots that a person asks for.

const LONGEST_SIDE = 640; // pixels of a frame that is sent: faces a twelfth of it are still read
const SMOOTHING = 0.3; // seconds: how long a bar takes to come two thirds of its way
const FORGOTTEN = 0.5; // seconds after which a face that comes back is a new one
const BESIDE = { faces: 2, stage: 480 }; // so few faces on so wide a stage have their bars beside them
const ATTEMPTS = 3;
const SNAPSHOT_ATTEMPTS = 6; // while the site is busy
const LONGEST_WAIT = 5; // seconds: who is to come again later than that is told so

const part = (id) => document.getElementById(id);
const root = part("live");
const stage = part("stage");
const video = part("video");
const overlay = part("overlay");
const camera = part("camera");
const mask = part("mask");
const mirror = part("mirror");
const snapshot = part("snapshot");
const token = snapshot.querySelector("[name=csrfmiddlewaretoken]").value;
const canvas = document.createElement("canvas");

// Every word comes from the page, which knows the language.
const filled = (pattern, values) => pattern.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const words = Object.fromEntries(
  [...part("card").content.querySelectorAll("[data-expression]")].map((row) => [
    row.dataset.expression,
    row.querySelector("th").textContent,
  ]),
);
const problems = Object.fromEntries(
  [...part("problems").content.querySelectorAll("[data-problem]")].map((line) => [
    line.dataset.problem,
    line.textContent,
  ]),
);

/** Say what is wrong, by its name in the page or in the server's own words; nothing is wrong without either. */
function complain(name, sentence) {
  const known = part("troubles").content;
  const line = known.querySelector(`[data-trouble="${name}"]`) ?? known.querySelector('[data-trouble="unknown"]');
  const said = sentence ? Object.assign(document.createElement("p"), { textContent: sentence }) : line.cloneNode(true);
  part("trouble").replaceChildren(...(name || sentence ? [said] : []));
  part("trouble").hidden = !(name || sentence);
}

// The camera ------------------------------------------------------------------------------------------------

let stream = null;
let snapshotWaits = false; // for a place on the site, which no frame may take from it
let turn = 0; // grows when the camera starts and stops: what an earlier turn still waits for is dropped

async function start() {
  stop();
  complain();
  const mine = turn;
  part("start").disabled = true;
  const which = camera.value ? { deviceId: { exact: camera.value } } : { facingMode: "user" };
  try {
    const given = await navigator.mediaDevices.getUserMedia({
      video: { ...which, width: { ideal: 960 }, height: { ideal: 720 } },
    });
    if (mine !== turn || document.hidden) {
      for (const track of given.getTracks()) track.stop();
      return;
    }
    stream = given;
    video.srcObject = stream;
    await video.play();
  } catch (error) {
    if (mine !== turn) return;
    stop();
    camera.value = "";
    complain(error.name);
    part("start").disabled = false;
    part("start").focus({ preventScroll: true }); // a button that is disabled loses it
    return;
  } finally {
    part("start").disabled = false;
  }
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    stop();
    complain("ended");
  });
  show(true);
  part("stop").focus({ preventScroll: true });
  listCameras();
  follow(mine);
}

function stop() {
  turn += 1;
  for (const track of stream?.getTracks() ?? []) track.stop();
  stream = null;
  video.srcObject = null;
  tracks = [];
  overlay.replaceChildren();
  show(false);
}

function show(running) {
  const left = document.activeElement === part("stop");
  part("idle").hidden = running;
  snapshot.hidden = part("choices").hidden = part("rate").hidden = !running;
  part("faces").hidden = true;
  part("faces").replaceChildren();
  part("said").textContent = "";
  part("rate").textContent = root.dataset.waiting;
  if (left) part("start").focus({ preventScroll: true });
}

async function listCameras() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
  const used = stream?.getVideoTracks()[0].getSettings().deviceId;
  camera.replaceChildren(
    ...found.map(
      ({ deviceId, label }, place) =>
        new Option(label || filled(root.dataset.camera, { number: place + 1 }), deviceId, false, deviceId === used),
    ),
  );
  part("cameras").hidden = found.length < 2;
}

// Frames ----------------------------------------------------------------------------------------------------

class Refused extends Error {
  /** wait: in how many seconds to come again, where the site, or the server before it (429), said so. */
  constructor(status, sentence, wait) {
    super(sentence);
    this.name = { 403: "old", 429: "hasty" }[status] ?? "lost";
    this.sentence = status === 403 ? undefined : sentence;
    this.wait = wait;
    this.busy = [429, 503].includes(status) && wait > 0 && wait <= LONGEST_WAIT;
    this.final = [403, 413, 429, 503].includes(status) && !this.busy;
  }
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const turnOfOthers = ({ wait }) => pause(wait * (0.5 + Math.random())); // not all come again at once
const newPicture = () =>
  new Promise((resolve) =>
    video.requestVideoFrameCallback ? video.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve),
  );

/** The picture of this moment as a JPEG, its longer side at most so many pixels. */
function picture(longest, quality) {
  const scale = Math.min(1, longest / Math.max(video.videoWidth, video.videoHeight));
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", quality));
}

async function post(url, body, headers = {}) {
  const response = await fetch(url, {
    method: "POST",
    body,
    headers: { Accept: "application/json", "X-CSRFToken": token, ...headers },
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.error, Number(response.headers.get("Retry-After")));
  return answer;
}

/** Send picture after picture, never two at once, until the camera's turn is over. */
async function follow(mine) {
  let failures = 0;
  const moments = [];
  while (mine === turn) {
    await newPicture();
    if (mine !== turn) return;
    if (snapshotWaits) continue;
    const blob = await picture(LONGEST_SIDE, 0.8);
    if (!blob) continue;
    const address = root.dataset.frameUrl + (mask.checked ? "?mask=1" : "");
    try {
      const frame = await post(address, blob, { "Content-Type": "image/jpeg" });
      if (mine !== turn) return;
      failures = 0;
      moments.push(performance.now());
      draw(frame);
      tell(frame, moments);
    } catch (error) {
      if (mine !== turn) return;
      if (error.busy) {
        await turnOfOthers(error); // a frame that was not read is no loss
        continue;
      }
      failures += 1;
      if (error.final || failures === ATTEMPTS) {
        stop();
        complain(error instanceof Refused ? error.name : "lost", error.sentence);
        return;
      }
      await pause(failures / 2);
    }
  }
}

// Faces that stay the same ----------------------------------------------------------------------------------

let tracks = [];
let drawn = 0; // when the frame before was

const middle = ({ box: [left, top, right, bottom] }) => [(left + right) / 2, (top + bottom) / 2];

/** Join the faces of a frame with those before, nearest first, and smooth what they show. */
function join(faces) {
  const now = performance.now() / 1000;
  // Who was in the frame before is not forgotten, however long this one took.
  tracks = tracks.filter(({ seen }) => seen === drawn || now - seen < FORGOTTEN);
  drawn = now;
  const pairs = faces.flatMap((face) =>
    tracks.map((track) => {
      const [x, y] = middle(face);
      const [before, above] = middle(track.face);
      return { face, track, share: Math.hypot(x - before, y - above) / (face.box[2] - face.box[0]) };
    }),
  );
  const joined = new Map();
  for (const { face, track, share } of pairs.sort((a, b) => a.share - b.share)) {
    if (share < 1 && !joined.has(face) && ![...joined.values()].includes(track)) joined.set(face, track);
  }
  return faces.map((face) => {
    let track = joined.get(face);
    if (!track) {
      const taken = new Set(tracks.map(({ number }) => number));
      let number = 1;
      while (taken.has(number)) number += 1;
      tracks.push((track = { number }));
    }
    const step = track.shares ? 1 - Math.exp((track.seen - now) / SMOOTHING) : 1;
    if (face.probabilities) {
      track.shares = Object.fromEntries(
        Object.entries(face.probabilities).map(([name, share]) => {
          const before = track.shares?.[name] ?? share;
          return [name, before + (share - before) * step];
        }),
      );
    }
    return Object.assign(track, { face, seen: now });
  });
}

/** What is said of a face: the name of its colour, its word, with a question mark behind a guess, and how likely it is. */
function reading({ face, shares }) {
  if (face.problem) return { name: "unread", word: problems[face.problem] ?? face.problem };
  const [name, share] = Object.entries(shares).reduce((most, one) => (one[1] > most[1] ? one : most));
  return { name, word: face.sure ? words[name] : `${words[name]}?`, share };
}

function percent(share) {
  const digits = share < 0.005 ? "<1" : share >= 0.995 ? ">99" : Math.round(share * 100);
  return `${digits}\u202f%`;
}

// Drawing ---------------------------------------------------------------------------------------------------

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const measure = document.createElement("canvas").getContext("2d");

function draw({ width, height, faces }) {
  const seen = join(faces);
  // The picture lies in the middle of the stage, as large as it fits. All else is in the stage's own pixels.
  const { clientWidth, clientHeight } = stage;
  const scale = Math.min(clientWidth / width, clientHeight / height);
  const [x, y] = [(clientWidth - width * scale) / 2, (clientHeight - height * scale) / 2];
  const turned = mirror.checked;
  // Also without a face, so that the cards' room does not come and go.
  const beside = seen.length <= BESIDE.faces && clientWidth >= BESIDE.stage;
  const masks = svg("g", {
    class: "masks",
    transform: turned ? `matrix(${-scale} 0 0 ${scale} ${clientWidth - x} ${y})` : `matrix(${scale} 0 0 ${scale} ${x} ${y})`,
  });
  for (const { face } of seen) {
    if (face.mask) {
      masks.append(svg("image", { href: face.mask, width: 1, height: 1, transform: `matrix(${face.place.join(" ")})` }));
    }
  }
  const outlines = seen.map((track) => {
    const [left, top, right, bottom] = track.face.box;
    const box = {
      x: turned ? clientWidth - x - right * scale : x + left * scale,
      y: y + top * scale,
      width: (right - left) * scale,
      height: (bottom - top) * scale,
    };
    return outline(track, box, beside);
  });
  overlay.replaceChildren(masks, ...outlines);
  if (!tracks.length) {
    const place = { x: clientWidth / 2, y: clientHeight - 16 };
    overlay.append(svg("text", { class: "nobody", ...place }, root.dataset.nobody));
  }
  part("faces").hidden = beside;
  if (!beside) fillCards(seen);
}

function outline(track, box, beside) {
  const { name, word, share } = reading(track);
  const label = share === undefined ? word : `${word} ${percent(share)}`;
  // Words of neighbours would cover each other on a small stage: there the cards below have them.
  const crowded = !beside && stage.clientWidth < BESIDE.stage && tracks.length > 1;
  const text = beside ? label : crowded ? String(track.number) : `${track.number} ${label}`;
  measure.font = "600 13px system-ui, sans-serif";
  const wide = measure.measureText(text).width + 16;
  const chipX = Math.max(0, Math.min(box.x, stage.clientWidth - wide));
  const chipY = Math.max(0, box.y - 24);
  const group = svg(
    "g",
    { class: `seen expression-${name}` },
    svg("rect", { class: "halo", rx: 3, ...box }),
    svg("rect", { class: "line", rx: 3, ...box }),
    svg("rect", { class: "chip", x: chipX, y: chipY, width: wide, height: 22, rx: 3 }),
    svg("text", { class: "word", x: chipX + wide / 2, y: chipY + 15.5 }, text),
  );
  if (beside && share !== undefined) group.append(bars(track, box, name));
  return group;
}

/** The eight bars, on the side of the box that has room for them. */
function bars({ shares }, box, most) {
  const [wide, row] = [178, 15];
  const tall = 8 * row + 8;
  const right = box.x + box.width + 8;
  const x = right + wide <= stage.clientWidth ? right : Math.max(0, box.x - 8 - wide);
  const y = Math.max(0, Math.min(box.y, stage.clientHeight - tall));
  const group = svg("g", { transform: `translate(${x} ${y})` }, svg("rect", { class: "ground", width: wide, height: tall, rx: 4 }));
  Object.entries(shares).forEach(([name, share], place) => {
    const line = 4 + place * row;
    const weight = name === most ? " most" : "";
    group.append(
      svg("text", { class: `name${weight}`, x: 8, y: line + 11 }, words[name]),
      svg("rect", { class: "track", x: 84, y: line + 3, width: 52, height: 9, rx: 2 }),
      svg("g", { class: `expression-${name}` }, svg("rect", { class: "fill", x: 84, y: line + 3, width: 52 * share, height: 9, rx: 2 })),
      svg("text", { class: `share${weight}`, x: wide - 6, y: line + 11 }, percent(share)),
    );
  });
  return group;
}

/** The same as cards under or beside the picture, where there is no room in it. */
function fillCards(seen) {
  const list = part("faces");
  while (list.children.length > seen.length) list.lastElementChild.remove();
  while (list.children.length < seen.length) list.append(part("card").content.cloneNode(true));
  seen.toSorted((a, b) => a.number - b.number).forEach((track, place) => {
    const card = list.children[place];
    const { name, word, share } = reading(track);
    card.className = `face expression-${name}`;
    card.querySelector(".number").textContent = track.number;
    card.querySelector(".word").textContent = word;
    card.querySelector(".sure").textContent = share === undefined ? "" : percent(share);
    card.querySelector(".bars").hidden = share === undefined;
    for (const row of card.querySelectorAll("[data-expression]")) {
      const one = track.shares?.[row.dataset.expression] ?? 0;
      row.classList.toggle("most", row.dataset.expression === name);
      row.querySelector(".fill").setAttribute("width", `${one * 100}%`);
      row.querySelector(".share").textContent = percent(one);
    }
  });
}

let nextWord = 0;

/** How fast it goes, twice a second; and for who listens, what is seen, when that changes, every few seconds. */
function tell({ faces, milliseconds }, moments) {
  const now = performance.now();
  while (moments[0] < now - 2000) moments.shift();
  if (moments.length > 1) {
    const frames = ((moments.length - 1) * 1000) / (now - moments[0]);
    part("rate").textContent = filled(root.dataset.rate, {
      frames: frames < 10 ? frames.toFixed(1) : Math.round(frames),
      milliseconds: Math.round(milliseconds),
    });
  }
  if (now < nextWord) return;
  nextWord = now + 3000;
  const seen = tracks.filter(({ face }) => faces.includes(face)).map(
    (track) => `${filled(root.dataset.face, { number: track.number })}: ${reading(track).word}`,
  );
  const sentence = seen.join(", ") || root.dataset.nobody;
  if (part("said").textContent !== sentence) part("said").textContent = sentence;
}

// What a person does ----------------------------------------------------------------------------------------

part("start").addEventListener("click", start);
part("stop").addEventListener("click", () => stop());
camera.addEventListener("change", () => start().then(() => camera.focus()));
mask.addEventListener("change", () => {
  part("legend").hidden = !mask.checked;
});
const reflect = () => stage.classList.toggle("mirrored", mirror.checked);
mirror.addEventListener("change", reflect);

/** Send a snapshot, and the same one again while the site is busy: often it is with this camera's own frames. */
async function keep(data) {
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await post(snapshot.action, data);
      } catch (error) {
        if (!error.busy || attempt === SNAPSHOT_ATTEMPTS) throw error;
        snapshotWaits = true;
        await turnOfOthers(error);
      }
    }
  } finally {
    snapshotWaits = false;
  }
}

snapshot.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter;
  button.disabled = true;
  complain();
  try {
    const blob = await picture(Infinity, 0.92);
    const data = new FormData();
    data.append("photos", blob, "snapshot.jpg");
    const { url } = await keep(data);
    const line = part("snapshot-kept").content.cloneNode(true);
    line.querySelector("a").href = url;
    line.querySelector("img").src = URL.createObjectURL(blob);
    part("kept").prepend(line);
  } catch (error) {
    complain(["old", "hasty"].includes(error.name) ? error.name : "snapshot", error.sentence);
  } finally {
    button.disabled = false;
    if (document.activeElement === document.body) button.focus({ preventScroll: true }); // it lost it, disabled
  }
});

document.addEventListener("visibilitychange", () => {
  if (!document.hidden || !stream) return;
  stop();
  complain("hidden");
});
addEventListener("pagehide", () => stop());

reflect();
mask.dispatchEvent(new Event("change")); // browsers keep a switch's place when a page is loaded again
part("start").hidden = false;
if (!isSecureContext || !navigator.mediaDevices?.getUserMedia) {
  part("start").disabled = true;
  complain(isSecureContext ? "unsupported" : "insecure");
} else {
  navigator.mediaDevices.enumerateDevices().then((devices) => {
    if (!devices.some(({ kind }) => kind === "videoinput")) complain("NotFoundError");
  });
}
