// The place to choose an image: any file, dropped, pasted or picked, so that a wrong one gets our own sentence.
const say = () => props.words[navigator.language.slice(0, 2)] || props.words.en;
const note = () => element.querySelector(".note");

async function send(file) {
  if (!file) return;
  if (file.size > props.limit) {
    note().textContent = say().large;
    return;
  }
  note().textContent = say().busy;
  element.classList.add("asked"); // the page makes room for the answer at once
  for (const button of document.querySelectorAll("#cases [aria-pressed=true]")) button.ariaPressed = false;
  try {
    const { path, url } = await upload(file);
    props.value = { path, url, size: file.size, meta: { _type: "gradio.FileData" } };
    note().textContent = "";
    trigger("upload");
  } catch (error) {
    note().textContent = say().failed;
  }
}

element.addEventListener("change", (event) => {
  send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // a file dropped beside the place must not replace the page
    element.classList.toggle("dragging", name === "dragenter" || name === "dragover");
    if (name === "drop") send(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => send(event.clipboardData.files[0]));
