// ipywidgets gives slider handles no names, and an HTML widget replaces its whole content on every change, which screen
// readers do not announce. This names the handles of the panel it stands in and keeps one live region.
function render({ model, el }) {
  const live = document.createElement("div");
  live.className = "lsplit-said";
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  live.style.cssText = "position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)";
  el.append(live);
  const say = () => { live.textContent = model.get("said"); };
  model.on("change:said", say);
  const name = (tries) => {
    const names = model.get("names");
    const handles = el.closest(model.get("panel"))?.querySelectorAll(model.get("handles")) ?? [];
    if (handles.length < names.length && tries > 0) return setTimeout(name, 100, tries - 1);
    handles.forEach((handle, i) => { if (names[i]) handle.setAttribute("aria-label", names[i]); });
  };
  const rename = () => name(100);
  model.on("change:names", rename);
  rename();
  // In a notebook JupyterLab takes the arrow keys for itself, unless a menu that has the focus asks it not to.
  const menu = ({ target }) => {
    if (target.tagName === "SELECT" && target.closest(model.get("panel"))) target.dataset.lmSuppressShortcuts = "true";
  };
  document.addEventListener("focusin", menu);
  return () => {
    model.off("change:said", say);
    model.off("change:names", rename);
    document.removeEventListener("focusin", menu);
  };
}
export default { render };
