// The launch form: empty fields say what the chosen preset has, and a second click sends nothing.
// Without this script the form works as it stands; the server counts a form once in any case.

const form = document.querySelector("#launch");

if (form) {
  const presets = JSON.parse(document.querySelector("#presets").textContent);

  const show = () => {
    const chosen = form.querySelector("[name=preset]:checked");
    if (!chosen) return;
    for (const [name, value] of Object.entries(presets[chosen.value])) {
      const field = form.elements[name];
      if (field.tagName === "SELECT") {
        const own = [...field.options].find((option) => option.value === value);
        field.options[0].textContent = `preset: ${own ? own.textContent : value}`;
      } else {
        field.placeholder = value;
      }
    }
  };
  form.addEventListener("change", (event) => event.target.name === "preset" && show());
  show();

  // New folds are counted only where new ones are made, and one training has none to choose from.
  const folds = () => {
    const chosen = form.querySelector("[name=protocol]:checked");
    if (!chosen) return;
    const protocol = chosen.value;
    form.querySelector(".field-fold_count").hidden = protocol !== "made";
    // What is not seen must not keep the form from being sent; the button beside leaks wants a number still.
    const count = form.elements.fold_count;
    if (protocol !== "made" && !count.validity.valid) count.value = count.defaultValue;
    form.querySelector(".field-folds").hidden = chosen.dataset.ownSplits.split(" ").includes(protocol);
  };
  form.addEventListener("change", folds);
  folds();

  // A browser can point only at a field that is seen.
  form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);

  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    const button = event.submitter ?? form.querySelector("[type=submit]");
    // Disabled at once, the button would not be sent along.
    setTimeout(() => {
      button.disabled = true;
      if (button.tagName === "INPUT") button.value = "Launching…";
      else button.textContent = "Launching…";
    });
  });
  // Back from the run's page, a browser may show this form as it was left.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
