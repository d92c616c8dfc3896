// A video's page: boxes that follow the faces, a timeline for every person, and ways to jump from one to the other.

const HOLD = 400; // for so long a box stands still where nothing follows
const HEIGHT = 142;
const CROWD = 4; // more people at once have only their numbers over the video: words would cover the faces

const watch = document.querySelector("#watch");
const video = document.querySelector("#video");
const overlay = document.querySelector("#boxes");
const words = JSON.parse(document.querySelector("#words").textContent);
const EXPRESSIONS = Object.keys(words).slice(0, 8);

const percent = (thousandths) => {
  const digits = thousandths < 5 ? "<1" : thousandths >= 995 ? ">99" : `${Math.round(thousandths / 10)}`;
  return `${digits}\u202f%`;
};

function clock(seconds) {
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** The place of the last of `times` that is not after `moment`; -1 before the first. */
function placeOf(times, moment) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= moment) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** What a person shows at a sighting: a word's name, and thousandths or null. */
function shownAt(person, place) {
  const shares = person.shares[place];
  if (!shares) return { name: person.problems[place], share: null };
  const share = Math.max(...shares);
  return { name: EXPRESSIONS[shares.indexOf(share)], share };
}

/** The place of the sighting that tells where a person is at a moment; -1 where they are away. */
function presentAt({ times, gap }, moment) {
  const place = placeOf(times, moment + 1);
  const follows = times[place + 1] - times[place] <= gap;
  return place >= 0 && (follows || moment - times[place] <= HOLD) ? place : -1;
}

const inWords = ({ name, share }) => (share === null ? words[name] : `${words[name]} ${percent(share)}`);

function jump(milliseconds) {
  // A hair after the frame's own time: rounded down, it would be the frame before.
  video.currentTime = milliseconds / 1000 + 0.0005;
}

// Boxes over the video -------------------------------------------------------------------------------------

class Box {
  constructor(person) {
    this.person = person;
    this.node = document.querySelector("#box").content.querySelector("g").cloneNode(true);
    this.lines = this.node.querySelectorAll(":scope > rect");
    this.chip = this.node.querySelector(".chip");
    this.plate = this.chip.querySelector("rect");
    this.text = this.chip.querySelector("text");
    this.node.setAttribute("display", "none");
    overlay.append(this.node);
  }

  /** Left, top, right, bottom at a moment, between the sightings before and after it; null where nobody is. */
  at(moment) {
    const { times, boxes, gap } = this.person;
    const place = presentAt(this.person, moment);
    if (place < 0) return null;
    const until = times[place + 1] - times[place];
    const share = until <= gap ? Math.max(0, (moment - times[place]) / until) : 0;
    const next = boxes[share ? place + 1 : place];
    return { place, box: boxes[place].map((side, index) => side + share * (next[index] - side)) };
  }

  show(found, width, height, crowded) {
    if (!found) {
      this.node.setAttribute("display", "none");
      return;
    }
    this.node.removeAttribute("display");
    const { place, box } = found;
    const [left, right] = [box[0], box[2]].map((x) => Math.min(Math.max(x / width, 0), 1));
    const [top, bottom] = [box[1], box[3]].map((y) => Math.min(Math.max(y / height, 0), 1));
    const share = (value) => `${(100 * value).toFixed(2)}%`;
    for (const line of this.lines) {
      line.setAttribute("x", share(left));
      line.setAttribute("y", share(top));
      line.setAttribute("width", share(right - left));
      line.setAttribute("height", share(bottom - top));
    }
    const shown = shownAt(this.person, place);
    const said = crowded ? `${this.person.number}` : `${this.person.number} ${inWords(shown)}`;
    this.node.setAttribute("class", `box expression-${shown.share === null ? "unread" : shown.name}`);
    if (this.text.textContent !== said) {
      this.text.textContent = said;
      this.room = this.text.getComputedTextLength() + 12;
      this.plate.setAttribute("width", this.room);
      this.text.setAttribute("x", 6);
    }
    // Above its box and to the right, save where the picture ends before the chip does.
    const most = overlay.clientWidth - this.room;
    const y = top * overlay.clientHeight;
    this.chip.setAttribute("x", Math.max(0, Math.min(left * overlay.clientWidth, most)));
    this.chip.setAttribute("y", y >= 20 ? y - 20 : y);
  }
}

// Timelines ------------------------------------------------------------------------------------------------

const calm = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const COLOURS = EXPRESSIONS.map((name) => {
  const probe = document.createElement("i");
  probe.className = `expression-${name}`;
  watch.append(probe);
  const colour = getComputedStyle(probe).getPropertyValue("--expression").trim();
  probe.remove();
  return colour;
});

/** Areas one upon the other, as uPlot draws them: from the top one, which holds all, down to the lowest.
 *  Where somebody was away or could not be read, there is a gap. */
function stack({ times, shares, gap }) {
  const seconds = [];
  const rows = [];
  const places = []; // the sighting behind every column; null in a gap
  times.forEach((time, place) => {
    if (place && time - times[place - 1] > gap) {
      seconds.push((times[place - 1] + 1) / 1000);
      rows.push(null);
      places.push(null);
    }
    seconds.push(time / 1000);
    rows.push(shares[place]);
    places.push(place);
  });
  const areas = EXPRESSIONS.map((_, index) =>
    rows.map((row) => row && row.slice(0, index + 1).reduce((sum, share) => sum + share, 0) / 1000),
  ).reverse();
  return { data: [seconds, ...areas], places };
}

class Timeline {
  constructor(card, person, length) {
    this.person = person;
    this.frame = card.querySelector(".timeline");
    this.place = 0;
    const { data, places } = stack(person);
    this.places = places;
    const axis = {
      stroke: () => calm("--pico-muted-color"),
      grid: { show: false },
      ticks: { stroke: () => calm("--line"), width: 1, size: 4 },
      font: "12px system-ui, sans-serif",
    };
    const value = (index) => (_, __, ___, column) => {
      const row = this.person.shares[this.places[column] ?? -1];
      return row ? percent(row[index]) : "–";
    };
    this.plot = new uPlot(
      {
        width: this.frame.clientWidth,
        height: HEIGHT,
        padding: [6, 10, 0, 0],
        scales: { x: { time: false, range: [0, length] }, y: { range: [0, 1] } },
        axes: [
          { ...axis, size: 26, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300], values: (_, ticks) => ticks.map(clock) },
          { ...axis, size: 46, splits: [0, 0.5, 1], values: (_, ticks) => ticks.map((tick) => `${100 * tick}\u202f%`) },
        ],
        series: [
          { label: watch.dataset.moment, class: "moment", value: (_, seconds) => (seconds === null ? "–" : clock(seconds)) },
          ...EXPRESSIONS.map((name, index) => ({
            label: words[name],
            stroke: COLOURS[index],
            fill: COLOURS[index],
            width: 1,
            points: { show: person.times.length < 2 },
            value: value(index),
          })).reverse(),
        ],
        legend: { isolate: false, mount: (_, legend) => card.querySelector(".key").append(legend) },
        cursor: { drag: { x: false, y: false }, y: false, points: { show: false } },
        focus: { alpha: 1 },
        hooks: { setLegend: [(plot) => plot.cursor.idx === null && this.tell()] },
      },
      data,
      this.frame,
    );
    // Names in the legend are no switches: parts of a whole are not taken out of it.
    for (const row of card.querySelectorAll(".u-series")) row.addEventListener("click", (event) => event.stopPropagation(), true);
    this.head = document.createElement("div");
    this.head.className = "playhead";
    this.plot.over.append(this.head);
    this.plot.over.addEventListener("click", (event) => {
      const seconds = this.plot.posToVal(event.clientX - this.plot.over.getBoundingClientRect().left, "x");
      jump(person.times[this.nearest(1000 * seconds)]);
    });
    this.frame.setAttribute("aria-valuemax", person.times.length);
    this.frame.setAttribute("aria-valuemin", 1);
    this.frame.addEventListener("keydown", (event) => {
      const most = person.times.length - 1;
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 10, PageDown: -10 }[event.key];
      const to = { Home: 0, End: most }[event.key] ?? (step && Math.min(Math.max(this.place + step, 0), most));
      if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      jump(person.times[to]);
      this.show(person.times[to]);
    });
    new ResizeObserver(() => this.resize()).observe(this.frame);
  }

  nearest(moment) {
    const { times } = this.person;
    const place = Math.max(0, placeOf(times, moment));
    return place + 1 < times.length && times[place + 1] - moment < moment - times[place] ? place + 1 : place;
  }

  resize() {
    if (this.frame.clientWidth === this.plot.width) return;
    this.plot.setSize({ width: this.frame.clientWidth, height: HEIGHT });
    this.show(this.moment ?? 0);
  }

  /** Put the playhead where the video is. */
  show(moment) {
    this.moment = moment;
    this.head.style.left = `${this.plot.valToPos(moment / 1000, "x")}px`;
    const place = Math.max(0, placeOf(this.person.times, moment + 1));
    const away = presentAt(this.person, moment) < 0;
    if (place === this.place && away === this.away) return;
    [this.place, this.away] = [place, away];
    this.tell();
    this.frame.setAttribute("aria-valuenow", place + 1);
    this.frame.setAttribute(
      "aria-valuetext",
      `${clock(this.person.times[place] / 1000)}: ${inWords(shownAt(this.person, place))}`,
    );
  }

  /** While nobody points at the timeline, its key tells what is shown where the video is. */
  tell() {
    const column = this.away ? null : this.places.indexOf(this.place);
    this.plot?.setLegend({ idxs: [column, ...EXPRESSIONS.map(() => column)] }, false);
  }
}

// Following the video --------------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-jump]")) {
  button.addEventListener("click", () => jump(Number(button.dataset.jump)));
}

async function timeline() {
  try {
    const answer = await fetch(watch.dataset.timeline, { headers: { Accept: "application/json" } });
    if (!answer.ok) throw new Error(answer.statusText);
    return await answer.json();
  } catch {
    watch.querySelector("#lost").hidden = false;
    return null;
  }
}

/** The video's length and size are known, or will not be for now: timelines can be read without. */
function metadata() {
  if (video.readyState >= HTMLMediaElement.HAVE_METADATA || video.error) return null;
  return new Promise((resolve) => {
    for (const event of ["loadedmetadata", "error"]) video.addEventListener(event, resolve, { once: true });
    setTimeout(resolve, 3000); // some phones load nothing before somebody presses play
  });
}

const read = await timeline();
await metadata();
const { width, height, people } = read ?? { width: 1, height: 1, people: [] };
const last = Math.max(...people.flatMap(({ times }) => times.at(-1) ?? 0)) / 1000;
const length = Math.max(last, Number.isFinite(video.duration) ? video.duration : 0, 0.1);

const boxes = [];
const timelines = [];
for (const person of people) {
  const card = document.querySelector(`[data-person="${person.number}"]`);
  if (!card || !person.times.length) continue;
  boxes.push(new Box(person));
  timelines.push(new Timeline(card, person, length));
}

function show(seconds) {
  const moment = 1000 * seconds;
  const found = boxes.map((box) => box.at(moment));
  const crowded = found.filter(Boolean).length > CROWD;
  boxes.forEach((box, index) => box.show(found[index], width, height, crowded));
  for (const timeline of timelines) timeline.show(moment);
}

if (video.requestVideoFrameCallback) {
  const follow = (_, { mediaTime }) => {
    show(mediaTime);
    video.requestVideoFrameCallback(follow);
  };
  video.requestVideoFrameCallback(follow);
} else {
  const follow = () => {
    if (!video.paused) show(video.currentTime);
    requestAnimationFrame(follow);
  };
  follow();
}
for (const event of ["seeked", "timeupdate"]) video.addEventListener(event, () => video.paused && show(video.currentTime));
new ResizeObserver(() => show(video.currentTime)).observe(overlay);

const boxesShown = document.querySelector("#show-boxes");
function showBoxes() {
  overlay.toggleAttribute("hidden", !boxesShown.checked);
  for (const box of boxes) box.text.textContent = ""; // what changed while it was hidden had no width
  show(video.currentTime);
}
boxesShown.addEventListener("change", showBoxes);
showBoxes(); // browsers keep a switch's place when a page is loaded again
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const { plot } of timelines) plot.redraw(false);
});
watch.dataset.ready = "yes";
