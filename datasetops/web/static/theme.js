// What all pages have: light, dark or as the system has it, and the menu. Loaded in the head, so that no page flashes.
(() => {
  const root = document.documentElement;
  const kept = () => {
    try {
      return localStorage.getItem("dsops.theme") || "auto";
    } catch {
      return "auto"; // storage is switched off
    }
  };
  const show = (name) => {
    if (name === "light" || name === "dark") root.dataset.theme = name;
    else delete root.dataset.theme;
  };
  show(kept());
  addEventListener("DOMContentLoaded", () => {
    for (const choice of document.querySelectorAll("[data-theme-choice]")) {
      choice.hidden = false;
      for (const input of choice.querySelectorAll("input")) {
        input.checked = input.value === kept();
        input.addEventListener("change", () => {
          try {
            localStorage.setItem("dsops.theme", input.value);
          } catch {
            // it holds for this page
          }
          show(input.value);
        });
      }
    }
    for (const link of document.querySelectorAll("a[data-save]")) {
      link.addEventListener("click", () => {
        const query = new URLSearchParams(location.search); // also what scripts have changed since
        query.set("save", "1");
        link.href = `${location.pathname}?${query}`;
      });
    }
    document.querySelector("[data-sign-out]")?.addEventListener("click", async () => {
      const token = document.querySelector('meta[name="csrf"]').content;
      await fetch("/logout", { method: "POST", headers: { "x-csrf": token } }).catch(() => {});
      location.href = "/login";
    });
    // A menu closes by Escape or by a click beside it.
    for (const menu of document.querySelectorAll("details.menu")) {
      menu.addEventListener("keydown", (event) => {
        if (event.key !== "Escape" || !menu.open) return;
        event.stopPropagation();
        menu.open = false;
        menu.querySelector("summary").focus();
      });
      document.addEventListener("click", (event) => {
        if (!menu.contains(event.target)) menu.open = false;
      });
    }
  });
})();
