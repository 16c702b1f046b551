"use strict";
// Sorting, filtering, and one run shown in all pictures at once. The page says everything without it.
(() => {
  const each = (what, act, where = document) => where.querySelectorAll(what).forEach(act);

  // a click on a column's head sorts; numbers by value, cells without one last
  each("table.sortable", (table) => {
    const body = table.tBodies[0];
    each("th button", (button) => {
      const head = button.parentElement;
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        each("th", (other) => other.removeAttribute("aria-sort"), table);
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (row) => row.cells[head.cellIndex].dataset.value ?? "";
        const rows = [...body.rows].sort((a, b) => {
          const [x, y] = [value(a), value(b)];
          if (x === "" || y === "") return (x === "") - (y === "");
          const [n, m] = [Number(x), Number(y)];
          const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m;
          return down ? -order : order;
        });
        body.append(...rows);
      });
    }, table);
  });

  // a run under the pointer, or one that was clicked, is the only one in full colour
  let held = null;
  const show = (run) => {
    document.body.classList.toggle("choosing", run !== null);
    each("[data-run]", (one) => one.classList.toggle("chosen", run !== null && one.dataset.run === run));
  };
  each("[data-run]", (one) => {
    const run = one.dataset.run;
    if (!run) return;
    one.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(run));
    one.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(held));
    one.addEventListener("click", () => {
      held = held === run ? null : run;
      show(held);
    });
  });

  // text typed above a table leaves the rows that hold it
  each("input[type=search]", (input) => {
    const table = document.getElementById(input.dataset.table);
    input.addEventListener("input", () => {
      const wanted = input.value.toLowerCase();
      for (const row of table.tBodies[0].rows)
        row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
  });
})();
