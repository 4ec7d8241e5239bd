"use strict";
(() => {
  const report = JSON.parse(document.getElementById("report-data").textContent);
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Tables are packed by column, words as codes.
  const columns = (name) =>
    report.tables[name].columns.map((c) => ({ ...c, values: c.codes ? c.codes.map((i) => c.words[i]) : c.values }));
  const records = (name) => {
    const packed = columns(name);
    return Array.from({ length: report.tables[name].length }, (_, i) =>
      Object.fromEntries(packed.map((c) => [c.name, c.values[i]])));
  };

  const save = (content, name) => {
    const link = make("a", "", { href: content instanceof Blob ? URL.createObjectURL(content) : content, download: name });
    document.body.append(link);
    link.click();
    link.remove();
  };
  const csv = (name) => {
    const shown = columns(name).filter((c) => c.title);
    const quoted = (v) => (v === null ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v));
    const lines = [shown.map((c) => quoted(c.title))];
    for (let i = 0; i < report.tables[name].length; i++) lines.push(shown.map((c) => quoted(c.values[i])));
    return new Blob([lines.map((line) => line.join(",")).join("\n") + "\n"], { type: "text/csv" });
  };

  const fill = (place, name, label) => {
    const shown = columns(name).filter((c) => c.title);
    const table = make("table", "", { class: "sortable" });
    table.append(make("caption", label, { class: "hidden" }));
    // Five digits of the column's largest number; the CSV has all that the page has.
    for (const c of shown.filter((c) => !c.codes)) {
      const largest = c.values.reduce((most, v) => Math.max(most, Math.abs(v ?? 0)), 0);
      const whole = c.values.every((v) => v === null || Number.isInteger(v));
      c.decimals = whole ? 0 : Math.min(6, Math.max(0, 4 - Math.floor(Math.log10(largest))));
    }
    const written = (c, v) => {
      if (v === null || c.codes) return v ?? "–";
      const fixed = v.toFixed(c.decimals);
      return (v !== 0 && Number(fixed) === 0 ? v.toExponential(1) : fixed).replaceAll("-", "−");
    };
    const head = table.createTHead().insertRow();
    for (const c of shown) {
      const th = make("th", "", { scope: "col", "aria-sort": "none" });
      if (!c.codes) th.className = "number";
      th.append(make("button", c.title, { type: "button" }));
      head.append(th);
    }
    const body = table.createTBody();
    for (let i = 0; i < report.tables[name].length; i++) {
      const row = body.insertRow();
      for (const c of shown) {
        const value = c.values[i];
        const cell = row.appendChild(c === shown[0] ? make("th", "", { scope: "row" }) : make("td"));
        cell.textContent = written(c, value);
        if (!c.codes) {
          cell.className = "number";
          cell.dataset.sort = value ?? "";
        }
      }
    }
    place.append(table);
    sortable(table);
    filterable(table);
  };

  // A filter for every table that is longer than a glance: each word that is typed must stand in the row.
  let filters = 0;
  function filterable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 5 || table.dataset.filter === "no") return;
    const id = `filter-${++filters}`;
    const line = make("p", "", { class: "filter" });
    const input = make("input", "", { id, type: "search", autocomplete: "off", spellcheck: "false" });
    const told = make("output", "", { for: id, "aria-live": "polite" });
    const label = make("label", "Filter", { for: id });
    label.append(make("span", ` the rows of: ${table.caption.textContent.slice(0, 80)}`, { class: "hidden" }));
    line.append(label, input, told);
    const place = table.closest(".scroll");
    place.before(line);
    input.addEventListener("input", () => {
      const wanted = input.value.trim().toLowerCase().split(/\s+/);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
      }
      const left = rows.filter((row) => !row.hidden).length;
      told.textContent = input.value.trim() ? `${left} of ${rows.length}` : "";
    });
  }

  // Sorting: a click or Enter on a column's button; cells without a value always come last.
  function sortable(table) {
    const body = table.tBodies[0];
    all("thead button", table).forEach((button) => {
      const th = button.parentElement;
      button.addEventListener("click", () => {
        const up = th.getAttribute("aria-sort") === "none" ? !th.classList.contains("number")
          : th.getAttribute("aria-sort") === "descending";
        const key = (row) => row.cells[th.cellIndex].dataset.sort ?? row.cells[th.cellIndex].textContent;
        const rows = [...body.rows].map((row) => ({ row, key: key(row) }));
        rows.sort((a, b) => {
          if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
          const order = th.classList.contains("number") ? a.key - b.key
            : a.key.localeCompare(b.key, undefined, { numeric: true });
          return up ? order : -order;
        });
        body.append(...rows.map((r) => r.row));
        all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
      });
    });
  }
  all("table.sortable").forEach((table) => { sortable(table); filterable(table); });

  // The page follows the system until the reader chooses.
  const theme = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const named = () => { theme.textContent = isDark() ? "Light page" : "Dark page"; };
  theme.hidden = false;
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; named(); });
  dark.addEventListener("change", named);
  named();

  const copy = document.getElementById("copy");
  if (copy && navigator.clipboard) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(copy.previousElementSibling.textContent);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Select and copy";
      }
    });
  }

  const links = new Map(all("nav a").map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) links.forEach((a, id) =>
        (id === entry.target.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  all("main > section").forEach((section) => seen.observe(section));

  // Charts: the widest layout that fits; anything narrower than the page is scaled by the style sheet.
  const views = new Map();
  const layout = (id, place) => {
    const layouts = report.figures[id].layouts;
    return layouts.find((l) => l.width <= place.clientWidth * 1.12) ?? layouts.at(-1);
  };
  const draw = async (figure) => {
    const id = figure.dataset.figure;
    const place = figure.querySelector(".chart");
    const controls = figure.querySelector(".controls");
    const wanted = layout(id, place);
    const old = views.get(id);
    if (old && old.width === wanted.width) return;
    const spec = { ...wanted.spec, description: place.dataset.description };
    spec.datasets = Object.fromEntries(report.figures[id].tables.map((name) => [name, records(name)]));
    const bound = (spec.params ?? []).filter((p) => p.bind && p.bind !== "legend").map((p) => p.name);
    const kept = old ? bound.map((name) => [name, old.view.signal(name)]) : [];
    old?.finalize();
    controls.replaceChildren();
    const result = await window.vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config: report.config, bind: controls, tooltip: { theme: "custom" },
    });
    // From here on errors only: panels that a selector takes away warn, on their way out, that they have no data.
    result.view.logLevel(1);
    controls.hidden = bound.length === 0;
    kept.forEach(([name, value]) => result.view.signal(name, value));
    if (kept.length) await result.view.runAsync();
    views.set(id, { view: result.view, finalize: result.finalize, width: wanted.width });
  };
  const prepare = (figure) => {
    const id = figure.dataset.figure;
    const [first] = report.figures[id].tables;
    const details = figure.querySelector("details.data");
    details.addEventListener("toggle", () => {
      const place = details.querySelector(".scroll");
      if (details.open && !place.firstChild) fill(place, first, place.getAttribute("aria-label"));
    });
    figure.querySelector(".save").hidden = false;
    all("[data-save]", figure).forEach((button) => button.addEventListener("click", async () => {
      const kind = button.dataset.save;
      if (kind === "csv") save(csv(first), `${id}.csv`);
      else save(await views.get(id).view.toImageURL(kind, kind === "png" ? 3 : 1), `${id}.${kind}`);
    }));
  };
  const drawAll = async () => {
    for (const figure of all("figure[data-figure]")) {
      try {
        await draw(figure);
      } catch (error) {
        console.error(`figure ${figure.dataset.figure}: ${error}`);
        figure.querySelector(".chart").replaceChildren(make("p", `This chart could not be drawn (${error.message}).`));
      }
    }
    root.dataset.charts = "ready";
  };
  all("figure[data-figure]").forEach(prepare);
  let waiting = drawAll();
  let timer = 0;
  window.addEventListener("resize", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { waiting = waiting.then(drawAll); }, 200);
  });
})();
