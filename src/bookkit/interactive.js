/* Draws the book's CircuitsVis figures and mends from outside what CircuitsVis lacks.
 *
 * It comes after CircuitsVis in one script (bookkit.circuitsvis.bundle). A figure holds its data as
 * JSON and a picture; the picture is hidden once there is something in its place, and printed. */
(() => {
  "use strict";
  if (window.bookkitDraw) return window.bookkitDraw(); // a second kernel brought it again

  // One near-white card in both modes, as behind the pictures: the canvas is drawn for white.
  const CSS = `
.bookkit-drawing { background: #fcfcfa; color: #1b1b1b; border-radius: 6px; padding: 8px;
  overflow-x: auto; font: 14px/1.4 system-ui, sans-serif; }
.bookkit-drawing > div:first-child { max-width: 100% !important; padding: 0 15px 0 12px !important; }
.bookkit-drawing h3 { color: #1b1b1b !important; font-size: 14px; font-weight: 600; margin: 0 0 6px !important; }
/* The name of the head stands above its thumbnail, not on it, and once above the large one. */
.bookkit-drawing h2 { display: none; }
.bookkit-drawing h4 { position: static !important; background: none !important;
  color: #1b1b1b !important; font-size: 12px; line-height: 1.3; padding: 1px 4px !important; }
/* Thumbnails: as many as fit the column, not the window. */
.bookkit-drawing .bookkit-heads { display: flex; flex-wrap: wrap; gap: 2px;
  margin: 0 0 12px -3px !important; }
.bookkit-drawing .bookkit-heads > div { flex: 0 0 auto !important;
  width: clamp(58px, 23%, 96px) !important; max-width: 96px !important; }
.bookkit-drawing [role=button] { cursor: pointer; border-radius: 4px; }
.bookkit-drawing [role=button]:focus-visible { outline: 3px solid #bf4f00; }
.bookkit-drawing [role=button][aria-pressed=true] h4 { font-weight: 700; text-decoration: underline; }
.bookkit-drawing .bookkit-large { max-width: min(100%, 34rem) !important; }
.bookkit-drawing .colored-tokens { padding-bottom: 6px !important; line-height: 1.9; }
.bookkit-drawing .colored-tokens > span > span { color: #111 !important; max-width: 100%;
  overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 14px;
  border-color: #d0d0d0 !important; padding: 3px 1px !important; min-height: 1em; }
.bookkit-key { margin: 6px 0 0 12px !important; font-size: 12.5px; color: #404040 !important; }
figure[data-drawn] .bookkit-picture { display: none !important; }
@media print {
  figure[data-drawn] .bookkit-picture { display: block !important; }
  .bookkit-drawing { display: none !important; }
}`;
  const POSITIVE = "#003f7f", NEGATIVE = "#a84300"; // as in bookkit.style
  const TOKEN_POSITIVE = "#56b4e9", TOKEN_NEGATIVE = "#e69f00";
  const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  const escape = (text) => text.replace(/[&<>"]/g, (character) => ENTITIES[character]);
  let count = 0;

  /** Numbers from integers: nested as shape says; a causal pattern holds what is not masked. */
  function unpack({ values, digits, shape, causal }) {
    let next = 0;
    const number = () => Number((values[next++] / 10 ** digits).toFixed(Math.max(digits, 0)));
    const build = ([length, ...rest], row) =>
      Array.from({ length }, (_, i) =>
        rest.length ? build(rest, i) : causal && i > row ? 0 : number());
    return build(shape, 0);
  }

  function propertiesOfAttention(data) {
    const colours = { positiveColor: POSITIVE, negativeColor: NEGATIVE };
    // Drawn on a canvas, as text: nothing to escape.
    return { attention: unpack(data), tokens: data.tokens, maskUpperTri: data.causal,
      maxValue: data.limit, minValue: -data.limit, ...colours };
  }

  const PROPERTIES = {
    AttentionHeads: propertiesOfAttention,
    AttentionPattern: (data) => ({ ...propertiesOfAttention(data), zoomed: true }),
    // Put into the page as HTML by CircuitsVis, so escaped here.
    ColoredTokens: (data) => ({ tokens: data.tokens.map(escape), values: unpack(data),
      minValue: data.low, maxValue: data.high,
      positiveColor: TOKEN_POSITIVE, negativeColor: TOKEN_NEGATIVE }),
  };

  function nameHeads(drawing) {
    const buttons = [...drawing.querySelectorAll("h4")].map((h4) => h4.parentNode.parentNode);
    const press = (pressed) =>
      buttons.forEach((button) => button.setAttribute("aria-pressed", button === pressed));
    buttons.forEach((button, head) => {
      if (button.tabIndex === 0) return;
      button.tabIndex = 0;
      button.setAttribute("role", "button");
      button.setAttribute("aria-label", button.querySelector("h4").textContent);
      button.addEventListener("click", () => press(button));
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation(); // JupyterLab would edit the cell
        button.click();
      });
      if (head === 0) buttons[0].parentNode.parentNode.classList.add("bookkit-heads"), press(button);
    });
  }

  /** Names for what has none, for screen readers and for the style sheet. */
  function mend(figure, drawing, alt) {
    drawing.querySelectorAll("h2, h3, h4").forEach((h) => h.setAttribute("role", "presentation"));
    nameHeads(drawing);
    drawing.querySelectorAll("canvas").forEach((canvas) => {
      const small = canvas.closest("[role=button]");
      canvas.setAttribute(small ? "aria-hidden" : "aria-label", small ? "true" : alt);
      canvas.setAttribute("role", small ? "presentation" : "img");
      if (!small) canvas.parentNode.classList.add("bookkit-large");
    });
    const text = drawing.querySelector(".colored-tokens");
    if (text) text.setAttribute("role", "group"), text.setAttribute("aria-label", alt);
    // The tooltip shows a token as text, where the escapes made for the token itself are too much.
    drawing.querySelectorAll(".colored-tokens strong:not([data-plain])").forEach((strong) => {
      strong.dataset.plain = "";
      const plain = document.createElement("textarea");
      plain.innerHTML = strong.textContent; // a textarea holds text only: nothing runs
      strong.firstChild.data = plain.value;
    });
    if (drawing.querySelector("canvas, .colored-tokens")) figure.dataset.drawn = "";
  }

  function draw(figure) {
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const picture = figure.querySelector(".bookkit-picture");
    const drawing = document.createElement("div");
    const target = document.createElement("div");
    const key = document.createElement("p");
    drawing.className = "bookkit-drawing";
    target.id = `bookkit-target-${count++}`;
    key.className = "bookkit-key";
    key.textContent = data.key;
    drawing.append(target, key);
    picture.after(drawing);
    const mendThis = () => mend(figure, drawing, picture.alt);
    new MutationObserver(mendThis).observe(target, { childList: true, subtree: true });
    window.CircuitsVis.render(target.id, window.CircuitsVis[data.draw], PROPERTIES[data.draw](data));
  }

  window.bookkitDraw = () => {
    const waiting = document.querySelectorAll("figure.bookkit:not([data-started])");
    waiting.forEach((figure) => {
      if (!figure.querySelector("script[type='application/json']")) return;
      figure.dataset.started = "";
      draw(figure);
    });
  };
  const style = document.createElement("style");
  style.textContent = CSS;
  document.head.append(style);
  window.bookkitDraw();
})();
