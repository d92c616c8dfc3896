// The result page: boxes and cards that know of each other, and the slider of each motion mask.
// Links from box to card and back work without this script; it adds the light and the focus.

function counterpart(part) {
  const name = part.dataset.face;
  return document.getElementById(part.id === name ? `box-${name}` : name);
}

for (const part of document.querySelectorAll("[data-face]")) {
  const light = (on) => () => {
    part.classList.toggle("lit", on);
    counterpart(part).classList.toggle("lit", on);
  };
  part.addEventListener("pointerenter", light(true));
  part.addEventListener("pointerleave", light(false));
  part.addEventListener("focusin", light(true));
  part.addEventListener("focusout", light(false));
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

for (const link of document.querySelectorAll("a.box, a.locate")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const target = document.getElementById(link.getAttribute("href").slice(1));
    target.focus({ preventScroll: true });
    target.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth", block: target.matches(".face") ? "center" : "nearest" });
  });
}

for (const slider of document.querySelectorAll("[data-opacity]")) {
  const mask = slider.closest("figure").querySelector(".mask");
  const show = () => {
    mask.style.opacity = slider.value / 100;
    slider.setAttribute("aria-valuetext", `${slider.value}\u202f%`);
  };
  slider.addEventListener("input", show);
  show(); // browsers keep a slider's place when a page is loaded again
}
