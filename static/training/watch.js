// The page of a run: asks the server where it stands, every two seconds while something happens, and shows it.
// The first answer is in the page itself, so that it is there at once and after every reload.

import { teller } from "../js/sending.js";
import { EVERY, follow } from "./asking.js";

const EVERY_ENDED = 20_000; // milliseconds: somebody may let it go on in another window
// Okabe and Ito's palette without its yellow, which is lost on white.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#7a7a7a"];
const CAN = {
  cancel: ["queued", "running", "interrupted"],
  resume: ["cancelled", "failed", "interrupted"],
  retry: ["failed", "cancelled", "interrupted"],
};

const page = document.querySelector("#watch");
const part = (id) => document.querySelector(`#${id}`);
const base = page.dataset.run;
const tell = teller(page);
const mayLaunch = page.dataset.mayLaunch === "yes";

/** What the server said last. Its curves are kept apart: it repeats them only when they changed. */
let status = JSON.parse(part("status").textContent);
let curves = new Map();
let chosen = location.hash.startsWith("#fold-") ? Number(location.hash.slice(6)) : null; // null: all folds

// Words and numbers ----------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds < 59.5) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.round(minutes / 60 / 24)} days`;
}

const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u202f%`;
const number = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(3))));
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Where a fold stands, in words. */
function standing(fold) {
  const { stage, epoch, epochs, doing, step, steps } = fold.progress;
  if (fold.state === "succeeded") return "finished";
  if (fold.error) return fold.error;
  if (fold.state === "queued" && fold.losses) return `lost its worker ${plural(fold.losses, "time")}, waits for another`;
  if (fold.state === "queued") return stage ? `waits to go on from ${stage} stage, epoch ${epoch}` : "waits for a worker";
  const at = stage ? `${stage} stage, epoch ${epoch} of ${epochs}` : "";
  if (fold.state !== "running") return at ? `stopped in ${at}` : "stopped before it began";
  return at || (steps ? `${doing}: ${step} of ${steps}` : doing) || "begins";
}

// The run --------------------------------------------------------------------------------------------------

function showRun() {
  const { run, folds } = status;
  const state = part("run-state");
  state.textContent = run.stopping ? "stopping" : run.state;
  state.className = `state state-${run.state}`;
  part("run-progress").value = run.share;
  const done = folds.filter((fold) => fold.state === "succeeded").length;
  const said = [percent(run.share)];
  if (folds.length > 1) said.push(`${done} of ${folds.length} folds done`);
  if (run.seconds_left !== null) said.push(`about ${duration(run.seconds_left)} left`);
  else if (run.state === "queued") said.push("waits for a worker");
  tell(said.join(", "), `${state.textContent} ${Math.floor(10 * run.share)}`);
  const devices = [...new Set(folds.map((fold) => fold.progress.device).filter(Boolean))];
  write(part("run-device"), devices.length ? devices.join(", ") : run.device);
  const end = run.finished ? new Date(run.finished) : new Date();
  write(part("run-took"), run.started ? duration((end - new Date(run.started)) / 1000) : "–");
  document.title = `${run.state === "running" ? percent(run.share) : run.state} · ${run.name}`;
  part("report").hidden = done === 0;
  if (!mayLaunch) return;
  part("cancel").hidden = run.stopping || !CAN.cancel.includes(run.state);
  part("resume").hidden = !CAN.resume.includes(run.state);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Its folds ------------------------------------------------------------------------------------------------

const rows = new Map();

function makeRow(fold) {
  const cell = (className, label, ...children) => {
    const made = element("td", { className }, ...children);
    made.setAttribute("role", "cell");
    if (label) made.dataset.label = label;
    return made;
  };
  const head = element("th", { scope: "row", textContent: `${fold.number}` });
  head.setAttribute("role", "rowheader");
  const row = {
    state: element("span"),
    bar: element("progress", { max: 1, ariaLabel: `Progress of fold ${fold.number}` }),
    standing: element("span", { className: "standing" }),
    rate: cell("number", "Images/s"),
    left: cell("number", "Time left"),
    accuracy: cell("number", "Accuracy"),
    actions: cell("row-actions", ""),
  };
  if (mayLaunch) {
    row.retry = element("button", {
      type: "submit",
      textContent: "Go on",
      ariaLabel: `Go on with fold ${fold.number} alone`,
      formAction: `${base}fold/${fold.number}/retry/`,
      className: "button small",
    });
    row.retry.setAttribute("form", "retry");
    row.actions.append(row.retry);
  }
  const line = element(
    "tr",
    {},
    head,
    cell("", "State", row.state),
    cell("doing", "", row.bar, row.standing),
    row.rate,
    row.left,
    row.accuracy,
    row.actions,
  );
  line.setAttribute("role", "row");
  part("folds").append(line);
  return row;
}

function showFolds() {
  for (const fold of status.folds) {
    if (!rows.has(fold.number)) rows.set(fold.number, makeRow(fold));
    const row = rows.get(fold.number);
    row.state.className = `state state-${fold.state}`;
    write(row.state, fold.state);
    row.bar.value = fold.share;
    write(row.standing, standing(fold));
    row.standing.title = fold.worker ? `on ${fold.worker}` : "";
    write(row.rate, fold.state === "running" ? number(fold.progress.rate) : "–");
    write(row.left, duration(fold.seconds_left));
    write(row.accuracy, fold.accuracy === null ? "–" : percent(fold.accuracy, 1));
    for (const cell of [row.rate, row.left, row.accuracy]) cell.classList.toggle("empty", cell.textContent === "–");
    if (row.retry) row.retry.hidden = !CAN.retry.includes(fold.state);
  }
}

/** The fold whose masks and log are shown: the chosen one, else one that runs, else the last that has begun. */
function fold() {
  const { folds } = status;
  return (
    folds.find(({ number }) => number === chosen) ??
    folds.find(({ state }) => state === "running") ??
    folds.findLast(({ samples, log }) => samples || log.length) ??
    folds[0]
  );
}

function showChooser() {
  const chooser = part("chooser");
  if (status.folds.length < 2) {
    chosen = status.folds[0]?.number ?? null;
    return;
  }
  chooser.hidden = false;
  if (!chooser.childElementCount) {
    for (const number of [null, ...status.folds.map((fold) => fold.number)]) {
      const button = element("button", {
        type: "button",
        textContent: number === null ? "All folds" : `Fold ${number}`,
        onclick: () => {
          chosen = number;
          history.replaceState(null, "", number === null ? location.pathname : `#fold-${number}`);
          show();
        },
      });
      button.dataset.number = String(number);
      chooser.append(button);
    }
  }
  for (const button of chooser.children) button.ariaPressed = String(button.dataset.number === String(chosen));
}

// Curves ---------------------------------------------------------------------------------------------------

const CHARTS = [
  { id: "mask-loss", stage: "mask", title: "Mask stage: loss", all: "loss", lines: { loss: "loss" }, write: number },
  {
    id: "joint-loss",
    stage: "joint",
    title: "Joint stage: loss",
    all: "loss",
    lines: { loss: "whole loss", mask_loss: "mask", classifier_loss: "classifier" },
    write: number,
  },
  {
    id: "accuracy",
    stage: "joint",
    title: "Held-out faces",
    all: "accuracy",
    lines: { accuracy: "accuracy", macro_f1: "macro-F1" },
    write: (value) => (value === null || value === undefined ? "–" : percent(value, 1)),
    shares: true,
  },
];
const charts = new Map();

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The lines of a chart: of all folds one quantity, of one fold all of them. */
function linesOf({ stage, all, lines }) {
  const found =
    chosen === null
      ? status.folds.map(({ number }) => [`fold ${number}`, curves.get(number)?.[stage], all])
      : Object.entries(lines).map(([name, label]) => [label, curves.get(chosen)?.[stage], name]);
  return found
    .map(([label, points, name], place) => ({ label, place, epochs: points?.epoch ?? [], values: points?.[name] ?? [] }))
    .filter(({ values }) => values.some((value) => value !== null));
}

/** Every line over the same epochs, as uPlot wants it. */
function align(lines) {
  const epochs = [...new Set(lines.flatMap((line) => line.epochs))].sort((one, other) => one - other);
  return [
    epochs,
    ...lines.map((line) => {
      const at = new Map(line.epochs.map((epoch, place) => [epoch, line.values[place]]));
      return epochs.map((epoch) => at.get(epoch) ?? null);
    }),
  ];
}

function makeChart(kind, lines, frame) {
  // While nobody points at an epoch, the legend tells what came last of each line.
  const idle = (plot) => {
    const idxs = plot.data.map((values) => values.findLastIndex((value) => value !== null));
    plot.setLegend({ idxs }, false);
  };
  const axis = {
    stroke: () => colour("--body-quiet-color"),
    grid: { stroke: () => colour("--hairline-color"), width: 1 },
    ticks: { stroke: () => colour("--hairline-color"), width: 1 },
    font: "12px system-ui, sans-serif",
  };
  return new uPlot(
    {
      width: Math.max(200, frame.clientWidth),
      height: 220,
      scales: {
        x: { time: false, range: (_, least, most) => (least === most ? [least - 1, most + 1] : [least, most]) },
        y: kind.shares ? { range: (_, least, most) => [Math.max(0, least - 0.05), Math.min(1, most + 0.05)] } : {},
      },
      axes: [
        { ...axis, incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000], label: "epoch", labelSize: 18, labelFont: axis.font, size: 30 },
        {
          ...axis,
          size: 54,
          ...(kind.shares && { incrs: [0.01, 0.02, 0.05, 0.1, 0.2, 0.25] }),
          values: (_, ticks) => ticks.map((tick) => (kind.shares ? percent(tick) : number(tick))),
        },
      ],
      series: [
        { label: "Epoch", value: (_, epoch) => epoch ?? "–" },
        ...lines.map(({ label, place }) => ({
          label,
          stroke: COLOURS[place % COLOURS.length],
          dash: place < COLOURS.length ? undefined : [6, 3],
          width: 2,
          points: { size: 6 },
          value: (_, value) => kind.write(value),
        })),
      ],
      cursor: { drag: { x: false, y: false }, focus: { prox: 30 }, points: { size: 8 }, sync: { key: kind.stage } },
      focus: { alpha: lines.length > 3 ? 0.3 : 1 },
      hooks: { setLegend: [(plot) => plot.cursor.idx === null && idle(plot)], ready: [idle] },
    },
    align(lines),
    frame,
  );
}

/** A chart's place in the page: its title, the drawing, and what a keyboard and a screen reader need. */
function makePlace(kind) {
  const frame = element("div", { className: "frame", tabIndex: 0 });
  frame.setAttribute("role", "group");
  frame.ariaLabel = `${kind.title} by epoch. The arrow keys go from epoch to epoch.`;
  const spoken = element("p", { className: "visually-hidden" });
  spoken.setAttribute("aria-live", "polite");
  const figure = element("figure", { className: "chart", id: kind.id }, element("h3", { textContent: kind.title }), frame, spoken);
  part("charts").append(figure);
  const place = { figure, frame, plot: null, shape: "" };
  frame.addEventListener("keydown", (event) => {
    const { plot } = place;
    const most = plot.data[0].length - 1;
    const at = plot.cursor.idx ?? most + 1;
    const to = { ArrowLeft: Math.max(0, at - 1), ArrowRight: Math.min(most, at + 1), Home: 0, End: most }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    plot.setCursor({ left: plot.valToPos(plot.data[0][to], "x"), top: plot.over.clientHeight / 2 });
    const values = plot.series.slice(1).map(({ label }, line) => `${label} ${kind.write(plot.data[line + 1][to])}`);
    spoken.textContent = `Epoch ${plot.data[0][to]}: ${values.join(", ")}`;
  });
  frame.addEventListener("blur", () => place.plot?.setCursor({ left: -10, top: -10 }));
  new ResizeObserver(() => place.plot?.setSize({ width: frame.clientWidth, height: 220 })).observe(frame);
  return place;
}

function showCurves() {
  let any = false;
  for (const kind of CHARTS) {
    const lines = linesOf(kind);
    if (!charts.has(kind.id)) charts.set(kind.id, makePlace(kind));
    const place = charts.get(kind.id);
    place.figure.hidden = !lines.length;
    if (!lines.length) continue;
    any = true;
    const shape = JSON.stringify([chosen, lines.map(({ label }) => label)]);
    if (place.shape !== shape) {
      place.plot?.destroy();
      place.plot = makeChart(kind, lines, place.frame);
      place.shape = shape;
    } else {
      place.plot.setData(align(lines));
    }
  }
  part("no-curves").hidden = any;
}

function redraw() {
  for (const { plot } of charts.values()) plot?.redraw(false);
}
new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// Sample faces ---------------------------------------------------------------------------------------------

const slider = part("sample-epoch");
let drawn = []; // [stage, epoch] of every strip of masks, in the order of their making
let drawnOf = null;

function showSamples() {
  const { number, samples } = fold() ?? {};
  part("samples").hidden = !samples;
  part("no-samples").hidden = Boolean(samples);
  part("samples-title").textContent =
    status.folds.length > 1 ? `Masks as they are learned in fold ${number}` : "Masks as they are learned";
  if (!samples) return;
  const follow = drawnOf !== number || Number(slider.value) === drawn.length - 1;
  const own = curves.get(number) ?? {};
  drawn = ["mask", "joint"].flatMap((stage) => (own[stage]?.epoch ?? []).map((epoch) => [stage, epoch]));
  if (!drawn.length) drawn = [[samples.stage, samples.epoch]];
  drawnOf = number;
  slider.max = drawn.length - 1;
  slider.disabled = drawn.length < 2;
  if (follow) slider.value = drawn.length - 1;
  picture(part("sample-faces"), samples.faces, "Faces that this fold is watched on");
  picture(part("sample-truth"), samples.truth, "Their pseudo truth: where each expression moves a face");
  showMask();
}

function showMask() {
  const { number } = fold();
  const [stage, epoch] = drawn[slider.value];
  const when = `${stage} stage, epoch ${epoch}`;
  const name = `${stage}-${String(epoch).padStart(4, "0")}.png`;
  picture(part("sample-mask"), `${base}fold/${number}/file/samples/${name}`, `Masks drawn for these faces after ${when}`);
  write(part("sample-caption"), `Mask after ${when}`);
  write(part("sample-when"), when);
  slider.setAttribute("aria-valuetext", when);
}
slider.addEventListener("input", showMask);

function picture(image, source, words) {
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = words;
}

// Log ------------------------------------------------------------------------------------------------------

function showLog() {
  const { number, log = [] } = fold() ?? {};
  const box = part("log");
  part("log-title").textContent = status.folds.length > 1 ? `Log of fold ${number}` : "Log";
  part("no-log").hidden = log.length > 0;
  box.hidden = part("whole-log").hidden = !log.length;
  part("whole-log").href = `${base}fold/${number}/file/log.txt`;
  const follow = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  const text = log.join("\n");
  if (box.textContent === text) return;
  box.textContent = text;
  if (follow) box.scrollTop = box.scrollHeight;
}

// Asking again and again -----------------------------------------------------------------------------------

function take(answer) {
  status = answer;
  for (const fold of answer.folds) if (fold.curves) curves.set(fold.number, fold.curves);
}

function show() {
  showChooser();
  showRun();
  showFolds();
  showCurves();
  showSamples();
  showLog();
}

addEventListener("hashchange", () => {
  chosen = location.hash.startsWith("#fold-") ? Number(location.hash.slice(6)) : null;
  show();
});

take(status);
show();
follow("run", () => `${base}status.json?known=${status.version}`, (answer) => {
  take(answer);
  show();
  return CAN.cancel.includes(status.run.state) ? EVERY : EVERY_ENDED;
});
