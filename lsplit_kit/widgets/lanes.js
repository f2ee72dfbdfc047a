// An HTML widget tells the kernel of no click. This shows the lanes, and says which bar was clicked.
function render({ model, el }) {
  const draw = () => { el.innerHTML = model.get("html"); };
  const click = (event) => {
    const bar = event.target.closest?.("[data-crossing]");
    if (!bar) return;
    // The same bar again is a change too: the count makes it one.
    model.set("clicked", [Number(bar.dataset.crossing), model.get("clicked")[1] + 1]);
    model.save_changes();
  };
  el.addEventListener("click", click);
  model.on("change:html", draw);
  draw();
  return () => { el.removeEventListener("click", click); model.off("change:html", draw); };
}
export default { render };
