// Copies a new key. Without this script it can be selected as it stands.

const key = document.querySelector("#key");
const copy = document.querySelector("#copy");

key.addEventListener("focus", () => key.select());

if (navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(key.value);
    copy.textContent = copy.dataset.copied;
    document.querySelector("#status").textContent = copy.dataset.copied;
  });
}
