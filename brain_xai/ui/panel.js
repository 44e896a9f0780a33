// A panel: its button fills the screen with it, and spots of a scan can be covered by tapping or painting.
const close = () => element.querySelector(".panel")?.classList.remove("filling");
let points = null;

element.addEventListener("click", (event) => {
  if (event.target.closest(".full-screen")) element.querySelector(".panel").classList.toggle("filling");
});
document.addEventListener("keydown", (event) => event.key === "Escape" && close());

function point(event) {
  const { left, top, width, height } = event.target.getBoundingClientRect();
  return [(event.clientX - left) / width, (event.clientY - top) / height];
}

element.addEventListener("pointerdown", (event) => {
  if (event.target.matches(".tappable img")) points = [point(event)];
});
element.addEventListener("pointermove", (event) => {
  // A finger that moves scrolls the page.
  if (points && event.pointerType === "mouse" && event.target.matches("img")) points.push(point(event));
});
element.addEventListener("pointercancel", () => (points = null));
element.addEventListener("pointerup", () => {
  if (points) trigger("select", { index: points, value: null });
  points = null;
});
