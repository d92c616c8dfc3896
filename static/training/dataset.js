// The page of a data set while it is looked at: shows how far that is, and the result when it is there.
// The first answer is in the page itself.

import { teller } from "../js/sending.js";
import { EVERY, follow } from "./asking.js";

const page = document.querySelector("#dataset");
const progress = page.querySelector("#progress");
const tell = progress && teller(progress);

function show(at) {
  page.querySelector("#stopped").hidden = !at?.stopped;
  progress.hidden = !at || at.stopped;
  if (progress.hidden) return;
  const bar = progress.querySelector("progress");
  if (at.total) {
    bar.max = at.total;
    bar.value = at.done;
  } else {
    bar.removeAttribute("value");
  }
  const sentence = at.total ? `${at.doing}: ${at.done} of ${at.total}` : at.doing;
  tell(sentence, `${at.doing} ${at.total ? Math.floor((10 * at.done) / at.total) : ""}`);
}

if (progress && !page.dataset.inspected) {
  follow("data set", () => page.dataset.status, ({ inspected, progress: at }) => {
    if (inspected) location.reload();
    else show(at);
    return EVERY;
  });
}
