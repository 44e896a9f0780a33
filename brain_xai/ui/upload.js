// The place to choose an image or a study: any file, dropped, pasted or picked, so that a wrong one gets our own sentence.
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

// Files of a series, a volume, or a DICOM file of many frames go to the section for studies.
async function isStudy(files) {
  if (files.length !== 1) return files.length > 1;
  if (/\.(zip|nii|nii\.gz)$/i.test(files[0].name)) return true;
  const head = new TextDecoder("latin1").decode(await files[0].slice(0, 65536).arrayBuffer());
  const frames = /\x28\0\x08\0[^]{4}( *\d+)/.exec(head); // "number of frames" is an early element: tag, length, text
  return head.startsWith("DICM", 128) && frames !== null && Number(frames[1]) > 1;
}

async function sendStudy(files) {
  note().textContent = say().busy;
  try {
    const sent = [];
    for (const file of files) {
      const { path, url } = await upload(file);
      sent.push({ path, url, size: file.size, meta: { _type: "gradio.FileData" } });
    }
    props.value = { files: sent };
    note().textContent = "";
    trigger("submit");
  } catch (error) {
    note().textContent = say().failed;
  }
}

async function receive(list) {
  const files = [...list]; // the browser empties the list
  if (await isStudy(files)) await sendStudy(files);
  else await send(files[0]);
}

element.addEventListener("change", (event) => {
  receive(event.target.files);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // a file dropped beside the place must not replace the page
    element.classList.toggle("dragging", name === "dragenter" || name === "dragover");
    if (name === "drop" && !event.target.closest("#study-files")) receive(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => receive(event.clipboardData.files));
