// What NiceGUI's widgets do not do: files dropped anywhere, zooming by wheel, trackpad and two fingers, and telling of a
// window that is another size.
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => {
  event.preventDefault();
  const upload = document.querySelector(".files");
  if (name === "drop" && upload) getElement(Number(upload.id.slice(1))).$refs.qRef.addFiles(event.dataTransfer.files);
});

let zoom = null;  // what has been asked for since the last message: { plane, across, down, factor }

function zoomBy(plane, x, y, factor) {
  const box = plane.getBoundingClientRect();
  if (!zoom) setTimeout(() => {
    const { plane, ...detail } = zoom;
    zoom = null;
    plane.dispatchEvent(new CustomEvent("zoom", { detail }));
  }, 60);
  const before = zoom ? zoom.factor : 1;
  zoom = { plane, across: (x - box.left) / box.width, down: (y - box.top) / box.height, factor: before * factor };
}

document.addEventListener("wheel", (event) => {
  const plane = event.target.closest(".zooms");
  if (!plane) return;
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 33 : 1;  // a mouse may count lines
  zoomBy(plane, event.clientX, event.clientY, Math.exp(event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)));
}, { passive: false });

let apart = null;  // how far two fingers are from each other

document.addEventListener("touchmove", (event) => {
  const plane = event.target.closest(".zooms"), [a, b] = event.touches;
  if (!plane) return;
  event.preventDefault();
  if (b) {
    const now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
    if (apart) zoomBy(plane, (a.clientX + b.clientX) / 2, (a.clientY + b.clientY) / 2, apart / now);
    apart = now;
  } else {  // one finger moves the point
    const place = { clientX: a.clientX, clientY: a.clientY, bubbles: true };
    plane.querySelector("img").dispatchEvent(new MouseEvent("mousemove", place));
  }
}, { passive: false });

for (const name of ["touchend", "touchcancel"]) document.addEventListener(name, () => { apart = null; });

let resizing = null;

window.addEventListener("resize", () => {
  clearTimeout(resizing);  // while a border is dragged
  resizing = setTimeout(() => document.querySelector(".zooms")?.dispatchEvent(new CustomEvent("resized")), 200);
});
