// Draws a heat map over the image that the model saw.

const STOPS = [[42, 13, 92], [85, 15, 109], [138, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [252, 255, 164]];
const WIDEST = 640; // pixels of the canvas
const TINY = 64;

export async function loadImage(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  await image.decode();
  return image;
}

export function draw(canvas, image, heat, opacity) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const largest = Math.max(width, height);
  const scale = largest > WIDEST ? WIDEST / largest : Math.floor(WIDEST / largest);
  canvas.width = Math.max(1, width * scale);
  canvas.height = Math.max(1, height * scale);
  canvas.style.setProperty("--ratio", width / height);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = largest >= TINY; // smaller ones stay pixels
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.globalAlpha = opacity;
  context.drawImage(colour(heat), 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
}

// One pixel for each place of the layer's map: the stronger, the brighter and the less transparent.
function colour(heat) {
  const small = document.createElement("canvas");
  small.width = heat[0].length;
  small.height = heat.length;
  const pixels = new ImageData(small.width, small.height);
  heat.flat().forEach((value, place) => {
    const at = Math.min(Math.max(value, 0), 1) * (STOPS.length - 1);
    const low = Math.min(Math.floor(at), STOPS.length - 2);
    for (let i = 0; i < 3; i++) {
      pixels.data[4 * place + i] = STOPS[low][i] + (at - low) * (STOPS[low + 1][i] - STOPS[low][i]);
    }
    pixels.data[4 * place + 3] = 255 * (0.2 + 0.8 * value);
  });
  small.getContext("2d").putImageData(pixels, 0, 0);
  return small;
}
