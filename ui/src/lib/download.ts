/** Files for the reader: tables as CSV, charts as PNG. */

export type Cell = string | number | boolean | null | undefined;

/** RFC 4180, with a first line of names. A cell that a spreadsheet would take for a formula is kept a text by an apostrophe. */
export function csv(names: string[], rows: Cell[][]): string {
  const quote = (cell: Cell) => {
    if (cell === null || cell === undefined) return "";
    const text = typeof cell === "string" && /^[=+\-@\t\r]/.test(cell) ? `'${cell}` : String(cell);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...rows].map((row) => row.map(quote).join(",")).join("\r\n") + "\r\n";
}

export function save(name: string, content: Blob): void {
  const url = URL.createObjectURL(content);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export function saveCsv(name: string, names: string[], rows: Cell[][]): void {
  save(`${name}.csv`, new Blob([csv(names, rows)], { type: "text/csv;charset=utf-8" }));
}

/** A chart as it stands in the page: a canvas as it is, an SVG drawn with the styles it has here. */
export async function savePng(name: string, chart: HTMLCanvasElement | SVGSVGElement): Promise<void> {
  const canvas = chart instanceof HTMLCanvasElement ? onPaper(chart) : await drawn(chart);
  canvas.toBlob((blob) => blob && save(`${name}.png`, blob), "image/png");
}

function paper(): string {
  return getComputedStyle(document.documentElement).getPropertyValue("--surface").trim() || "#fff";
}

function onPaper(chart: HTMLCanvasElement): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = chart.width;
  canvas.height = chart.height;
  const pen = canvas.getContext("2d");
  if (pen) {
    pen.fillStyle = paper();
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(chart, 0, 0);
  }
  return canvas;
}

const KEPT = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
];

async function drawn(chart: SVGSVGElement): Promise<HTMLCanvasElement> {
  const copy = chart.cloneNode(true) as SVGSVGElement;
  const [from, to] = [chart.querySelectorAll("*"), copy.querySelectorAll("*")];
  from.forEach((element, i) => {
    const style = getComputedStyle(element);
    for (const name of KEPT) to[i]?.setAttribute(name, style.getPropertyValue(name));
  });
  const { width, height } = chart.getBoundingClientRect();
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = width * 2;
  canvas.height = height * 2;
  const pen = canvas.getContext("2d");
  if (pen) {
    pen.fillStyle = paper();
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  }
  return canvas;
}
