// The page of a data set while it is looked at: shows how far that is, and the result when it is there.

const page = document.querySelector("#dataset");
const progress = page.querySelector("#progress");

async function poll() {
  try {
    const answer = await fetch(page.dataset.status, { cache: "no-store", redirect: "manual" });
    if (answer.ok) {
      const { inspected, progress: at } = await answer.json();
      if (inspected) {
        location.reload();
        return;
      }
      progress.hidden = !at;
      if (at) {
        const bar = progress.querySelector("progress");
        if (at.total) {
          bar.max = at.total;
          bar.value = at.done;
        } else {
          bar.removeAttribute("value");
        }
        progress.querySelector("p").textContent = at.total ? `${at.doing}: ${at.done} of ${at.total}` : at.doing;
      }
    }
  } catch {
    // The server does not answer: the next time tells.
  }
  setTimeout(poll, 2_000);
}

if (progress && !page.dataset.inspected) poll();
