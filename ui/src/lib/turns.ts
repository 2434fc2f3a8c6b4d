/** Drawing that takes turns, one piece in each frame: charts that change at once make several short tasks and not one long. */

const waiting = new Set<() => void>();
let frame = 0;

function next(): void {
  frame = 0;
  for (const draw of waiting) {
    waiting.delete(draw);
    draw();
    break;
  }
  if (waiting.size) frame = requestAnimationFrame(next);
}

/** Has something drawn in a frame of its own, soon; what waits already is drawn once. */
export function drawInTurn(draw: () => void): void {
  waiting.add(draw);
  frame ||= requestAnimationFrame(next);
}

/** What was to be drawn is gone. */
export function drawNoMore(draw: () => void): void {
  waiting.delete(draw);
}
