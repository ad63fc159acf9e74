const specs = JSON.parse(document.getElementById("specs").textContent);
const narrow = matchMedia("(max-width: 40rem)");

function draw() {
  for (const [id, spec] of Object.entries(specs)) {
    const legend = { ...spec.config.legend, columns: narrow.matches ? 1 : 0 };
    const config = { ...spec.config, legend };
    vegaEmbed(document.getElementById(id), { ...spec, config }, { actions: false, renderer: "svg" });
  }
}

function value(row, column) {
  const cell = row.cells[column];
  if (!("key" in cell.dataset)) return cell.textContent;
  return cell.dataset.key === "" ? Infinity : Number(cell.dataset.key);
}

function sort(head) {
  const column = head.cellIndex;
  const body = head.closest("table").tBodies[0];
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const compare = (a, b) => (a === b ? 0 : typeof a === "string" ? a.localeCompare(b) : a - b);
  const rows = [...body.rows];
  rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
  body.append(...rows);
}

function filter(runner) {
  for (const part of document.querySelectorAll("#figures [data-runner]")) {
    part.hidden = runner !== "" && part.dataset.runner !== runner;
  }
}

draw();
narrow.addEventListener("change", draw);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
document.getElementById("runner")?.addEventListener("change", (event) => filter(event.target.value));
// A closed list would be missing on paper.
addEventListener("beforeprint", () => {
  for (const list of document.querySelectorAll("details")) list.open = true;
});
