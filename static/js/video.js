// The upload form of a video.
import { bringToLife } from "./sending.js";

bringToLife(document.querySelector("#video"), ([file], texts) => ({
  name: file.name,
  problem: file.size > Number(texts.maxMegabytes) * 1e6 ? texts.tooLarge : undefined,
}));
