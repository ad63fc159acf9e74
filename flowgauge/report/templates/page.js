const specs = JSON.parse(document.getElementById("specs").textContent);
const narrow = matchMedia("(max-width: 40rem)");

const filters = document.getElementById("filters");
// The views of the charts that have been drawn, by the ids of their elements.
const drawn = (window.drawn = new Map());

// Return the selected value of a filter; an empty one means all.
function chosen(name) {
  return filters?.elements[name]?.value ?? "";
}

// Apply the filters to a chart. The filter's "all" does not change a chart's own selection.
function refilter(view) {
  const { signals } = view.getState({ signals: () => true });
  if ("runner_shown" in signals) view.signal("runner_shown", chosen("runner"));
  if ("kernel" in signals && chosen("kernel")) view.signal("kernel", chosen("kernel"));
  view.runAsync();
}

function draw() {
  for (const [id, spec] of Object.entries(specs)) {
    const legend = { ...spec.config.legend, columns: narrow.matches ? 1 : 0 };
    const config = { ...spec.config, legend };
    const options = { actions: false, renderer: "svg" };
    vegaEmbed(document.getElementById(id), { ...spec, config }, options).then(({ view }) => {
      drawn.set(id, view);
      refilter(view);
    });
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

function filter() {
  const others = (name, value = "") => chosen(name) && value && value !== chosen(name);
  for (const part of document.querySelectorAll("#figures :is([data-runner], [data-kernel])")) {
    const { runner, kernel } = part.dataset;
    part.hidden = Boolean(others("runner", runner) || others("kernel", kernel));
  }
  drawn.forEach(refilter);
}

draw();
narrow.addEventListener("change", draw);
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sort(button.parentNode));
}
if (filters) {
  filters.hidden = false;
  filters.addEventListener("change", filter);
  // After "back" the browser keeps the selected values.
  filter();
}
// Closed details would be missing in print.
addEventListener("beforeprint", () => {
  for (const list of document.querySelectorAll("details")) list.open = true;
});
