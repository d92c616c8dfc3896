// The upload form of a batch: a ZIP, or many photos.
import { bringToLife } from "./sending.js";

bringToLife(document.querySelector("#photos"), (files, texts) => ({
  name: files.length === 1 ? files[0].name : texts.chosen.replace("[count]", files.length),
  problem: complaint(files, texts),
}));

function complaint(files, texts) {
  if (files.length > Number(texts.maxPhotos)) return texts.tooMany;
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  return bytes > Number(texts.maxMegabytes) * 1e6 ? texts.tooLarge : undefined;
}
