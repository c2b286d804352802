"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 640px)");
  const drawn = new Set();

  // Colours in a figure are the names of CSS variables, so that one palette serves tables and pictures in both themes.
  function coloured(value, key, style) {
    if (Array.isArray(value)) return value.map((item) => coloured(item, key, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, coloured(item, name, style)]));
    }
    const isColour = typeof value === "string" && value.startsWith("--") && /color$/.test(key);
    return isColour ? style.getPropertyValue(value).trim() : value;
  }

  function decades(traces, key) {
    const values = traces.flatMap((trace) => trace[key]).filter((value) => value > 0);
    return values.length ? Math.log10(values.reduce((a, b) => Math.max(a, b)) / values.reduce((a, b) => Math.min(a, b))) : 0;
  }

  // A read of the waterfall: a short upright stroke. All of a figure's are one line with gaps, and so one SVG path.
  function stroked(trace) {
    if (trace.type !== "ticks") return trace;
    return {
      ...trace, type: "scatter", mode: "lines", hoverinfo: "skip",
      x: trace.x.flatMap((at) => [at, at, null]), y: trace.y.flatMap((row) => [row - 0.36, row + 0.36, null]),
    };
  }

  function themed(spec) {
    const style = getComputedStyle(root);
    const get = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: get("--rule"), linecolor: get("--axis"), zerolinecolor: get("--rule"), tickcolor: get("--axis"),
      ticks: "outside", ticklen: 4, showline: true, automargin: true, nticks: narrow.matches ? 6 : 7,
      title: { font: { size: 12, color: get("--muted") }, standoff: 8 }, tickfont: { size: 11, color: get("--muted") },
      separatethousands: true, minorloglabels: "complete", exponentformat: "none",
    };
    const layout = structuredClone(spec.layout);
    for (const name of ["xaxis", "yaxis"]) {
      const own = layout[name];
      layout[name] = { ...axis, ...own, title: { ...axis.title, ...own.title } };
      if (own.type === "log") layout[name].dtick = decades(spec.traces, name[0]) > 2 ? 1 : "D2";
    }
    return {
      traces: coloured(spec.traces, "", style).map(stroked),
      layout: {
        ...coloured(layout, "", style),
        margin: { l: 8, r: 12, t: 8, b: 8, pad: 0 }, showlegend: false, hovermode: "closest",
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: get("--sans"), color: get("--ink"), size: 12 },
        hoverlabel: { bgcolor: get("--paper"), bordercolor: get("--axis"), font: { color: get("--ink"), size: 12 }, align: "left", namelength: 40 },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: get("--muted"), activecolor: get("--ink") },
        // A finger that scrolls the page must not zoom the picture.
        dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      },
    };
  }

  // The library is most of the file: it waits as text until the page has been seen, or is printed.
  function library() {
    const waiting = document.getElementById("plotly");
    if (!waiting) return;
    const script = document.createElement("script");
    script.text = waiting.text;
    waiting.remove();
    document.body.append(script); // runs before the next line
  }

  function draw(plot) {
    library();
    const spec = JSON.parse(plot.nextElementSibling.textContent);
    const { traces, layout } = themed(spec);
    drawn.add(plot);
    return Plotly.react(plot, traces, layout, {
      responsive: true, displaylogo: false, displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false, showTips: false,
      modeBarButtons: [["resetScale2d", "toImage"]],
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) { watcher.unobserve(entry.target); draw(entry.target); }
    }
  }, { rootMargin: "300px" });
  // The library is read once the first screen has been seen: before, it would only delay it.
  let begun = false;
  const begin = () => {
    if (begun) return;
    begun = true;
    plots.forEach((plot) => watcher.observe(plot));
    setTimeout(library, 1000); // no picture near the first screen: ready before the reader scrolls to one
  };
  new PerformanceObserver(begin).observe({ type: "paint", buffered: true });
  setTimeout(begin, 5000); // a browser that does not tell
  const redraw = () => drawn.forEach((plot) => draw(plot));
  dark.addEventListener("change", redraw);
  narrow.addEventListener("change", redraw);

  // On paper: light, and every picture of what is shown. The styles of print are not in force yet when this runs.
  addEventListener("beforeprint", () => {
    root.dataset.theme = "print";
    plots.filter((plot) => plot.offsetParent).forEach((plot) => draw(plot));
  });
  addEventListener("afterprint", () => { delete root.dataset.theme; redraw(); });

  function showLevel(number) {
    document.querySelectorAll(".panel").forEach((panel) => { panel.hidden = panel.dataset.level !== number; });
    document.querySelectorAll("[data-show-level]").forEach((button) => {
      button.setAttribute("aria-pressed", String(button.dataset.showLevel === number));
    });
  }
  const choosers = document.querySelectorAll("[data-show-level]");
  choosers.forEach((button) => button.addEventListener("click", () => {
    // Panels above may differ in height: keep the pressed button where the reader's eye is.
    const before = button.getBoundingClientRect().top;
    showLevel(button.dataset.showLevel);
    scrollBy(0, button.getBoundingClientRect().top - before);
  }));
  if (choosers.length) { root.classList.add("choosing"); showLevel("0"); }

  function sortBy(table, column, header) {
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    table.querySelectorAll("[aria-sort]").forEach((other) => other.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const keyed = [...table.tBodies[0].rows].map((row) => {
      const key = row.cells[column].dataset.sort;
      return { row, key, number: key === "" ? NaN : key === "inf" ? Infinity : Number(key) };
    });
    const numeric = keyed.every(({ key, number }) => key === "" || !Number.isNaN(number));
    keyed.sort((a, b) => {
      if ((a.key === "") !== (b.key === "")) return a.key === "" ? 1 : -1; // what is missing stays last
      const order = numeric ? (a.number === b.number ? 0 : a.number - b.number) : a.key.localeCompare(b.key);
      return (ascending ? 1 : -1) * (order || 0);
    });
    table.tBodies[0].append(...keyed.map(({ row }) => row));
  }
  document.querySelectorAll("table.sortable").forEach((table) => {
    const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    headers.forEach((header, column) => {
      header.querySelector("button").addEventListener("click", () => sortBy(table, column, header));
    });
  });
})();
