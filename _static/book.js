// A formula that is wider than its column scrolls; make it reachable for those without a pointer.
(() => {
  const mend = () =>
    document.querySelectorAll('mjx-container[display="true"]').forEach((formula) => {
      if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
      else formula.removeAttribute("tabindex");
    });
  addEventListener("load", () => window.MathJax?.startup?.promise.then(mend));
  addEventListener("resize", mend);
})();
