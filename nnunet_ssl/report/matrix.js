"use strict";
(() => {
  const grid = document.getElementById("grid"), body = grid.tBodies[0], [bound, ...lines] = body.rows;
  const controls = document.getElementById("controls"), shown = document.getElementById("shown");
  const [find, kind, suite] = ["find", "kind", "suite"].map(id => document.getElementById(id));
  const heads = [...grid.tHead.rows[0].cells];
  const valueOf = (row, column) => row.cells[column].dataset.value;

  function filter() {
    const text = find.value.trim().toLowerCase(), column = Number(suite.value);
    heads.forEach((head, number) => {
      const away = column > 0 && number > 0 && number !== column;
      for (const row of grid.rows) row.cells[number].hidden = away;
    });
    let count = 0;
    for (const row of lines) {
      let cells = 0;
      for (const cell of row.cells) {
        if (cell.dataset.value === undefined) continue;
        const fits = !kind.value || cell.dataset.kind === kind.value;
        cell.classList.toggle("unlike", !fits);
        if (fits && !cell.hidden) cells += 1;
      }
      row.hidden = !cells || !row.cells[0].textContent.toLowerCase().includes(text);
      count += row.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${lines.length}`;
  }

  function sort(column) {
    const down = heads[column].getAttribute("aria-sort") !== "descending";
    heads.forEach(head => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const ordered = [...lines].sort((a, b) => {
      if (column === 0) return -sign * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (x - y);
    });
    body.append(bound, ...ordered);
  }

  heads.forEach((head, column) => {
    head.tabIndex = 0;
    head.title = "sort";
    head.addEventListener("click", event => { if (!event.target.closest("a")) sort(column); });
    head.addEventListener("keydown", event => { if (event.key === "Enter" && event.target === head) sort(column); });
  });
  controls.addEventListener("submit", event => event.preventDefault());
  for (const control of [find, kind, suite]) control.addEventListener("input", filter);
  controls.hidden = false;
  filter();
})();
