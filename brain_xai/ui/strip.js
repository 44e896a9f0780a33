// The strip of a study: a click shows the slice there. The slider does the same for a keyboard.
element.addEventListener("click", (event) => {
  const bars = event.target.closest("svg");
  if (!bars) return;
  const { left, width } = bars.getBoundingClientRect();
  const count = Number(bars.dataset.slices);
  const slice = 1 + Math.floor(((event.clientX - left) / width) * count);
  trigger("select", { index: Math.min(Math.max(slice, 1), count), value: null });
});
