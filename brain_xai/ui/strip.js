// The strip of cases: a tap chooses one.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  element.querySelector(".chosen")?.classList.remove("chosen");
  button.classList.add("chosen");
  trigger("select", { index: Number(button.dataset.index), value: null });
});
