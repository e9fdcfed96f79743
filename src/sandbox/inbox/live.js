// The list of the inbox, kept up to date: asks for it, is answered when it is another one.
"use strict";
(() => {
  const list = document.getElementById("live");
  if (!list || !window.fetch) return;
  let revision = list.dataset.revision;
  let patience = 500;
  const pause = (ms) => new Promise((go) => setTimeout(go, ms));

  const show = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html").body;
    const at = document.activeElement;
    const href = at && list.contains(at) ? at.getAttribute("href") : null;
    list.replaceChildren(...fresh.childNodes);
    const again = href && [...list.querySelectorAll("a")].find((a) => a.getAttribute("href") === href);
    if (again) again.focus({ preventScroll: true });
    const unread = Number(list.querySelector("[data-unread]")?.dataset.unread || 0);
    document.title = document.title.replace(/^\(\d+\) /, "").replace(/^/, unread ? `(${unread}) ` : "");
  };

  const ask = async () => {
    const url = new URL("/inbox/live", location.href);
    new URLSearchParams(location.search).forEach((value, name) => url.searchParams.set(name, value));
    url.searchParams.set("after", revision);
    const answer = await fetch(url, { cache: "no-store" });
    if (!answer.ok) throw new Error(String(answer.status));
    if (answer.status === 200) {
      show(await answer.text());
      revision = answer.headers.get("x-inbox-revision") || revision;
      await pause(150);
    }
  };

  (async () => {
    document.documentElement.classList.add("live");
    for (;;) {
      try {
        if (document.hidden) await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
        const asked = Date.now();
        await ask();
        document.documentElement.classList.remove("lost");
        patience = 500;
        if (Date.now() - asked < 100) await pause(150);
      } catch (_) {
        document.documentElement.classList.add("lost");
        await pause(patience);
        patience = Math.min(patience * 2, 10000);
      }
    }
  })();
})();
