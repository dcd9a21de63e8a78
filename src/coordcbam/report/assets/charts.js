"use strict";
// Draws every <div class="chart"> from the page's JSON; colours are the style sheet's, so that a
// change of the reader's theme is a redraw.
(() => {
  const HEIGHT = 190;
  const NEAR = 7; // pixels between the pointer and an event that is told
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const font = () => `12px ${getComputedStyle(document.body).fontFamily}`;
  const made = [];

  const number = (value) => {
    if (value == null) return "–";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
    return value.toFixed(size >= 1000 ? 0 : 3);
  };
  const count = (value) => (value == null ? "–" : Math.round(value).toLocaleString("en-US"));

  function levels(chart) {
    return (u) => {
      const { left, width, top, height } = u.bbox;
      const ctx = u.ctx;
      const ratio = devicePixelRatio || 1;
      ctx.save();
      ctx.font = `${11 * ratio}px ${getComputedStyle(document.body).fontFamily}`;
      ctx.textBaseline = "bottom";
      const named = []; // heights of the names at the right; what is too near stands at the left
      for (const [name, value, colour] of chart.levels) {
        const y = u.valToPos(value, "y", true);
        if (y < top || y > top + height) continue;
        const free = named.every((other) => Math.abs(other - y) >= 16 * ratio);
        if (free) named.push(y);
        ctx.strokeStyle = ctx.fillStyle = css(colour);
        ctx.lineWidth = ratio;
        ctx.setLineDash([2 * ratio, 3 * ratio]);
        ctx.beginPath();
        ctx.moveTo(left, y);
        ctx.lineTo(left + width, y);
        ctx.stroke();
        ctx.textAlign = free ? "right" : "left";
        const x = free ? left + width - 4 * ratio : left + 4 * ratio;
        ctx.fillText(`${name} ${value.toFixed(2)}`, x, y - ratio);
      }
      ctx.restore();
    };
  }

  function events(axis) {
    return (u) => {
      const { left, width, top, height } = u.bbox;
      const ctx = u.ctx;
      const ratio = devicePixelRatio || 1;
      ctx.save();
      ctx.beginPath();
      ctx.rect(left, top, width, height);
      ctx.clip();
      for (const [first, last, kind] of axis.events) {
        const x = u.valToPos(first, "x", true);
        const colour = css({ rescue: "orange", suppressing: "vermilion" }[kind] || "purple");
        ctx.fillStyle = ctx.strokeStyle = colour;
        if (kind === "rescue") {
          const end = u.valToPos(last ?? axis.x[axis.x.length - 1], "x", true);
          ctx.globalAlpha = 0.16;
          ctx.fillRect(x, top, Math.max(end - x, ratio), height);
          ctx.globalAlpha = 1;
        }
        ctx.lineWidth = ratio;
        ctx.beginPath();
        ctx.moveTo(x, top);
        ctx.lineTo(x, top + (kind === "rescue" ? height : 9 * ratio));
        ctx.stroke();
        ctx.beginPath();
        ctx.moveTo(x - 4 * ratio, top);
        ctx.lineTo(x + 4 * ratio, top);
        ctx.lineTo(x, top + 7 * ratio);
        ctx.fill();
      }
      ctx.restore();
    };
  }

  function tell(axis, told) {
    return (u) => {
      const { idx, left } = u.cursor;
      if (idx == null || left < 0) {
        told.textContent = "";
        u.setLegend({ idx: axis.x.length - 1 }); // nobody points: the last values
        return;
      }
      const row = axis.rows[idx];
      const near = axis.events.filter(([first]) => Math.abs(u.valToPos(first, "x") - left) < NEAR);
      const texts = near.slice(0, 3).map(([first, , , text]) => `${count(first)}: ${text}`);
      if (row) texts.unshift(`${data.words.line} ${row}`);
      told.textContent = texts.join(" · ");
    };
  }

  function options(chart, axis, plot, legend, told) {
    const few = axis.x.length <= 30;
    const ink = () => css("soft");
    const grid = { stroke: () => css("rule"), width: 1 };
    return {
      width: Math.max(plot.clientWidth, 200),
      height: HEIGHT,
      cursor: { sync: { key: axis.kind }, drag: { x: true, y: false }, points: { size: 7 } },
      legend: { mount: (_, table) => legend.append(table), markers: { width: 2 } },
      scales: { x: { time: false }, y: { range: () => chart.range } },
      axes: [
        { stroke: ink, font: font(), grid: { show: false }, ticks: grid, size: 34, space: 60,
          incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6],
          values: (_, ticks) => ticks.map((v) => (v >= 1e4 ? `${v / 1e3}k` : count(v))) },
        { stroke: ink, font: font(), grid, ticks: { show: false }, size: 46, space: 36 },
      ],
      series: [
        { label: axis.name, value: (_, v) => count(v) },
        ...chart.lines.map((line) => ({
          label: line.name,
          stroke: () => css(line.colour.length === 1 ? `c${line.colour}` : line.colour),
          width: line.dashed ? 1.2 : 1.8,
          dash: line.dashed ? [5, 4] : undefined,
          points: { show: few, size: 5 },
          spanGaps: chart.bridged,
          value: (_, v) => number(v),
        })),
      ],
      hooks: { drawClear: [events(axis), levels(chart)], setCursor: [tell(axis, told)] },
    };
  }

  for (const chart of data.charts) {
    const place = document.getElementById(chart.id);
    const axis = data.axes[chart.axis];
    const [plot, legend, told] = place.querySelectorAll(".plot, .legend, .told");
    plot.title = data.words.zoom;
    const values = [axis.x, ...chart.lines.map((line) => line.values)];
    const u = new uPlot(options(chart, axis, plot, legend, told), values, plot);
    u.setLegend({ idx: axis.x.length - 1 });
    made.push(u);
    new ResizeObserver(() => {
      const width = Math.max(plot.clientWidth, 200);
      if (width !== u.width) u.setSize({ width, height: HEIGHT });
    }).observe(plot);
  }
  document.documentElement.dataset.charts = made.length;

  const redraw = () => made.forEach((u) => u.redraw(false, true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  // Paper is white.
  addEventListener("beforeprint", () => { document.documentElement.dataset.theme = "light"; redraw(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.theme; redraw(); });
})();
